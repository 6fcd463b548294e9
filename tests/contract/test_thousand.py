"""A thousand mixed clients on one process get what they are entitled to, event by event."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
from collections import Counter

import pytest

from natsbridge.schemas.subjects import Address, Root
from tests.support.bridge import StartBridge
from tests.support.bus import CATALOGUE, Bus, envelope, everyone, topic
from tests.support.clients import mint
from tests.support.lean import PING, TEXT, LeanClient
from tests.support.model import MARKER, Wish, random_address, random_wishes

CLIENTS = 1000
WAVES = 24
EVENTS_A_WAVE = 50
AT_ONCE = 50
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

ANSWERS = {"subscription.acknowledged", "unsubscription.acknowledged", "error"}


def is_durable(event_type: str) -> bool:
    """Whether events of this type go through the stream."""
    known = CATALOGUE.get(event_type)
    assert known is not None
    return known.traits.durable


class Member:
    """One client and all that it received, as (event id, whether it came through the stream)."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.received: list[tuple[str, bool]] = []
        self.expected: list[tuple[str, bool]] = []
        self.unexpected: list[object] = []
        self.answers: asyncio.Queue[str] = asyncio.Queue()
        self.news = asyncio.Event()
        self.client: LeanClient

    def on_frame(self, opcode: int, payload: bytes) -> None:
        """Note an event's id, or pass an answer on."""
        if opcode == TEXT:
            message = json.loads(payload)
            kind = message["type"]
            if kind in CATALOGUE:
                self.received.append((message["id"], "cursor" in message))
                self.news.set()
            elif kind in ANSWERS or kind == "connection.established":
                self.answers.put_nowait(kind)
            else:
                self.unexpected.append(message)
        elif opcode != PING:
            self.unexpected.append((opcode, payload))
            self.news.set()

    async def join(self, url: str) -> None:
        """Connect, subscribe, and unsubscribe from some of it."""
        query = "" if self.wish.direct else "?direct=off"
        path = f"/ws/{mint(self.wish.user, **self.wish.claims)}{query}"
        self.client = await LeanClient.connect(url, path, self.on_frame)
        await self._answered("connection.established")
        events = [*self.wish.subscribe, MARKER]
        self.client.send({"type": "subscribe", "data": {"events": events}})
        await self._answered("subscription.acknowledged")
        if self.wish.unsubscribe:
            gone = self.wish.unsubscribe
            self.client.send({"type": "unsubscribe", "data": {"events": gone}})
            await self._answered("unsubscription.acknowledged")

    async def _answered(self, kind: str) -> None:
        async with asyncio.timeout(20):
            assert await self.answers.get() == kind

    async def reach(self, count: int) -> None:
        """Wait until so many events are here."""
        while len(self.received) < count:
            self.news.clear()
            await self.news.wait()
            assert not self.unexpected, (self.wish, self.unexpected)

    def difference(self) -> dict[str, object]:
        """Return what is missing, extra, double or out of order; empty where nothing is.

        Events keep their order on each of the two paths; between the paths there is none.
        """
        got, due = Counter(self.received), Counter(self.expected)
        found: dict[str, object] = {
            "missing": due - got,
            "extra": got - due,
            "other": self.unexpected,
        }
        if got == due:
            found["order"] = [
                stored
                for stored in (True, False)
                if [each for each in self.received if each[1] is stored]
                != [each for each in self.expected if each[1] is stored]
            ]
        return {name: value for name, value in found.items() if value}


async def publish(bus: Bus, address: Address) -> tuple[str, bool]:
    """Publish an event the way its type asks for, without waiting for its acknowledgement."""
    event = envelope(address)
    stored = is_durable(address.event_type)
    root = Root.EVENTS if stored else Root.SERVICE
    await bus.connection.publish(bus.subjects.event(root, address), json.dumps(event).encode())
    return event["id"], stored


@pytest.fixture
def many_files() -> None:
    """Let this process, and the bridge that it starts, hold a socket for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CLIENTS
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def test_thousand_clients(many_files: None, start_bridge: StartBridge) -> None:
    """Each client's events are compared with a model's: none missing, none extra, none double.

    Users have one to three connections with tokens of different grants; they subscribe to random
    patterns and leave some of them again; some turn direct events off. Random events for users,
    topics and everybody come in waves, durable ones through the stream, with unreadable ones among
    them. The end is an event that every client is subscribed to, by both paths.
    """
    dice = random.Random(SEED)
    print(f"TEST_SEED={SEED}")  # noqa: T201  # pytest shows it when the test fails
    bridge = start_bridge(BRIDGE_LOG_LEVEL="warning")
    members = [Member(wish) for wish in random_wishes(dice, CLIENTS)]
    users = sorted({member.wish.user for member in members})
    gate = asyncio.Semaphore(AT_ONCE)

    async def join(member: Member) -> None:
        async with gate:
            await member.join(bridge.url)

    try:
        async with Bus(bridge) as bus:
            await asyncio.gather(*map(join, members))
            garbage = bus.subjects.event(Root.SERVICE, everyone("system.notification"))
            for _ in range(WAVES):
                for _ in range(EVENTS_A_WAVE):
                    address = random_address(dice, users)
                    event = await publish(bus, address)
                    for member in members:
                        if member.wish.gets(address):
                            member.expected.append(event)
                await bus.connection.publish(garbage, b'{"type": "system.notification"}')
                await reach_all(members)
            for root in (Root.SERVICE, Root.EVENTS):
                marker = await bus.publish(topic(MARKER), root=root)
                for member in members:
                    member.expected.append((marker, root is Root.EVENTS))
            await reach_all(members)
    finally:
        for member in members:
            if hasattr(member, "client"):
                member.client.transport.abort()
    wrong = [(member.wish, found) for member in members if (found := member.difference())]
    assert not wrong, f"{len(wrong)} clients differ, the first: {wrong[0]}"
    assert sum(len(member.expected) for member in members) > 20 * CLIENTS


async def reach_all(members: list[Member]) -> None:
    """Wait until each member has as many events as the model says, or fail with the first."""
    try:
        async with asyncio.timeout(20):
            for member in members:
                await member.reach(len(member.expected))
    except TimeoutError:
        behind = next(each for each in members if len(each.received) < len(each.expected))
        raise AssertionError((behind.wish, behind.difference())) from None
