"""Answering commands through the SDK, asked over a real broker as the bridge asks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from opentelemetry import trace

from natsbridge.publishers import (
    Command,
    Commands,
    EventPublisher,
    PublisherSettings,
    Refused,
    UploadEvents,
)
from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import CommandReply, CommandRequest
from natsbridge.schemas.envelope import new_id, timestamp
from natsbridge.schemas.subjects import encode_id
from tests.support.nats_server import EmbeddedNats, NatsServer, create_stream, settle


@dataclass
class Bridge:
    """Asks as the bridge does."""

    connection: Client
    settings: PublisherSettings

    def subject(self, user: str, upload: str) -> str:
        tokens = encode_id(user), encode_id(upload)
        return self.settings.subjects.command("upload.cancel", *tokens)

    async def cancel(self, user: str, upload: str, **changes: Any) -> CommandReply:
        """Ask to cancel an upload; ``changes`` make the request disagree with its subject."""
        request = CommandRequest(
            command="upload.cancel",
            user_id=user,
            resource_id=upload,
            id=new_id(),
            timestamp=timestamp(),
            data={"upload_id": upload},
        ).model_copy(update=changes)
        return await self.ask(self.subject(user, upload), request.model_dump_json().encode())

    async def ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> CommandReply:
        answer = await self.connection.request(subject, payload, timeout=5, headers=headers)
        return CommandReply.model_validate_json(answer.data)


@pytest.fixture
def settings(nats_server: NatsServer) -> PublisherSettings:
    """A deployment of its own on the shared server."""
    return PublisherSettings(url=(nats_server.url,), prefix=f"t{uuid4().hex}", timeout=5)


@pytest.fixture
async def publisher(settings: PublisherSettings) -> AsyncIterator[EventPublisher]:
    async with EventPublisher(settings, source="upload-service") as publisher:
        yield publisher


@pytest.fixture
async def bridge(settings: PublisherSettings) -> AsyncIterator[Bridge]:
    connection = await nats.connect(settings.url[0])
    yield Bridge(connection, settings)
    await connection.close()


async def test_a_command_is_accepted_by_returning(
    publisher: EventPublisher, bridge: Bridge
) -> None:
    """The handler gets user and resource decoded, and the client's data."""
    seen: list[Command] = []
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        seen.append(command)

    async with commands:
        reply = await bridge.cancel("user 42", "a/b.c")
    assert reply.accepted
    [command] = seen
    assert (command.name, command.user_id, command.resource_id) == (
        "upload.cancel",
        "user 42",
        "a/b.c",
    )
    assert command.data == {"upload_id": "a/b.c"}


@pytest.mark.parametrize("code", [ErrorCode.COMMAND_FAILED, ErrorCode.NOT_PERMITTED])
async def test_a_command_is_refused_with_a_reason(
    publisher: EventPublisher, bridge: Bridge, code: Any
) -> None:
    """Reason and code reach the asker; a reason that is too long, or no text, is mended."""
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        raise Refused("not yours \ud800" + "!" * 600, code)

    async with commands:
        reply = await bridge.cancel("42", "u1")
    assert (reply.accepted, reply.code) == (False, code)
    assert reply.reason.startswith("not yours ?!")
    assert len(reply.reason) == 512


