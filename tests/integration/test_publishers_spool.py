"""The publisher's spool against real brokers and real crashes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from natsbridge.publishers import EventPublisher, PublisherSettings, Spool, UploadEvents
from natsbridge.schemas.events import UploadCompleted
from tests.support.nats_server import EmbeddedNats, NatsServer, create_stream

DEADLINE = 30.0

SERVICE = """
import asyncio, itertools, sys
from natsbridge.publishers import EventPublisher, PublisherSettings, UploadEvents

async def main():
    url, spool, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    settings = PublisherSettings(url=(url,), spool=spool, timeout=1)
    async with EventPublisher(settings) as publisher:
        uploads = UploadEvents(publisher)
        for number in itertools.count(first, 8):
            numbers = range(number, number + 8)
            for [receipt] in await asyncio.gather(*(
                uploads.completed(f"u{n % 5}", {}, to="42", event_id=f"e{n:06}") for n in numbers
            )):
                print(receipt.id, flush=True)

asyncio.run(main())
"""


def settings(server: NatsServer, path: Path, **more: object) -> PublisherSettings:
    values = {"url": (server.url,), "spool": path, "timeout": 5.0} | more
    return PublisherSettings.model_validate(values)


def spool(publisher: EventPublisher) -> Spool:
    assert publisher.spool is not None
    return publisher.spool


async def emptied(publisher: EventPublisher) -> None:
    async with asyncio.timeout(DEADLINE):
        await spool(publisher).emptied()


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait until the log has these words."""
    async with asyncio.timeout(DEADLINE):
        while words not in caplog.text:  # noqa: ASYNC110  # nothing tells of a line in the log
            await asyncio.sleep(0.01)


async def ids(server: NatsServer, stream: str = "EVENTS") -> list[str]:
    """Return the ids of all that the stream holds, in its order."""
    connection = await nats.connect(server.url)
    try:
        info = await connection.jetstream().stream_info(stream)
        found = []
        for sequence in range(1, info.state.last_seq + 1):
            message = await connection.jetstream().get_msg(stream, sequence, direct=True)
            assert message.headers is not None
            found.append(message.headers["Nats-Msg-Id"])
        return found
    finally:
        await connection.close()


async def make_stream(server: NatsServer, **more: object) -> None:
    """Make a stream whose memory of ids ends soon, so that it hides no event that comes twice."""
    connection = await nats.connect(server.url)
    try:
        config = {"duplicate_window": 0.1, "allow_direct": True} | more
        await connection.jetstream().add_stream(
            StreamConfig(name="EVENTS", subjects=["events.>"], **config)
        )
    finally:
        await connection.close()


@contextmanager
def service(server: NatsServer, path: Path, first: int) -> Iterator[subprocess.Popen[str]]:
    """Run a service that publishes for ever and prints the id of each event that it is rid of."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, server.url, str(path), str(first)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_a_broker_that_is_killed_costs_no_event_and_no_order(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """2,000 events are published while the broker is killed three times: each is in the stream
    once, in the order of publishing."""
    await create_stream(own_nats_server.url, memory=False)
    published: list[str] = []
    # Short, so that what a killed broker leaves behind is not waited for.
    async with EventPublisher(settings(own_nats_server, tmp_path / "s.db", timeout=1)) as own:
        uploads = UploadEvents(own)
        for number in range(100):
            batch = [f"e{number * 20 + n:06}" for n in range(20)]
            await asyncio.gather(
                *(uploads.completed(f"u{each[-1]}", {}, to="42", event_id=each) for each in batch)
            )
            published += batch
            if number in (20, 50, 80):
                await asyncio.to_thread(own_nats_server.stop, kill=True)
            elif number in (30, 60, 90):
                await asyncio.to_thread(own_nats_server.start)
        await emptied(own)
    assert len(published) == 2000
    assert await ids(own_nats_server) == published


@pytest.mark.parametrize("broker", ["there", "away"])
async def test_a_process_that_is_killed_loses_nothing_that_it_published(
    own_nats_server: NatsServer, tmp_path: Path, broker: str
) -> None:
    """A service is killed (SIGKILL) again and again amid its publishing, with and without its
    broker. What publish had returned for is in the stream once and in order, although the stream
    has forgotten the ids of one process before the next is there."""
    await make_stream(own_nats_server)
    path = tmp_path / "s.db"
    told: list[str] = []
    for round_ in range(4):
        if broker == "away" and round_ == 3:
            await asyncio.to_thread(own_nats_server.stop, kill=True)
        with service(own_nats_server, path, round_ * 10_000) as process:
            assert process.stdout is not None
            lines = process.stdout
            told += [await asyncio.to_thread(lines.readline) for _ in range(100 + 37 * round_)]
            process.send_signal(signal.SIGKILL)
            told += await asyncio.to_thread(lines.readlines)
    await asyncio.to_thread(own_nats_server.start)
    async with EventPublisher(settings(own_nats_server, path)) as own:
        await emptied(own)
    # A line that the kill has cut is no promise.
    promised = {line.strip() for line in told if line.endswith("\n")}
    stored = await ids(own_nats_server)
    assert stored == sorted(set(stored))
    assert len(promised) >= 600
    assert promised <= set(stored)


async def test_an_acknowledgement_that_an_outage_swallowed_does_not_double_the_event(
    own_nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker freezes with an event on its way, stores it when it wakes, and has forgotten its
    id by the time that the publisher is back: the stream is asked, and holds it once."""
    await make_stream(own_nats_server)
    async with EventPublisher(settings(own_nats_server, tmp_path / "s.db", timeout=0.5)) as own:
        uploads = UploadEvents(own)
        await uploads.completed("u1", {}, to="42", event_id="e1")
        await emptied(own)
        own_nats_server.pause()
        await uploads.completed("u1", {}, to="42", event_id="e2")
        await uploads.completed("u1", {}, to="42", event_id="e3")
        # Half a second for the acknowledgement is longer than the stream remembers ids.
        await logged(caplog, "no acknowledgement")
        assert spool(own).waiting == 2
        own_nats_server.resume()
        await emptied(own)
    assert await ids(own_nats_server) == ["e1", "e2", "e3"]


