"""``upload.cancel`` becomes a request to the service over NATS, and its answer comes back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.aio.msg import Msg

from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import CommandReply, CommandRequest
from natsbridge.schemas.subjects import encode_id
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, to_user
from tests.support.clients import Clients, new_user

CANCEL = "upload.cancel"
TIMEOUT = 2.0


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """A shorter wait for services, so that a silent one is noticed sooner."""
    return {"BRIDGE_NATS_TIMEOUT": str(TIMEOUT)}


@contextlib.asynccontextmanager
async def service(
    bus: Bus, user: str, answer: Callable[[Msg], Awaitable[None]]
) -> AsyncIterator[None]:
    """Answer one user's commands during the block."""
    subject = bus.subjects.command(CANCEL, encode_id(user), "*")
    subscription = await bus.connection.subscribe(subject, cb=answer)
    await bus.settle()
    yield
    await subscription.unsubscribe()


def replying(reply: CommandReply | bytes, asked: list[Msg]) -> Callable[[Msg], Awaitable[None]]:
    """Return a service that notes what it was asked and always answers the same."""
    payload = reply if isinstance(reply, bytes) else reply.model_dump_json().encode()

    async def answer(message: Msg) -> None:
        asked.append(message)
        await message.respond(payload)

    return answer


@pytest.mark.parametrize("user", ["plain", "a.b@example.com *"])
@pytest.mark.parametrize("upload", ["upload_456", "a b/ü.>"])
async def test_command_is_accepted(bridge: BridgeProcess, user: str, upload: str) -> None:
    """The service gets the command in its contract's form, and the client gets its word."""
    user = new_user(user)
    asked: list[Msg] = []
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(user)
        async with service(bus, user, replying(CommandReply(accepted=True), asked)):
            answer = await client.ask(CANCEL, {"upload_id": upload})
        assert answer["type"] == "command.accepted"
        assert answer["data"] == {"command": CANCEL, "upload_id": upload}
        await client.ping()
    (message,) = asked
    assert bus.subjects.parse_command(message.subject) == (CANCEL, user, upload)
    request = CommandRequest.model_validate_json(message.data)
    assert (request.command, request.user_id, request.resource_id) == (CANCEL, user, upload)
    assert request.id
    assert request.timestamp


async def test_command_without_an_id(bridge: BridgeProcess) -> None:
    """A command that has no ``id`` is answered without ``reply_to``."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        async with service(bus, client.user, replying(CommandReply(accepted=True), [])):
            await client.send(CANCEL, {"upload_id": "1"})
            assert "reply_to" not in await client.expect("command.accepted")


@pytest.mark.parametrize("code", [ErrorCode.COMMAND_FAILED, ErrorCode.NOT_PERMITTED])
async def test_command_is_refused(bridge: BridgeProcess, code: ErrorCode) -> None:
    """The service's refusal comes as an error, with its reason in words."""
    reply = CommandReply.model_validate(
        {"accepted": False, "code": code, "reason": "That upload is over: 100 %"}
    )
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        async with service(bus, client.user, replying(reply, [])):
            await client.send(CANCEL, {"upload_id": "1"}, "c1")
            error = await client.expect_error(code, "c1")
            assert "That upload is over: 100 %" in error["data"]["message"]
        await client.ping()


async def test_event_follows_the_command(bridge: BridgeProcess) -> None:
    """The service's ``upload.cancelled`` reaches the client."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()

        async def cancel(message: Msg) -> None:
            await message.respond(CommandReply(accepted=True).model_dump_json().encode())
            await bus.publish(to_user(client.user, "upload.cancelled", "1"))

        async with service(bus, client.user, cancel):
            await client.send(CANCEL, {"upload_id": "1"})
            types = {(await client.receive())["type"] for _ in range(2)}
            assert types == {"command.accepted", "upload.cancelled"}


async def test_no_service(bridge: BridgeProcess) -> None:
    """With nobody there the client is told at once, not after the wait for an answer."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        before = time.monotonic()
        await client.send(CANCEL, {"upload_id": "1"}, "c1")
        await client.expect_error("SERVICE_UNAVAILABLE", "c1")
        assert time.monotonic() - before < TIMEOUT
        await client.ping()


async def test_commands_that_wait_are_few(bridge: BridgeProcess) -> None:
    """Ten of a connection wait for a service; the eleventh is refused at once, and the service is
    not asked. Once they are answered the next may go.
    """
    asked: list[Msg] = []

    async def hesitate(message: Msg) -> None:
        asked.append(message)

    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        async with service(bus, client.user, hesitate):
            for number in range(10):
                await client.send(CANCEL, {"upload_id": "1"}, f"c{number}")
            await client.send(CANCEL, {"upload_id": "1"}, "over")
            await client.expect_error("COMMAND_FAILED", "over")
            for number in range(10):
                await client.expect_error("SERVICE_UNAVAILABLE", f"c{number}")
            assert len(asked) == 10
            await client.send(CANCEL, {"upload_id": "1"}, "next")
            await client.expect_error("SERVICE_UNAVAILABLE", "next")
            assert len(asked) == 11