async def test_a_handler_that_fails_is_logged_once_and_tells_no_details(
    publisher: EventPublisher, bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a service is its owner's to read, not the client's."""
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        raise KeyError("the password of the data base")

    async with commands:
        reply = await bridge.cancel("42", "u1")
    assert (reply.accepted, reply.code) == (False, ErrorCode.COMMAND_FAILED)
    assert reply.reason == "internal error"
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None


async def test_a_handler_over_its_deadline_is_stopped_and_answered(
    publisher: EventPublisher, bridge: Bridge
) -> None:
    """A handler that hangs costs its asker a bounded wait."""
    stopped = asyncio.Event()
    commands = Commands(publisher, deadline=0.05)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with commands:
        reply = await bridge.cancel("42", "u1")
    assert reply.reason == "the service took too long"
    assert stopped.is_set()


async def test_malformed_requests_are_refused_without_a_traceback(
    publisher: EventPublisher, bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is asked gets a refusal, the handler never sees it, and the next one works."""
    commands = Commands(publisher)
    seen: list[Command] = []

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        seen.append(command)

    good = bridge.subject("42", "u1")
    deep = b"[" * 100_000
    async with commands:
        for payload in (b"", b"not json", b"[]", b"{}", b'{"command":7}', b"\xff\xfe", deep):
            reply = await bridge.ask(good, payload)
            assert (reply.accepted, reply.reason) == (False, "malformed request")
        for tail in ("42", "42.u1.more", "4=2.u1", "42.-", "=2d.u1"):
            reply = await bridge.ask(good.replace("42.u1", tail), b"{}")
            assert (reply.accepted, reply.reason) == (False, "malformed request")
        changes: list[dict[str, Any]] = [
            {"user_id": "43"},
            {"resource_id": "u2"},
            {"command": "upload.start"},
            {"data": {"upload_id": "u2"}},
        ]
        for change in changes:
            reply = await bridge.cancel("42", "u1", **change)
            assert (reply.accepted, reply.reason) == (False, "malformed request")
        await bridge.connection.publish(good, b"without a reply subject")
        assert (await bridge.cancel("42", "u1")).accepted
    assert len(seen) == 1
    assert not [each for each in caplog.records if each.exc_info]


async def test_without_a_service_nobody_answers_and_the_asker_knows_at_once(
    publisher: EventPublisher, bridge: Bridge
) -> None:
    """No responders: before the service starts, after it stopped, and for other commands."""
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        """Accept."""

    with pytest.raises(NoRespondersError):
        await bridge.cancel("42", "u1")
    async with commands:
        assert (await bridge.cancel("42", "u1")).accepted
        other = bridge.settings.subjects.command("upload.pause", "42", "u1")
        with pytest.raises(NoRespondersError):
            await bridge.ask(other, b"{}")
    with pytest.raises(NoRespondersError):
        await bridge.cancel("42", "u1")


async def test_replicas_share_the_commands(
    publisher: EventPublisher, bridge: Bridge, settings: PublisherSettings
) -> None:
    """Each command is handled by one replica, and both get some."""
    counts = [0, 0]
    async with EventPublisher(settings) as second:
        replicas = Commands(publisher), Commands(second)

        def count(number: int, commands: Commands) -> None:
            @commands.on("upload.cancel")
            async def cancel(command: Command) -> None:
                counts[number] += 1

        for number, commands in enumerate(replicas):
            count(number, commands)
        async with replicas[0], replicas[1]:
            replies = await asyncio.gather(*(bridge.cancel("42", f"u{n}") for n in range(100)))
    assert all(reply.accepted for reply in replies)
    assert sum(counts) == 100
    assert all(counts)


async def test_what_is_over_the_bound_is_refused_at_once(
    publisher: EventPublisher, bridge: Bridge
) -> None:
    """A flood of commands queues nothing; those that run are answered."""
    go = asyncio.Event()
    running = asyncio.Semaphore(0)
    commands = Commands(publisher, max_running=2)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        running.release()
        await go.wait()

    async with commands:
        first = [asyncio.create_task(bridge.cancel("42", f"u{n}")) for n in range(2)]
        await running.acquire()
        await running.acquire()
        busy = await bridge.cancel("42", "u3")
        assert (busy.accepted, busy.code) == (False, ErrorCode.COMMAND_FAILED)
        assert "busy" in busy.reason
        go.set()
        assert all([(await task).accepted for task in first])
        assert (await bridge.cancel("42", "u4")).accepted


async def test_stopping_answers_what_still_runs(publisher: EventPublisher, bridge: Bridge) -> None:
    """An asker is told that the service stops instead of waiting for its own timeout."""
    running = asyncio.Event()
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        running.set()
        await asyncio.Event().wait()

    async with commands:
        asking = asyncio.create_task(bridge.cancel("42", "u1"))
        await running.wait()
    assert (await asking).reason == "the service is stopping"


async def test_a_handler_publishes_and_the_trace_goes_on(
    publisher: EventPublisher, bridge: Bridge, settings: PublisherSettings
) -> None:
    """What a handler publishes belongs to the trace of the command; other tasks see nothing."""
    await create_stream(settings.url[0], name=f"S_{settings.prefix}", prefix=settings.prefix)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    await bridge.connection.subscribe(f"{settings.prefix}.live.>", cb=heard.put)
    await settle(bridge.connection)
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        await UploadEvents(publisher).cancelled(command.resource_id, to=command.user_id)

    traceparent = f"00-{0xA1:032x}-{0xB2:016x}-01"
    request = {
        "command": "upload.cancel",
        "user_id": "42",
        "resource_id": "u1",
        "id": "c1",
        "timestamp": timestamp(),
    }
    async with commands:
        reply = await bridge.ask(
            bridge.subject("42", "u1"), json.dumps(request).encode(), {"traceparent": traceparent}
        )
    assert reply.accepted
    message = await asyncio.wait_for(heard.get(), 5)
    assert message.headers["traceparent"] == traceparent
    assert json.loads(message.data)["type"] == "upload.cancelled"
    assert not trace.get_current_span().get_span_context().is_valid


async def test_commands_are_answered_again_after_a_restart_of_the_broker(
    own_nats_server: NatsServer,
) -> None:
    """The subscription comes back with the connection, without the service doing anything."""
    settings = PublisherSettings(url=(own_nats_server.url,), timeout=10)
    async with EventPublisher(settings) as publisher:
        commands = Commands(publisher)

        @commands.on("upload.cancel")
        async def cancel(command: Command) -> None:
            """Accept."""

        async with commands:
            own_nats_server.stop(kill=True)
            own_nats_server.start()
            connection = await nats.connect(own_nats_server.url)
            try:
                reply = await until_answered(Bridge(connection, settings))
            finally:
                await connection.close()
    assert reply.accepted


async def until_answered(bridge: Bridge) -> CommandReply:
    """Ask until the service is there again."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await bridge.cancel("42", "u1")
            except NoRespondersError:
                await asyncio.sleep(0.02)


async def test_with_a_spool_the_start_goes_on_without_a_broker(tmp_path: Path) -> None:
    """Publisher and commands start while the broker is away; both work once it is there, and over
    a restart of it.
    """
    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    server.stop()
    settings = PublisherSettings(url=(server.url,), spool=tmp_path / "spool", timeout=1)
    publisher = EventPublisher(settings, source="upload-service")
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        """Accept."""

    async def accepted() -> bool:
        connection = await nats.connect(server.url)
        try:
            return (await Bridge(connection, settings).cancel("42", "u1")).accepted
        except NoRespondersError:
            return False
        finally:
            await connection.close()

    try:
        async with publisher, commands:
            for _ in range(2):
                server.start()
                async with asyncio.timeout(20):
                    while not await accepted():  # noqa: ASYNC110  # nothing tells when it is
                        await asyncio.sleep(0.05)
                server.stop()
    finally:
        server.close()


async def test_commands_that_start_in_an_outage_are_answered_after_it(tmp_path: Path) -> None:
    """What is subscribed to while the connection is lost is subscribed to when it is back."""
    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    settings = PublisherSettings(url=(server.url,), spool=tmp_path / "spool", timeout=1)
    publisher = EventPublisher(settings, source="upload-service")
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        """Accept."""

    try:
        async with publisher:
            server.stop()
            async with asyncio.timeout(20):
                while publisher.connection.is_connected:  # noqa: ASYNC110  # no event for it
                    await asyncio.sleep(0.01)
            async with commands:
                server.start()
                await publisher.connection.ready(asyncio.get_running_loop().time() + 20)
                connection = await nats.connect(server.url)
                async with asyncio.timeout(20):
                    while True:
                        try:
                            reply = await Bridge(connection, settings).cancel("42", "u1")
                            break
                        except NoRespondersError:
                            await asyncio.sleep(0.05)
                assert reply.accepted
                await connection.close()
    finally:
        server.close()