async def test_the_stream_s_own_limit_makes_an_event_poison(
    own_nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that is too large for the stream is put aside with the server's words, the others
    pass, and it goes out once the stream takes it."""
    await make_stream(own_nats_server, max_msg_size=1000)
    async with EventPublisher(settings(own_nats_server, tmp_path / "s.db")) as own:
        uploads = UploadEvents(own)
        await uploads.completed("u1", {}, to="42", event_id="e1")
        await uploads.completed("u1", {"x": "swordfish" * 200}, to="42", event_id="e2")
        await uploads.completed("u1", {}, to="42", event_id="e3")
        await emptied(own)
        [refused] = await spool(own).refused()
        assert (refused.event.id, refused.event.type) == ("e2", "upload.completed")
        assert "message size exceeds" in refused.reason
        assert "swordfish" not in caplog.text
        connection = await nats.connect(own_nats_server.url)
        await connection.jetstream().update_stream(
            StreamConfig(
                name="EVENTS",
                subjects=["events.>"],
                duplicate_window=0.1,
                allow_direct=True,
                max_msg_size=10_000,
            )
        )
        await connection.close()
        await spool(own).retry([refused.position])
        await emptied(own)
    assert await ids(own_nats_server) == ["e1", "e3", "e2"]


async def test_the_broker_s_own_limit_makes_an_event_poison(tmp_path: Path) -> None:
    """An event over ``max_payload`` by its headers alone does not cut the connection again and
    again."""
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 2000")
    server = EmbeddedNats(tmp_path / "nats", arguments=("-c", str(config)))
    server.start()
    try:
        await create_stream(server.url)
        async with EventPublisher(settings(server, tmp_path / "s.db")) as own:
            uploads = UploadEvents(own)
            [event] = own.prepare(UploadCompleted(upload_id="u1", result={"x": ""}), to="42")
            alone = "x" * (2000 - len(event.payload))
            await uploads.completed("u1", {"x": alone}, to="42")
            await uploads.completed("u1", {"x": alone[:1000]}, to="42", event_id="e2")
            await uploads.completed("u1", {}, to="42", event_id="e3")
            await emptied(own)
            [refused] = await spool(own).refused()
        assert "max_payload" in refused.reason
        assert await ids(server) == ["e2", "e3"]
    finally:
        server.close()


async def test_a_service_without_permissions_for_lookups_still_gets_its_events_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the permissions to publish alone the spool works, and the log tells what is missing."""
    config = tmp_path / "nats.conf"
    config.write_text(
        """
        authorization { users = [
          { user: admin, password: a }
          { user: svc, password: s, permissions: {
              publish: ["events.user.*.upload.>"], subscribe: ["_INBOX.>"] } }
        ] }
        """
    )
    server = EmbeddedNats(tmp_path / "nats", arguments=("-c", str(config)))
    server.start()
    try:
        admin = server.url.replace("nats://", "nats://admin:a@")
        await create_stream(admin, memory=False)
        given = settings(server, tmp_path / "s.db", user="svc", password="s", timeout=0.5)
        async with EventPublisher(given) as own:
            uploads = UploadEvents(own)
            await uploads.completed("u1", {}, to="42", event_id="e1")
            await emptied(own)
            server.pause()
            await uploads.completed("u1", {}, to="42", event_id="e2")
            await logged(caplog, "no acknowledgement")
            server.resume()
            await emptied(own)
            [] = await spool(own).refused()
        assert "may be stored twice after an outage" in caplog.text
        assert "$JS.API.DIRECT.GET.EVENTS" in caplog.text
        server.url = admin
        assert await ids(server) == ["e1", "e2"]
    finally:
        server.close()


def test_a_second_process_with_the_file_is_refused(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """It ends with an error that says why, and the first goes on."""
    path = tmp_path / "s.db"
    with service(own_nats_server, path, 0) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "e000000\n"
        second = subprocess.run(
            [sys.executable, "-c", SERVICE, own_nats_server.url, str(path), "0"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert second.returncode == 1
        assert f"SpoolLocked: {path} is in use by another publisher" in second.stderr
        assert first.stdout.readline() == "e000001\n"
        assert first.poll() is None


async def test_a_full_stream_is_waited_for_and_order_is_kept(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """A stream that takes no more for now refuses no event for good."""
    await make_stream(own_nats_server, max_msgs=2, discard="new")
    async with EventPublisher(settings(own_nats_server, tmp_path / "s.db")) as own:
        uploads = UploadEvents(own)
        for n in range(1, 5):
            await uploads.completed("u1", {}, to="42", event_id=f"e{n}")
        connection = await nats.connect(own_nats_server.url)
        jetstream = connection.jetstream()
        async with asyncio.timeout(DEADLINE):
            while spool(own).waiting > 2:  # noqa: ASYNC110  # the forwarder's own progress
                await asyncio.sleep(0.01)
        for sequence in (1, 2):
            await jetstream.delete_msg("EVENTS", sequence)
        await emptied(own)
        last = [await jetstream.get_msg("EVENTS", seq=sequence) for sequence in (3, 4)]
        await connection.close()
    assert [json.loads(message.data or b"")["id"] for message in last] == ["e3", "e4"]
