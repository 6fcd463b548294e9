"""The sample services as processes of their own, against a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.commands import CommandReply, CommandRequest
from natsbridge.schemas.envelope import new_id, timestamp
from natsbridge.schemas.subjects import Subjects, decode_id
from tests.support.nats_server import NatsServer, create_stream, settle

CATALOGUE = Catalogue.load()
DEADLINE = 20.0

TYPES = {
    "upload": {"upload.progress", "upload.completed", "upload.error", "upload.cancelled"},
    "review": {"review.created", "review.updated", "review.deleted", "user.status_changed"},
    "files": {"file.processing", "file.ready", "system.notification", "system.maintenance"},
}


@dataclass
class Sample:
    """A sample service that runs; its log is what it wrote to stderr."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()


Start = Callable[..., Sample]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start sample services, and end what a test leaves running."""
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, url: str, prefix: str = "", interval: float = 0.01) -> Sample:
        environment = {
            "PATH": os.environ["PATH"],
            "BRIDGE_NATS_URL": url,
            "BRIDGE_SUBJECT_PREFIX": prefix,
            "BRIDGE_NATS_TIMEOUT": "2",
            "SAMPLE_INTERVAL": str(interval),
        }
        log_file = tmp_path / f"{name}-{len(running)}.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"natsbridge.publishers.samples.{name}"],
                env=environment,
                stderr=log,
            )
        running.append(process)
        return Sample(process, log_file)

    yield start
    for process in running:
        process.kill()
        process.wait()


@dataclass
class Deployment:
    """A prefix of its own on the shared server, with a stream, and a client that hears it."""

    url: str
    prefix: str
    connection: Client
    heard: asyncio.Queue[Msg] = field(default_factory=asyncio.Queue)

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.prefix)

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the next event: its user (empty for others), and the event."""
        message = await asyncio.wait_for(self.heard.get(), DEADLINE)
        address = self.subjects.parse(message.subject)
        kind = CATALOGUE.get(address.event_type)
        assert kind is not None
        kind.check(message.data)
        return address.user and decode_id(address.user), json.loads(message.data)

    async def until(self, event_type: str, user: str = "") -> dict[str, Any]:
        """Return the next event of this type, of this user when one is named."""
        async with asyncio.timeout(DEADLINE):
            while True:
                whose, event = await self.next()
                if event["type"] == event_type and user in ("", whose):
                    return event

    async def cancel(self, user: str, upload: str) -> CommandReply:
        """Ask to cancel an upload as the bridge asks."""
        request = CommandRequest(
            command="upload.cancel",
            user_id=user,
            resource_id=upload,
            id=new_id(),
            timestamp=timestamp(),
            data={"upload_id": upload},
        )
        subject = self.subjects.command("upload.cancel", user, upload)
        payload = request.model_dump_json().encode()
        answer = await self.connection.request(subject, payload, timeout=5)
        return CommandReply.model_validate_json(answer.data)


@pytest.fixture
async def deployment(nats_server: NatsServer) -> AsyncIterator[Deployment]:
    prefix = f"t{uuid4().hex}"
    await create_stream(nats_server.url, name=f"EVENTS_{prefix}", prefix=prefix)
    connection = await nats.connect(nats_server.url)
    deployment = Deployment(nats_server.url, prefix, connection)
    await connection.subscribe(f"{prefix}.live.>", cb=deployment.heard.put)
    await settle(connection)
    yield deployment
    await connection.close()


@pytest.mark.parametrize("name", sorted(TYPES))
async def test_a_sample_publishes_all_of_its_types(
    deployment: Deployment, start: Start, name: str
) -> None:
    """Each service soon shows every type it stands for, all valid, and no others."""
    sample = start(name, deployment.url, deployment.prefix)
    seen: set[str] = set()
    users: set[str] = set()
    async with asyncio.timeout(DEADLINE):
        while seen != TYPES[name]:
            user, event = await deployment.next()
            assert event["type"] in TYPES[name]
            assert event["source"] in ("upload-service", "review-service", "file-service")
            seen.add(event["type"])
            users |= {user} - {""}
    assert users <= {"42", "43"}
    assert sample.process.poll() is None
    assert "Traceback" not in sample.log


def test_the_samples_together_show_every_type_of_the_catalogue() -> None:
    """A demo leaves no event type out."""
    assert set().union(*TYPES.values()) == set(CATALOGUE.types)


