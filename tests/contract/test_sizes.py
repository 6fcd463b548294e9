"""What is announced as ``max_message_size`` holds for what the bridge sends, cursor included.

The clients here read no message over it, as many a library does by default.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect

from natsbridge.schemas.cursors import CURSOR_ROOM
from natsbridge.schemas.envelope import new_id
from natsbridge.schemas.subjects import Address, Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, envelope, next_message, to_user
from tests.support.clients import Client, allow, mint, new_user

LIMIT = 64 * 1024
ANSWERS = ("subscription.acknowledged", "unsubscription.acknowledged", "auth.refreshed", "error")


@asynccontextmanager
async def strict(
    bridge: BridgeProcess, user: str, cursor: str | None = None
) -> AsyncIterator[Client]:
    """Connect a client that closes with 1009 at a message over the announced limit."""
    query = "" if cursor is None else f"?cursor={cursor}"
    url = f"{bridge.ws_url}/ws/{mint(user)}{query}"
    async with connect(url, max_size=LIMIT, compression=None, proxy=None) as socket:
        client = Client(socket, user)
        client.established = await client.expect("connection.established")
        assert client.established["data"]["limits"]["max_message_size"] == LIMIT
        yield client


def sized(address: Address, size: int) -> tuple[str, bytes]:
    """Return the id and the text of an event that is so large."""
    event = envelope(address, {"message": "", "level": "info"}, id=new_id())
    event["data"]["message"] = "x" * (size - len(json.dumps(event).encode()))
    text = json.dumps(event).encode()
    assert len(text) == size
    return event["id"], text


async def test_a_stored_event_is_delivered_up_to_the_byte(bridge: BridgeProcess) -> None:
    """Live, and again in each resume after a reset; one byte more is rejected, with a reason that
    says how large it may be, and is not what breaks the next resume.
    """
    async with Bus(bridge) as bus:
        user = new_user()
        address = to_user(user, "system.notification")
        subject = bus.subjects.event(Root.EVENTS, address)
        rejected = await bus.watch_rejected()
        async with strict(bridge, user) as client:
            before = client.established["data"]["cursor"]
            largest, text = sized(address, LIMIT - CURSOR_ROOM)
            await bus.store(subject, text)
            event = await client.expect_event(largest)
            assert event["cursor"]
            _, text = sized(address, LIMIT - CURSOR_ROOM + 1)
            await bus.store(subject, text)
            headers = (await next_message(rejected)).headers
            assert headers is not None
            assert headers["Bridge-Reject-Reason"] == "TOO_LARGE"
            assert str(LIMIT - CURSOR_ROOM) in headers["Bridge-Reject-Detail"]
            marker = await bus.publish(address, root=Root.EVENTS)
            [gap] = await client.until(marker)
            assert gap["data"]["reason"] == "INVALID_EVENT"
            client.socket.transport.abort()
        for _ in range(2):
            async with strict(bridge, user, before) as client:
                messages = await client.until_closed_or("resume.completed")
                ids = [each["id"] for each in messages if "cursor" in each]
                assert ids == [largest, marker]
                assert client.socket.close_code is None


async def test_an_ephemeral_event_may_be_as_large_as_announced(bridge: BridgeProcess) -> None:
    """It has no cursor. One byte more is rejected."""
    async with Bus(bridge) as bus:
        user = new_user()
        address = to_user(user, "system.notification")
        subject = bus.subjects.event(Root.SERVICE, address)
        rejected = await bus.watch_rejected()
        async with strict(bridge, user) as client:
            largest, text = sized(address, LIMIT)
            await bus.raw(subject, text)
            await client.expect_event(largest)
            await bus.raw(subject, sized(address, LIMIT + 1)[1])
            headers = (await next_message(rejected)).headers
            assert headers is not None
            assert headers["Bridge-Reject-Reason"] == "TOO_LARGE"
            await client.ping()


@pytest.mark.parametrize("message_id", ["m", "\x01" * 128])
async def test_the_largest_answers(bridge: BridgeProcess, message_id: str) -> None:
    """128 patterns of the largest length, acknowledged, given up, and taken away by other grants,
    by a client whose ``id`` is escaped six times as long: each answer is one it can read.
    """
    user = new_user()
    events = [f"upload.completed.{number:0128d}" for number in range(128)]
    async with strict(bridge, user) as client:
        for _ in range(2):
            await client.send("subscribe", {"events": events}, message_id)
            assert (await client.expect("subscription.acknowledged"))["data"]["events"] == events
        await client.send("subscribe", {"events": ["x" * 300] * 200}, message_id)
        await client.expect("subscription.acknowledged")
        await client.expect("error")
        token = mint(user, grants=allow("review.*"))
        await client.send("auth.refresh", {"token": token}, message_id)
        assert (await client.expect("auth.refreshed"))["data"]["removed"] == events
        await client.send("unsubscribe", {"events": events}, message_id)
        await client.receive()
        await client.send("ping", {"pingId": "\x01" * 256}, message_id)
        await client.expect("pong")
