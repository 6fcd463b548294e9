"""A NATS that knows its users by signed JWTs, and the credentials file that proves one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from natsbridge.bridge.nats.connection import Connection
from natsbridge.publishers import EventPublisher, PublisherSettings
from natsbridge.schemas.bus import BusSettings
from natsbridge.schemas.events import UploadProgress
from tests.support.credentials import operated
from tests.support.faulty import eventually
from tests.support.nats_server import EmbeddedNats

DEADLINE = 10.0


class Reads:
    """Hears of reads, and has nothing to do."""

    def begin(self) -> None:
        """A read begins."""

    def end(self, more: bool) -> None:
        """It is over."""


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return the file of a user of :func:`server`."""
    return tmp_path / "user.creds"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedNats]:
    """Start a server that takes nobody without credentials."""
    config, _ = operated(tmp_path)
    server = EmbeddedNats(tmp_path / "nats", jetstream=False, arguments=("-c", str(config)))
    server.start()
    yield server
    server.close()


@contextmanager
def half_written(path: Path) -> Iterator[None]:
    """Have the end of the file missing."""
    whole = path.read_text()
    path.write_text(whole[:-60])
    try:
        yield
    finally:
        path.write_text(whole)


async def restarted(server: EmbeddedNats, caplog: pytest.LogCaptureFixture) -> None:
    """Restart the server, and return when somebody has tried in vain to connect again."""
    caplog.set_level(logging.DEBUG, "natsbridge.bridge.nats.connection")

    def has_tried() -> bool:
        errors = [str(getattr(record, "error", "")) for record in caplog.records]
        return "can't reconnect" in "\n".join([caplog.text, *errors])

    server.stop()
    server.start()
    await eventually(has_tried, "an attempt", DEADLINE)


async def test_the_bridge_outlives_a_file_that_is_just_being_written(
    server: EmbeddedNats, credentials: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It connects with the file, and again after a break in which the file was not whole."""
    settings = BusSettings(url=(server.url,), timeout=2, credentials=credentials)
    connection = Connection(settings, "test", {}, Reads())
    up = asyncio.Event()
    connection.on_up = (up.set,)
    await connection.open()
    try:
        with half_written(credentials):
            await restarted(server, caplog)
            assert not connection.is_up
        await asyncio.wait_for(up.wait(), DEADLINE)
        await connection.round_trip(2)
    finally:
        await connection.close()


async def test_a_publisher_outlives_a_file_that_is_just_being_written(
    server: EmbeddedNats, credentials: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So does a service, and publishes again."""
    settings = PublisherSettings(url=(server.url,), timeout=2, credentials=credentials)
    async with EventPublisher(settings) as service:
        with half_written(credentials):
            await restarted(server, caplog)
            assert not service.connection.is_connected
        await eventually(lambda: service.connection.is_connected, "connected", DEADLINE)
        [event] = service.prepare(UploadProgress(upload_id="u1", progress=1), to="42")
        await service.send(event)
