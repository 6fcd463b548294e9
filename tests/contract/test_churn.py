"""Subscriptions come and go under a steady stream of events, and each promise is kept.

An event must arrive where a pattern that covers it was acknowledged before it was published and was
not asked to end before the bridge had it. It must not arrive where none was held all that time. In
between both are right. Nothing comes twice, and nothing out of order.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from dataclasses import dataclass, field

import pytest

from natsbridge.schemas.subjects import Root
from tests.support.bridge import StartBridge
from tests.support.bus import Bus, envelope, topic
from tests.support.clients import Client, Clients
from tests.support.model import covers

CLIENTS = 30
CHANGES = 40
RESOURCES = ("1", "2", "3")
PATTERNS = ("review.updated", "review.updated.1", "review.updated.2", "review.*.3", "review.>")
LATER = 10
"""When event n + 10 was seen by somebody, the bridge has dealt with n for everybody."""


@dataclass
class Hold:
    """When a pattern was held: for sure from ``acknowledged`` to ``leaving``.

    Before ``asked`` and after ``left`` it was not.
    """

    pattern: str
    asked: float
    acknowledged: float
    leaving: float = math.inf
    left: float = math.inf


@dataclass
class Event:
    """One numbered event: published at a time, with the bridge by another."""

    resource: str
    published: float
    arrived: float = math.inf


@dataclass
class Churner:
    """One client that changes its mind all the time."""

    client: Client
    holds: list[Hold] = field(default_factory=list)
    received: list[int] = field(default_factory=list)

    async def change(self, dice: random.Random) -> None:
        """Subscribe to a pattern that is not held, or leave one that is."""
        pattern = dice.choice(PATTERNS)
        held = next((h for h in self.holds if h.pattern == pattern and h.left == math.inf), None)
        asked = time.monotonic()
        if held is None:
            await self._ask("subscribe", pattern)
            self.holds.append(Hold(pattern, asked, time.monotonic()))
        else:
            held.leaving = asked
            await self._ask("unsubscribe", pattern)
            held.left = time.monotonic()

    async def _ask(self, kind: str, pattern: str) -> None:
        await self.client.send(kind, {"events": [pattern]}, "change")
        while (message := await self.client.receive()).get("reply_to") != "change":
            self.received.append(message["data"]["changes"]["number"])
        assert message["data"]["events"] == [pattern], message

    def check(self, events: list[Event]) -> int:
        """Compare what came with what had to and what could; return how many had to."""
        got = set(self.received)
        assert self.received == sorted(got), "twice, or out of order"
        due = 0
        for number, event in enumerate(events):
            holds = [h for h in self.holds if covers(h.pattern, "review.updated", event.resource)]
            if is_covered(holds, event):
                due += 1
                assert number in got, ("missing", number, event, holds)
            if not any(h.asked <= event.arrived and event.published <= h.left for h in holds):
                assert number not in got, ("extra", number, event, holds)
        return due


def is_covered(holds: list[Hold], event: Event) -> bool:
    """Whether at each moment from publishing to arrival at least one pattern was held."""
    covered = event.published
    for hold in sorted(holds, key=lambda each: each.acknowledged):
        if hold.acknowledged <= covered:
            covered = max(covered, hold.leaving)
    return covered > event.arrived


class Stream:
    """Numbered events about changing resources, and a client that watches all of them."""

    def __init__(self, bus: Bus, root: Root, dice: random.Random) -> None:
        self._bus = bus
        self._root = root
        self._dice = dice
        self.events: list[Event] = []
        self.done = asyncio.Event()

    async def publish(self) -> None:
        """Publish until it is done, and what it takes to see the last ones arrive."""
        rest = LATER
        while rest > 0:
            rest -= 3 * self.done.is_set()
            for _ in range(3):
                resource = self._dice.choice(RESOURCES)
                address = topic("review.updated", resource)
                data = {"review_id": resource, "changes": {"number": len(self.events)}}
                payload = json.dumps(envelope(address, data)).encode()
                self.events.append(Event(resource, time.monotonic()))
                subject = self._bus.subjects.event(self._root, address)
                await self._bus.connection.publish(subject, payload)
            await self._bus.settle()

    async def watch(self, steady: Client) -> None:
        """Note when each event arrives at a client that wants them all."""
        number = 0
        while not self.done.is_set() or number < len(self.events):
            message = await steady.receive()
            assert message["data"]["changes"]["number"] == number
            if number >= LATER:
                self.events[number - LATER].arrived = time.monotonic()
            number += 1


@pytest.mark.parametrize(
    ("linger", "root"), [("0", Root.SERVICE), ("0.02", Root.EVENTS), ("5", Root.SERVICE)]
)
async def test_promises_are_kept(start_bridge: StartBridge, linger: str, root: Root) -> None:
    """Thirty clients subscribe and unsubscribe at random while events flow."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    dice = random.Random(seed)
    bridge = start_bridge(BRIDGE_INTEREST_LINGER=linger, BRIDGE_RATE_LIMIT_MESSAGES="1000")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        steady = await clients.join()
        await steady.subscribe("review.updated")
        churners = [Churner(await clients.join()) for _ in range(CLIENTS)]
        stream = Stream(bus, root, dice)

        async def churn(churner: Churner) -> None:
            for _ in range(CHANGES):
                await churner.change(dice)

        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(stream.publish())
            watching = group.create_task(stream.watch(steady))
            try:
                await asyncio.gather(*map(churn, churners))
            finally:
                stream.done.set()  # or it would publish for ever behind a failure
            await publishing
            await watching
        due = 0
        for churner in churners:
            marker = await bus.marker(churner.client.user, root)
            for message in await churner.client.until(marker):
                churner.received.append(message["data"]["changes"]["number"])
            due += churner.check(stream.events)
        assert due > CLIENTS
