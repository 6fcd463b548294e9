"""What a client may ask for beside the live events: older ones, and a slower pace."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from natsbridge.schemas.subjects import Address, Audience
from tests.support.accounting import sequence_of
from tests.support.bus import Bus, to_user, topic
from tests.support.clients import Client, Clients
from tests.support.faulty import World
from tests.support.model import covers

SETTLE = 10.0
AT_ONCE = 8
"""How many events are stored, at most, before their publisher knows of it."""

PATTERNS = ("review.updated.1", "upload.*")


def wanted(address: Address) -> bool:
    """Whether the patterns above cover an event of a topic."""
    return any(covers(each, address.event_type, address.resource) for each in PATTERNS)


async def read_until(client: Client, kind: str) -> list[dict[str, Any]]:
    """Return all messages up to the first of this type."""
    messages = [await client.receive(SETTLE)]
    while messages[-1]["type"] != kind:
        messages.append(await client.receive(SETTLE))
    return messages


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    """The sequences of the durable events among these messages."""
    return [sequence_of(each["cursor"]) for each in messages if "cursor" in each]


async def test_history(world: World, repetition: int) -> None:
    """``history: N`` gives the last N that the new patterns match, in order, then what is live."""
    bridge = await world.start_bridge()
    async with Clients(bridge.url) as clients, world.publishing(rate=0) as publisher:
        client = await clients.join("eve")
        for number in range(60):
            kind = ("review.updated", "upload.completed", "file.ready")[number % 3]
            await publisher.publish(topic(kind, str(number % 5)))
        due = [event.sequence for event in world.ledger.events if wanted(event.address)]
        for count in (1, 7, 1000):
            data = {"events": list(PATTERNS), "history": count}
            await client.send("subscribe", data, "h")
            answer = await client.expect("subscription.acknowledged")
            assert answer["reply_to"] == "h"
            messages = await read_until(client, "resume.completed")
            assert numbers(messages) == due[-count:]
            end = messages[-1]
            assert end["reply_to"] == "h"
            assert (end["data"]["recovered"], end["data"]["replayed"]) == (True, len(due[-count:]))
            await client.unsubscribe(*PATTERNS)


async def test_history_while_events_come(world: World, repetition: int) -> None:
    """The older events and the live ones join without a hole, a double or a wrong order."""
    bridge = await world.start_bridge()
    heard: list[list[dict[str, Any]]] = []
    async with Clients(bridge.url) as clients, world.publishing(rate=300) as publisher:
        for _ in range(5):
            await publisher.more(150)
            client = await clients.join(query={"direct": "off"})
            before = len(world.ledger)
            await client.send("subscribe", {"events": ["review.*"], "history": 15}, "h")
            messages = await read_until(client, "resume.completed")
            # What is stored while the older ones are sent may count among them.
            new = len(world.ledger) - before + AT_ONCE
            assert 15 <= messages[-1]["data"]["replayed"] <= 15 + new
            await publisher.more(60)
            end = await publisher.publish(topic("review.deleted", "end"))
            heard.append(messages + await client.until(end.id))
        await publisher.finish()
    reviews = [
        event.sequence
        for event in world.ledger.events
        if event.address.event_type.startswith("review.")
        and event.address.audience is not Audience.USER
    ]
    for messages in heard:
        got = numbers(messages)
        assert got == [each for each in reviews if got[0] <= each <= got[-1]]


async def test_pace(world: World, repetition: int) -> None:
    """At most five a second of a type reach who asks for that, the newest of each resource."""
    bridge = await world.start_bridge()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        slow, fast = await clients.join("gil"), await clients.join("gil")
        pace = {"max_rate": 5, "keep": "latest"}
        policy = {"upload.progress": pace, "upload.completed": pace, "no.such": pace}
        answer = await slow.ask("subscribe", {"events": [], "policy": policy})
        assert answer["type"] == "subscription.acknowledged"
        assert set(answer["data"]["policy"]["applied"]) == {"upload.progress"}
        refused = answer["data"]["policy"]["refused"]
        assert refused == {"upload.completed": "DURABLE", "no.such": "UNKNOWN_EVENT"}
        newest, sent = await spread(bus, slow, fast, seconds=2.0)
        assert sent > 60
        assert len(newest) <= 2 * 5 + 2
        answer = await slow.ask("subscribe", {"events": [], "policy": {"upload.progress": None}})
        assert answer["type"] == "subscription.acknowledged"
        newest, sent = await spread(bus, slow, fast, seconds=0.5)
        assert len(newest) == sent


async def spread(
    bus: Bus, slow: Client, fast: Client, seconds: float
) -> tuple[list[dict[str, Any]], int]:
    """Publish progress of two uploads for so long; return what the slow one got, and how many.

    The fast one gets all of it, and the slow one the last of each in the end.
    """
    last: dict[str, str] = {}
    ids: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(ids) % 2:
        upload = "ab"[len(ids) % 2]
        last[upload] = await bus.publish(to_user("gil", "upload.progress", upload))
        ids.append(last[upload])
        await asyncio.sleep(0.01)
    for event_id in ids:
        await fast.expect_event(event_id)
    got: list[dict[str, Any]] = []
    while not set(last.values()) <= {each["id"] for each in got}:
        got.append(await slow.receive(SETTLE))
    assert [each["id"] for each in got] == [each for each in ids if each in {m["id"] for m in got}]
    return got, len(ids)
