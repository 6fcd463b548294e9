"""Subscription patterns: what is accepted, what each covers, how many a connection may hold."""

from __future__ import annotations

import pytest

from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import CATALOGUE, Bus, to_user, topic
from tests.support.clients import Clients

UPLOADS = ["upload.cancelled", "upload.completed", "upload.error", "upload.progress"]
REVIEWS = ["review.created", "review.deleted", "review.updated"]

# Published one after another on topics; each pattern's row names those that it covers.
UNIVERSE = [
    ("upload.progress", "5"),
    ("upload.completed", "77"),
    ("review.updated", "77"),
    ("review.updated", "78"),
    ("review.created", "77"),
    ("file.ready", "a.b c"),
    ("system.notification", None),
]

COVERED = [
    ("upload.progress", ["upload.progress"], [0]),
    ("upload.*", UPLOADS, [0, 1]),
    ("upload.>", UPLOADS, [0, 1]),
    ("upload", UPLOADS, [0, 1]),
    ("upload.*.>", UPLOADS, [0, 1]),
    ("*.updated", ["review.updated"], [2, 3]),
    ("review.updated", ["review.updated"], [2, 3]),
    ("review.updated.*", ["review.updated"], [2, 3]),
    ("review.updated.>", ["review.updated"], [2, 3]),
    ("review.updated.77", ["review.updated"], [2]),
    ("review.*.77", REVIEWS, [2, 4]),
    ("*.*.77", list(CATALOGUE.types), [1, 2, 4]),
    ("review.updated.99", ["review.updated"], []),
    ("file.ready.a=2Eb=20c", ["file.ready"], [5]),
    ("system.notification.-", ["system.notification"], [6]),
    (">", list(CATALOGUE.types), [0, 1, 2, 3, 4, 5, 6]),
    ("*", list(CATALOGUE.types), [0, 1, 2, 3, 4, 5, 6]),
]

MALFORMED = [
    "",
    ".",
    "upload.",
    ".progress",
    "upload..77",
    "upload.progress.77.x",
    "upload.>.77",
    ">.upload",
    "Upload.progress",
    "upload.prog*",
    "upload.progress.a b",
    "upload.progress.a=2e",
    "upload.progress.=ZZ",
    "upload.progress.=41",
    "upload progress",
    "upload.progress\n",
    "upload.ünï",
    "u" * 400,
]


@pytest.mark.parametrize(("pattern", "effective", "covered"), COVERED)
async def test_what_a_pattern_covers(
    bridge: BridgeProcess, pattern: str, effective: list[str], covered: list[int]
) -> None:
    """A pattern is accepted with the types it comes to, and exactly what it covers arrives."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        data = await client.subscribe(pattern)
        assert data["effective"] == effective
        assert data["reasons"] == {}
        ids = [await bus.publish(topic(kind, resource)) for kind, resource in UNIVERSE]
        marker = await bus.marker(client.user)
        received = [message["id"] for message in await client.until(marker)]
        assert received == [ids[number] for number in covered]


@pytest.mark.parametrize("pattern", MALFORMED)
async def test_malformed_pattern(bridge: BridgeProcess, pattern: str) -> None:
    """A malformed pattern is named as such, and the connection goes on."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        data = await client.refused(pattern)
        assert data["reasons"] == {pattern: "MALFORMED_PATTERN"}
        await client.ping()


@pytest.mark.parametrize("pattern", ["upload.nonsense", "nonsense.*", "nonsense", "*.nonsense.77"])
async def test_unknown_event(bridge: BridgeProcess, pattern: str) -> None:
    """A pattern that covers no type of the catalogue is unknown."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        data = await client.refused(pattern)
        assert data["reasons"] == {pattern: "UNKNOWN_EVENT"}


async def test_good_and_bad_together(bridge: BridgeProcess) -> None:
    """Bad patterns do not spoil the good ones of the same message; the order stays."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        events = ["review.*.77", "upload..", "file.ready", "no.such"]
        answer = await client.ask("subscribe", {"events": events})
        assert answer["data"].pop("cursor")
        assert answer["data"] == {
            "events": ["review.*.77", "file.ready"],
            "invalid_events": ["upload..", "no.such"],
            "effective": ["file.ready", *REVIEWS],
            "reasons": {"upload..": "MALFORMED_PATTERN", "no.such": "UNKNOWN_EVENT"},
        }
        event = await bus.publish(topic("file.ready", "1"))
        await client.expect_event(event)


