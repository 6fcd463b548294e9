"""A client that knows the first version of the protocol alone: ``/ws/{token}``, its messages, its
limits.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, to_user, topic
from tests.support.clients import Client, Clients, Message, mint, new_user

ADDED = {"expires_at", "cursor", "resume"}
"""What has been added to ``connection.established`` since."""


def is_recent(timestamp: str) -> bool:
    """Whether this is an RFC 3339 time in UTC of just now."""
    moment = datetime.fromisoformat(timestamp)
    assert moment.utcoffset() is not None
    return abs((datetime.now(UTC) - moment).total_seconds()) < 30


async def seed_send(client: Client, kind: str, data: dict[str, Any]) -> None:
    """Send a message as such a client writes it: with a timestamp and an id."""
    await client.send_raw(
        f'{{"type": "{kind}", "data": {data!r}, '.replace("'", '"')
        + '"timestamp": "2025-01-08T10:30:00Z", "id": "msg_123"}'
    )


async def test_established(bridge: BridgeProcess) -> None:
    """The first message is ``connection.established`` with the fields and values of then."""
    async with Clients(bridge.url) as clients:
        user = new_user()
        client = await clients.connect(mint(user))
        message = await client.expect("connection.established")
    assert set(message) == {"type", "data", "timestamp", "id"}
    assert is_recent(message["timestamp"])
    data = message["data"]
    seed = {"connection_id", "user_id", "server_time", "features", "limits"}
    assert seed <= set(data) <= seed | ADDED
    assert data["user_id"] == user
    assert data["connection_id"]
    assert is_recent(data["server_time"])
    features = {"heartbeat", "subscriptions", "rate_limiting", "message_validation"}
    assert features <= set(data["features"])
    assert data["limits"] == {
        "max_message_size": 64 * 1024,
        "rate_limit_messages": 100,
        "rate_limit_window": 60,
        "heartbeat_interval": 30,
        "connection_timeout": 60,
        "max_subscriptions": 128,
        "subscription_units": 8192,
        "replay_messages": 100_000,
    }


async def test_connection_ids_differ(bridge: BridgeProcess) -> None:
    """Two connections of one user have two ids."""
    async with Clients(bridge.url) as clients:
        user = new_user()
        first, second = await clients.join(user), await clients.join(user)
        assert first.id != second.id


async def test_pong_has_the_ping_id(bridge: BridgeProcess) -> None:
    """``ping`` is answered by ``pong`` with a time and the ``pingId``, null where none was sent."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        for data, expected in (({"pingId": "optional-ping-id"}, "optional-ping-id"), ({}, None)):
            await seed_send(client, "ping", data)
            pong = await client.expect("pong")
            assert set(pong["data"]) == {"timestamp", "pingId"}
            assert pong["data"]["pingId"] == expected
            assert is_recent(pong["data"]["timestamp"])
            assert pong["reply_to"] == "msg_123"
        await client.send("ping")
        pong = await client.expect("pong")
        assert pong["data"]["pingId"] is None
        assert "reply_to" not in pong


async def test_heartbeat_has_no_answer(bridge: BridgeProcess) -> None:
    """``heartbeat`` is taken without a word: the next message answers the ping after it."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        await client.send("heartbeat")
        await client.send("heartbeat", {}, "h1")
        await client.ping()


async def test_subscription_is_acknowledged(bridge: BridgeProcess) -> None:
    """Accepted and refused events are told apart, with the types they come to and reasons."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        events = ["upload.progress", "review.nonsense", "system.notification"]
        answer = await client.ask("subscribe", {"events": events})
        assert answer["type"] == "subscription.acknowledged"
        assert answer["data"].pop("cursor") == client.established["data"]["cursor"]
        assert answer["data"] == {
            "events": ["upload.progress", "system.notification"],
            "invalid_events": ["review.nonsense"],
            "effective": ["system.notification", "upload.progress"],
            "reasons": {"review.nonsense": "UNKNOWN_EVENT"},
        }
        await client.ping()