async def test_silent_service(bridge: BridgeProcess) -> None:
    """A service that does not answer is given up in time, and holds up nobody meanwhile."""

    async def silence(message: Msg) -> None:
        pass

    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        async with service(bus, client.user, silence):
            before = time.monotonic()
            await client.send(CANCEL, {"upload_id": "1"}, "c1")
            await client.ping()
            event = await bus.marker(client.user)
            await client.expect_event(event)
            assert time.monotonic() - before < TIMEOUT
            await client.expect_error("SERVICE_UNAVAILABLE", "c1")
            assert TIMEOUT * 0.9 < time.monotonic() - before < TIMEOUT + 1
        await client.ping()


@pytest.mark.parametrize(
    ("payload", "headers", "code", "words"),
    [
        (b'{"accepted": true, "code": null, "reason": null}', None, None, ""),
        (b'{"accepted": false, "code": null, "reason": "no"}', None, "COMMAND_FAILED", "no"),
        (b'{"accepted": false, "code": "GONE", "reason": "no"}', None, "COMMAND_FAILED", "no"),
        (
            b'{"accepted": false, "reason": "' + b"n" * 600 + b'"}',
            None,
            "COMMAND_FAILED",
            "n" * 512,
        ),
        (
            b"",
            {"Nats-Service-Error": "zu spät", "Nats-Service-Error-Code": "409"},
            "COMMAND_FAILED",
            "zu spät",
        ),
        (b"{}", {"Nats-Service-Error-Code": "403"}, "NOT_PERMITTED", "refused"),
    ],
)
async def test_services_of_other_languages(
    bridge: BridgeProcess,
    payload: bytes,
    headers: dict[str, str] | None,
    code: str | None,
    words: str,
) -> None:
    """What Jackson, serde and NATS's own services write is understood."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()

        async def answer(message: Msg) -> None:
            await bus.connection.publish(message.reply, payload, headers=headers)

        async with service(bus, client.user, answer):
            reply = await client.ask(CANCEL, {"upload_id": "1"})
        if code is None:
            assert reply["type"] == "command.accepted"
        else:
            assert reply["data"]["code"] == code
            assert words in reply["data"]["message"]


@pytest.mark.parametrize(
    "reply", [b"", b"yes", b"[]", b"{}", b'{"accepted": "yes"}', b'{"accepted": 1}', b"\xff"]
)
async def test_garbage_from_a_service(bridge: BridgeProcess, reply: bytes) -> None:
    """An answer that can't be read is a failed command, and its bytes stay inside."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        async with service(bus, client.user, replying(reply, [])):
            answer = await client.ask(CANCEL, {"upload_id": "1"})
        assert answer["type"] == "error"
        assert answer["data"]["code"] in ("COMMAND_FAILED", "INTERNAL_ERROR")
        await client.ping()


@pytest.mark.parametrize(
    "command",
    [{"deny": ["upload.cancel"]}, {"deny": [">"]}, {"allow": []}, {"allow": ["review.*"]}],
)
async def test_command_outside_the_grants(
    bridge: BridgeProcess, command: dict[str, list[str]]
) -> None:
    """What the token does not permit is refused, and the service is not asked."""
    if "allow" not in command:
        command = {"allow": [">"], **command}
    asked: list[Msg] = []
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        denied = await clients.join(user, grants={"command": command})
        free = await clients.join(user)
        async with service(bus, user, replying(CommandReply(accepted=True), asked)):
            await denied.send(CANCEL, {"upload_id": "denied"}, "c1")
            await denied.expect_error("NOT_PERMITTED", "c1")
            await free.send(CANCEL, {"upload_id": "free"})
            await free.expect("command.accepted")
        subjects = [bus.subjects.parse_command(message.subject)[2] for message in asked]
        assert subjects == ["free"]


async def test_command_grant_of_one_resource(bridge: BridgeProcess) -> None:
    """Grants of commands reach down to the resource."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        command = {"allow": ["upload.cancel"], "deny": ["upload.cancel.77"]}
        client = await clients.join(grants={"command": command})
        async with service(bus, client.user, replying(CommandReply(accepted=True), [])):
            await client.send(CANCEL, {"upload_id": "77"}, "c1")
            await client.expect_error("NOT_PERMITTED", "c1")
            await client.send(CANCEL, {"upload_id": "78"})
            await client.expect("command.accepted")


async def test_command_needs_an_id_that_fits(bridge: BridgeProcess) -> None:
    """An upload id that no subject can carry is refused by name."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        await client.send(CANCEL, {"upload_id": "ü" * 128}, "c1")
        await client.expect_error("INVALID_MESSAGE_FORMAT", "c1")
        await client.ping()