async def test_overlapping_patterns_give_one_copy(bridge: BridgeProcess) -> None:
    """However many of a connection's patterns cover an event, it comes once."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client, other = await clients.join(), await clients.join()
        await client.subscribe("review.updated", "review.updated.77", "review.*.77", ">")
        await other.subscribe("review.updated.77")
        event = await bus.publish(topic("review.updated", "77"))
        for each in (client, other):
            await each.expect_event(event)
            await each.ping()


async def test_own_event_that_is_subscribed_to_comes_once(bridge: BridgeProcess) -> None:
    """A direct event that a pattern covers too is delivered once."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe("upload.*", "upload.progress.1", "review.updated")
        event = await bus.publish(to_user(client.user, "upload.progress", "1"))
        await client.expect_event(event)
        await client.ping()


async def test_wide_pattern_goes_and_narrow_stays(bridge: BridgeProcess) -> None:
    """Unsubscribing from ``review.updated`` leaves ``review.updated.77``; and the reverse."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()

        async def received() -> list[int]:
            ids = [await bus.publish(topic("review.updated", each)) for each in ("77", "78")]
            marker = await bus.marker(client.user)
            return [ids.index(message["id"]) for message in await client.until(marker)]

        await client.subscribe("review.updated", "review.updated.77")
        assert await received() == [0, 1]
        await client.unsubscribe("review.updated")
        assert await received() == [0]
        await client.subscribe("review.updated")
        await client.unsubscribe("review.updated.77")
        assert await received() == [0, 1]
        await client.unsubscribe("review.updated")
        assert await received() == []


async def test_patterns_are_a_connection_s_own(bridge: BridgeProcess) -> None:
    """What one connection of a user subscribes to or leaves is nothing to the other."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        first = await clients.join()
        second = await clients.join(first.user)
        await first.subscribe("review.updated")
        await second.subscribe("review.updated")
        await first.unsubscribe("review.updated")
        event = await bus.publish(topic("review.updated", "77"))
        await second.expect_event(event)
        await first.ping()


async def test_subscribing_twice_is_one_subscription(bridge: BridgeProcess) -> None:
    """The same pattern again is accepted, delivers one copy, and one ``unsubscribe`` ends it."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe("review.updated")
        await client.subscribe("review.updated")
        event = await bus.publish(topic("review.updated", "77"))
        await client.expect_event(event)
        await client.unsubscribe("review.updated")
        await bus.publish(topic("review.updated", "77"))
        marker = await bus.marker(client.user)
        assert await client.until(marker) == []


async def test_too_many_subscriptions(start_bridge: StartBridge) -> None:
    """Patterns over the limit are refused by name; one held already is not counted again."""
    bridge = start_bridge(BRIDGE_MAX_SUBSCRIPTIONS="3")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        assert client.established["data"]["limits"]["max_subscriptions"] == 3
        events = [f"review.updated.{number}" for number in range(5)]
        answer = await client.ask("subscribe", {"events": events})
        assert answer["data"]["events"] == events[:3]
        assert answer["data"]["invalid_events"] == events[3:]
        reason = "TOO_MANY_SUBSCRIPTIONS"
        assert answer["data"]["reasons"] == {events[3]: reason, events[4]: reason}
        await client.subscribe(events[0])
        assert (await client.refused(events[4]))["reasons"] == {events[4]: reason}
        for number in (4, 1):
            await bus.publish(topic("review.updated", str(number)))
        assert (await client.receive())["data"]["review_id"] == "1"
        await client.unsubscribe(events[1])
        await client.subscribe(events[4])
        event = await bus.publish(topic("review.updated", "4"))
        await client.expect_event(event)


async def test_answers_fit_the_limit(bridge: BridgeProcess) -> None:
    """Whatever a client asks, no answer is larger than a message may be."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        events = [f"{'x' * 55}{number}.." for number in range(1000)]
        await client.send("subscribe", {"events": events}, "large")
        await client.send("ping", id="after")
        sizes = []
        while '"reply_to":"after"' not in (text := await client.receive_text()):
            sizes.append(len(text.encode()))
        assert sizes
        assert max(sizes) <= 64 * 1024