async def test_subscription_fails_when_nothing_is_accepted(bridge: BridgeProcess) -> None:
    """``SUBSCRIPTION_FAILED`` follows an acknowledgement that accepts nothing."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        data = await client.refused("review.nonsense")
        assert data["effective"] == []
        assert data["reasons"] == {"review.nonsense": "UNKNOWN_EVENT"}
        await client.ping()


async def test_own_events_need_no_subscription(bridge: BridgeProcess) -> None:
    """``upload.progress`` of a user reaches all that user's connections and nobody else."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user, other = new_user(), new_user()
        mine = [await clients.join(user), await clients.join(user)]
        theirs = await clients.join(other)
        event = await bus.publish(to_user(user, "upload.progress", "upload_456"))
        for client in mine:
            message = await client.expect_event(event)
            assert message["type"] == "upload.progress"
            assert message["data"] == {"upload_id": "upload_456", "progress": 40}
        marker = await bus.marker(other)
        assert await theirs.until(marker) == []


async def test_topic_events_need_a_subscription(bridge: BridgeProcess) -> None:
    """``review.updated`` comes after subscribing, and no more after unsubscribing."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await bus.publish(topic("review.updated", "77"))
        marker = await bus.marker(client.user)
        assert await client.until(marker) == []

        await client.subscribe("review.updated")
        event = await bus.publish(topic("review.updated", "77"))
        message = await client.expect_event(event)
        assert message["data"] == {"review_id": "77", "changes": {"status": "open"}}

        await client.unsubscribe("review.updated")
        await bus.publish(topic("review.updated", "77"))
        marker = await bus.marker(client.user)
        assert await client.until(marker) == []


def is_rate_limited(message: Message) -> bool:
    """Whether this is the rate limit error, with a reset time within the window."""
    assert message["type"] == "error", message
    data = message["data"]
    assert data["code"] == "RATE_LIMIT_EXCEEDED", message
    return bool(time.time() - 1 <= data["reset_time"] <= time.time() + 60.5)


async def test_rate_limit_of_a_user(bridge: BridgeProcess) -> None:
    """Message 101 of a user in 60 s is refused, whichever connection and however good they are."""
    async with Clients(bridge.url) as clients:
        user = new_user()
        first, second = await clients.join(user), await clients.join(user)
        stranger = await clients.join()
        for _ in range(30):
            await first.ping()
            await second.ping()
            await first.send_raw("not json")
            await first.expect_error("INVALID_MESSAGE_FORMAT")
        for _ in range(10):
            await second.send("heartbeat")
        await second.send("ping", id="over")
        refusal = await second.expect("error")
        assert is_rate_limited(refusal)
        assert refusal.get("reply_to") == "over"
        await first.send("ping")
        assert is_rate_limited(await first.receive())
        await stranger.ping()


async def test_rate_limit_frees_up(start_bridge: StartBridge) -> None:
    """At ``reset_time`` the user may send again, and not before."""
    window = 1.0
    settings = {"BRIDGE_RATE_LIMIT_MESSAGES": "3", "BRIDGE_RATE_LIMIT_WINDOW": str(window)}
    bridge = start_bridge(**settings)
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        limits = client.established["data"]["limits"]
        assert (limits["rate_limit_messages"], limits["rate_limit_window"]) == (3, window)
        for _ in range(3):
            await client.ping()
        await client.send("ping")
        refusal = await client.expect_error("RATE_LIMIT_EXCEEDED")
        reset = refusal["data"]["reset_time"]
        await client.send("ping")
        again = await client.expect_error("RATE_LIMIT_EXCEEDED")
        assert again["data"]["reset_time"] <= reset + 0.1, "refused messages don't push it away"
        # What is waited for is time itself.
        await asyncio.sleep(max(0.0, reset - time.time()) + 0.05)
        await client.ping()


async def test_fourth_connection_replaces_the_oldest(bridge: BridgeProcess) -> None:
    """The oldest of four is told ``CONNECTION_LIMIT_EXCEEDED`` and closed with 4502."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        stranger = await clients.join()
        oldest, *rest = [await clients.join(user) for _ in range(3)]
        rest.append(await clients.join(user))
        await oldest.expect_error("CONNECTION_LIMIT_EXCEEDED")
        await oldest.expect_close(codes.REPLACED)
        event = await bus.publish(to_user(user, "upload.progress", "1"))
        for client in rest:
            await client.expect_event(event)
            await client.ping()
        await stranger.ping()


async def test_closed_connections_do_not_count(bridge: BridgeProcess) -> None:
    """A user whose client went away in order has its place back."""
    async with Clients(bridge.url) as clients:
        user = new_user()
        rest = [await clients.join(user) for _ in range(2)]
        for _ in range(3):
            passing = await clients.join(user)
            await passing.socket.close()
            assert passing.socket.close_code == 1000
        for client in rest:
            await client.ping()