async def test_upload_cancel_stops_the_upload(deployment: Deployment, start: Start) -> None:
    """The command is accepted, ``upload.cancelled`` goes to its user, and no progress follows."""
    start("upload", deployment.url, deployment.prefix, interval=0.1)
    event = await deployment.until("upload.progress", "42")
    upload = event["data"]["upload_id"]
    reply = await deployment.cancel("42", upload)
    assert reply.accepted
    cancelled = await deployment.until("upload.cancelled", "42")
    assert cancelled["data"]["upload_id"] == upload
    assert cancelled["data"]["reason"] == "cancelled by its user"
    # The user's next upload shows that the service went on, and this one did not.
    following = await deployment.until("upload.progress", "42")
    assert following["data"]["upload_id"] != upload
    assert (await deployment.cancel("42", upload)).accepted is False


async def test_a_foreign_or_unknown_upload_is_refused_alike(
    deployment: Deployment, start: Start
) -> None:
    """Nobody can stop the upload of another user, or learn whether it exists."""
    start("upload", deployment.url, deployment.prefix, interval=0.1)
    event = await deployment.until("upload.progress", "42")
    upload = event["data"]["upload_id"]
    foreign = await deployment.cancel("43", upload)
    unknown = await deployment.cancel("43", "upload-that-never-was")
    assert (foreign.accepted, foreign.code) == (False, "NOT_PERMITTED")
    assert foreign == unknown
    while True:
        following = await deployment.until("upload.progress", "42")
        if following["data"]["progress"] > event["data"]["progress"]:
            break
    assert following["data"]["upload_id"] == upload


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", sorted(TYPES))
async def test_a_sample_stops_at_once_when_told(
    deployment: Deployment, start: Start, name: str, number: signal.Signals
) -> None:
    """A signal ends it within two seconds, with status 0 and a plain last line."""
    sample = start(name, deployment.url, deployment.prefix, interval=5)
    await deployment.next()
    began = time.monotonic()
    sample.process.send_signal(number)
    assert await asyncio.to_thread(sample.process.wait, 5) == 0
    assert time.monotonic() - began < 2
    assert sample.log.endswith("stopped\n")
    assert "Traceback" not in sample.log


@contextmanager
def frozen(server: NatsServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.mark.parametrize("state", ["away", "frozen"])
async def test_a_sample_stops_at_once_whatever_the_broker_does(
    own_nats_server: NatsServer, start: Start, state: str
) -> None:
    """A signal ends it within two seconds with a broker that is gone, or does not answer."""
    await create_stream(own_nats_server.url)
    sample = start("upload", own_nats_server.url)
    await logged(sample, "completed")
    began = time.monotonic()
    if state == "away":
        own_nats_server.stop()
        await logged(sample, "lost")
        began = time.monotonic()
        sample.process.terminate()
        assert await asyncio.to_thread(sample.process.wait, 5) == 0
    else:
        with frozen(own_nats_server):
            began = time.monotonic()
            sample.process.terminate()
            assert await asyncio.to_thread(sample.process.wait, 5) == 0
    assert time.monotonic() - began < 2


async def test_samples_survive_a_restart_of_the_broker_and_say_so(
    own_nats_server: NatsServer, start: Start
) -> None:
    """They start before the broker, wait for it, and go on after it was killed."""
    url = own_nats_server.url
    own_nats_server.stop()
    samples = [start(name, url) for name in TYPES]
    for sample in samples:
        await logged(sample, "no broker yet")
    own_nats_server.start()
    await create_stream(url, memory=False)
    for sample in samples:
        await logged(sample, "started for users 42, 43")
    own_nats_server.stop(kill=True)
    for sample in samples:
        await logged(sample, "lost")
    own_nats_server.start()
    for sample in samples:
        await logged(sample, "connected to the broker again")
    connection = await nats.connect(url)
    deployment = Deployment(url, "", connection)
    await connection.subscribe("live.>", cb=deployment.heard.put)
    seen: set[str] = set()
    async with asyncio.timeout(DEADLINE):
        while {"upload.completed", "review.created", "file.ready"} - seen:
            seen.add((await deployment.next())[1]["type"])
    await connection.close()
    for sample in samples:
        assert sample.process.poll() is None
        assert "Traceback" not in sample.log


def test_a_wrong_setting_stops_the_start_with_one_line(start: Start) -> None:
    """The message names the variable, and there is no traceback."""
    sample = start("upload", "http://nowhere")
    assert sample.process.wait(10) == 1
    assert "BRIDGE_NATS_URL" in sample.log
    assert sample.log.count("\n") == 1


async def logged(sample: Sample, text: str) -> None:
    """Wait until the service has written this."""
    async with asyncio.timeout(DEADLINE):
        while text not in sample.log:  # another process' file
            assert sample.process.poll() is None, sample.log
            await asyncio.sleep(0.02)
