"""Clients that do not read: what waits for them is bounded, they learn what they missed and get
what can be had, and nobody else waits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from natsbridge.schemas import codes
from natsbridge.schemas.subjects import Address, Root
from tests.support import own_events
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, envelope, everyone, to_user
from tests.support.clients import Clients, mint, new_user
from tests.support.lean import CLOSE, TEXT, LeanClient

EVENTS = 800
PADDING = "x" * 30_000
"""Together far more than what the kernel holds for a connection."""

Message = dict[str, Any]


class Sleeper:
    """A client that stops reading when a test says so; keeps all that it reads."""

    lean: LeanClient

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.close = b""
        self._news = asyncio.Event()

    def on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self.close = payload
        elif opcode == TEXT:
            self.messages.append(json.loads(payload))
        self._news.set()

    async def sip(self, deadline: float = 15) -> None:
        """Read until a message has come, and stop again."""
        self._news.clear()
        self.lean.transport.resume_reading()
        async with asyncio.timeout(deadline):
            await self._news.wait()
        self.lean.transport.pause_reading()

    async def until(self, name: str, deadline: float = 15) -> None:
        """Return when a message of this type or id has come, or the close for ``close``."""
        async with asyncio.timeout(deadline):
            while not (
                self.close
                if name == "close"
                else any(name in (each["type"], each["id"]) for each in self.messages)
            ):
                self._news.clear()
                await self._news.wait()

    def of(self, kind: str) -> list[Message]:
        """The messages of one type."""
        return [each for each in self.messages if each["type"] == kind]

    def numbers(self, kind: str) -> list[int]:
        """The numbers of the events of one type that came, in their order."""
        return [each["data"]["number"] for each in self.of(kind)]


@asynccontextmanager
async def sleeper(bridge: BridgeProcess, user: str, *, buffer: int = 0) -> AsyncIterator[Sleeper]:
    """Connect, and stop reading once the connection is established."""
    found = Sleeper()
    path = f"/ws/{mint(user)}"
    found.lean = await LeanClient.connect(bridge.url, path, found.on_frame, buffer=buffer)
    try:
        await found.until("connection.established")
        found.lean.transport.pause_reading()
        yield found
    finally:
        found.lean.transport.abort()


def numbered(address: Address, number: int) -> Message:
    """Data of an event, large, with its number in it."""
    own = {"text": "words"} if address.event_type == "invoice.draft" else None
    known = envelope(address, own)["data"]
    return {**known, "number": number, "padding": PADDING}


async def test_durable_events_are_healed(bridge: BridgeProcess) -> None:
    """Every one comes once it reads again, in order: those that waited, a gap that names the place,
    the missing ones, and the end; then live ones. Others got theirs as they were published.
    """
    user = new_user()
    address = to_user(user, "upload.completed", "1")
    async with (
        Clients(bridge.url) as clients,
        Bus(bridge) as bus,
        sleeper(bridge, user) as slow,
    ):
        other = await clients.join(user)
        for number in range(EVENTS):
            data = numbered(address, number)
            await other.expect_event(await bus.publish(address, data, root=Root.EVENTS))
        slow.lean.transport.resume_reading()
        await slow.until("resume.completed")
        assert slow.numbers("upload.completed") == list(range(EVENTS))
        (gap,), (end,) = slow.of("gap"), slow.of("resume.completed")
        assert (gap["data"]["reason"], gap["data"]["recoverable"]) == ("SLOW_CONSUMER", True)
        place = slow.messages.index(gap)
        assert gap["data"]["from"] == slow.messages[place - 1]["cursor"]
        assert end is slow.messages[-1]
        assert end["data"] == {
            "recovered": True,
            "replayed": len(slow.messages) - place - 2,
            "cursor": slow.messages[-2]["cursor"],
        }
        marker = await bus.marker(user, Root.EVENTS)
        await slow.until(marker)
        await other.expect_event(marker)
        await other.ping()


async def test_of_conflated_events_the_newest_comes(bridge: BridgeProcess) -> None:
    """One for each resource, without a word: nobody needs the older ones."""
    user = new_user()
    async with Bus(bridge) as bus, sleeper(bridge, user) as slow:
        for number in range(EVENTS):
            address = to_user(user, "upload.progress", str(number % 3))
            await bus.publish(address, numbered(address, number))
        slow.lean.transport.resume_reading()
        await slow.until(await bus.marker(user))
        numbers = slow.numbers("upload.progress")
        assert len(numbers) < EVENTS
        assert numbers == sorted(set(numbers))
        assert numbers[-3:] == [EVENTS - 3, EVENTS - 2, EVENTS - 1]
        assert slow.of("gap") == []


async def test_events_that_are_dropped_are_told_by_number(start_bridge: StartBridge) -> None:
    """The oldest that waited go; how many of which type is told, and the newest come."""
    bridge = start_bridge(BRIDGE_CATALOGUE=own_events.__name__)
    user = new_user()
    address = to_user(user, "invoice.draft")
    async with Bus(bridge) as bus, sleeper(bridge, user) as slow:
        for number in range(EVENTS):
            await bus.publish(address, numbered(address, number))
        slow.lean.transport.resume_reading()
        await slow.until("gap")
        await slow.until(await bus.marker(user))
        (gap,) = slow.of("gap")
        numbers = slow.numbers("invoice.draft")
        missing = EVENTS - len(numbers)
        assert missing > 0
        assert gap["data"] == {
            "from": None,
            "to": None,
            "reason": "SLOW_CONSUMER",
            "recoverable": False,
            "dropped": {"invoice.draft": missing},
        }
        holes = [two - one for one, two in itertools.pairwise(numbers)]
        assert sorted(holes)[-1] == missing + 1
        assert holes.count(1) == len(holes) - 1
        assert numbers[-1] == EVENTS - 1


async def test_a_client_that_stays_stalled_is_closed(start_bridge: StartBridge) -> None:
    """After the time of the setting, with 4002; others go on."""
    bridge = start_bridge(BRIDGE_STALL_TIMEOUT="1")
    user = new_user()
    address = to_user(user, "upload.completed", "1")
    async with (
        Clients(bridge.url) as clients,
        Bus(bridge) as bus,
        sleeper(bridge, user) as slow,
    ):
        other = await clients.join(user)
        for number in range(EVENTS // 2):
            data = numbered(address, number)
            await other.expect_event(await bus.publish(address, data, root=Root.EVENTS))
        closed = re.compile(f"code={codes.SLOW_CONSUMER.code} reason={codes.SLOW_CONSUMER.name}")
        await asyncio.to_thread(bridge.wait_for_line, closed, 10)
        slow.lean.transport.resume_reading()
        await slow.until("close")
        assert slow.close[:2] == codes.SLOW_CONSUMER.code.to_bytes(2, "big")
        assert slow.close[2:].decode() == codes.SLOW_CONSUMER.name
        numbers = slow.numbers("upload.completed")
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < EVENTS // 2
        await other.ping()


async def test_a_client_that_reads_slowly_stays(start_bridge: StartBridge) -> None:
    """It is behind for several times as long as a stall may take, and takes something all the time:
    it has every durable event in the end, in order.
    """
    bridge = start_bridge(BRIDGE_STALL_TIMEOUT="1")
    user = new_user()
    address = to_user(user, "upload.completed", "1")

    async def sip(times: int) -> None:
        for _ in range(times):
            await slow.sip()
            await asyncio.sleep(0.2)  # slowly, which is what this is about

    async with (
        Clients(bridge.url) as clients,
        Bus(bridge) as bus,
        sleeper(bridge, user, buffer=65536) as slow,
    ):
        other = await clients.join(user)
        sipping = asyncio.create_task(sip(20))
        event = ""
        for number in range(EVENTS // 4):
            event = await bus.publish(address, numbered(address, number), root=Root.EVENTS)
            await other.expect_event(event)
        await sipping
        assert slow.close == b""
        assert len(slow.messages) < EVENTS // 8
        slow.lean.transport.resume_reading()
        await slow.until(event)
        assert slow.close == b""
        assert slow.numbers("upload.completed") == list(range(EVENTS // 4))


async def test_a_closed_client_goes_on_where_it_was(start_bridge: StartBridge) -> None:
    """The last cursor that it saw brings it all that it missed, once and in order."""
    bridge = start_bridge(BRIDGE_STALL_TIMEOUT="1")
    user = new_user()
    address = to_user(user, "upload.completed", "1")
    async with (
        Clients(bridge.url) as clients,
        Bus(bridge) as bus,
        sleeper(bridge, user) as slow,
    ):
        for number in range(EVENTS // 2):
            await bus.publish(address, numbered(address, number), root=Root.EVENTS)
        closed = re.compile(f"code={codes.SLOW_CONSUMER.code}")
        await asyncio.to_thread(bridge.wait_for_line, closed, 10)
        slow.lean.transport.resume_reading()
        await slow.until("close")
        numbers = slow.numbers("upload.completed")
        cursor = slow.messages[-1]["cursor"]
        again = await clients.join(user, query={"cursor": cursor})
        assert again.established["data"]["resume"] == {"replaying": True}
        while (message := await again.receive())["type"] != "resume.completed":
            numbers.append(message["data"]["number"])
        assert message["data"]["recovered"], message
        assert numbers == list(range(EVENTS // 2))


async def test_a_client_chooses_its_pace(bridge: BridgeProcess) -> None:
    """At most so many a second, the newest last; ``null`` takes it back."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "upload.progress", "1")
        pace = {"max_rate": 5, "keep": "latest"}
        answer = await client.ask(
            "subscribe", {"events": [], "policy": {"upload.progress": pace, "file.ready": pace}}
        )
        assert answer["type"] == "subscription.acknowledged", answer
        assert answer["data"]["policy"] == {
            "applied": {"upload.progress": pace},
            "refused": {"file.ready": "DURABLE"},
        }
        began, arrivals, newest = time.monotonic(), [], ""
        while time.monotonic() < began + 1.5:
            newest = await bus.publish(address)
        while (message := await client.receive())["id"] != newest:
            arrivals.append(message["id"])
        lasted = time.monotonic() - began
        assert 1 < len(arrivals) + 1 <= math.ceil(lasted * 5) + 1
        assert arrivals == sorted(arrivals)
        answer = await client.ask("subscribe", {"policy": {"upload.progress": None}})
        assert answer["data"]["policy"] == {"applied": {"upload.progress": None}, "refused": {}}
        for _ in range(20):
            await client.expect_event(await bus.publish(address))


async def test_stalled_clients_delay_nobody(bridge: BridgeProcess) -> None:
    """With many clients that never read, the others' events come as they are published."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        reader = await clients.join()
        stalled = [
            await LeanClient.connect(bridge.url, f"/ws/{mint(new_user())}", lambda *_: None)
            for _ in range(20)
        ]
        for client in stalled:
            client.transport.pause_reading()
        try:
            address = everyone("system.notification")
            subject = bus.subjects.event(Root.SERVICE, address)
            worst = 0.0
            for _ in range(300):
                event = envelope(address, {"message": "x" * 60_000, "level": "info"})
                before = time.monotonic()
                await bus.connection.publish(subject, json.dumps(event).encode())
                await reader.expect_event(event["id"])
                worst = max(worst, time.monotonic() - before)
            assert worst < 1
            await reader.ping()
        finally:
            for client in stalled:
                client.transport.abort()
