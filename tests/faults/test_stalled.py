"""Clients that stop reading: what they miss is bounded in memory, told, and healed."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from typing import Any

from natsbridge.schemas import codes
from natsbridge.schemas.subjects import Address, Root
from tests.faults.conftest import Figure
from tests.support.accounting import audit
from tests.support.bus import Bus, envelope, everyone, to_user, topic
from tests.support.faulty import World
from tests.support.model import Wish
from tests.support.proxy import Proxy
from tests.support.pulse import quantile
from tests.support.resuming_client import ResumingClient

USER = "dora"
SMALL_BUFFER = 4096
PADDING = 30_000
EVENTS = 600
"""Together far more than what the kernel holds for a connection and the bridge may."""

KEYS = ("a", "b", "c")
QUEUE = 100
"""How many messages may wait for a connection."""

GROWTH = 12 * 1024
"""How much the bridge may grow by, in KiB; what is published meanwhile is more."""

SETTLE = 20.0


def upload() -> Address:
    """Where the durable events of these tests go."""
    return to_user(USER, "upload.completed", "1")


class Progress:
    """What came of the conflated events: for each key the numbers, in order."""

    def __init__(self) -> None:
        self.numbers: defaultdict[str, list[int]] = defaultdict(list)

    def note(self, message: dict[str, Any]) -> None:
        """Write down a message that is of a conflated type."""
        if message["type"] == "upload.progress":
            data = message["data"]
            self.numbers[data["upload_id"]].append(data["number"])

    @property
    def newest(self) -> list[int]:
        """The last number of each key that came."""
        return [self.numbers[key][-1] if self.numbers[key] else -1 for key in KEYS]


async def test_comes_back(world: World, repetition: int, figure: Figure) -> None:
    """A reader that stood still gets every durable event, and the newest of each conflated key."""
    bridge = await world.start_bridge(BRIDGE_STALL_TIMEOUT="60")
    progress = Progress()
    url, wish = bridge.url, Wish(USER)
    stalled = ResumingClient([url], wish, buffer=SMALL_BUFFER, on_message=progress.note)
    async with (
        stalled,
        world.fleet([bridge], [wish]) as others,
        world.publishing(rate=0, padding=PADDING) as publisher,
        Bus(bridge) as bus,
    ):
        await asyncio.gather(*(publisher.publish(upload()) for _ in range(50)))
        await others.settled(SETTLE)
        before = bridge.memory
        stalled.pause()
        most = before
        for number in range(EVENTS):
            await publisher.publish(upload())
            for key in KEYS:
                where = to_user(USER, "upload.progress", key)
                data = {"upload_id": key, "progress": number * 100 // EVENTS, "number": number}
                await bus.publish(where, data)
            most = max(most, bridge.memory)
        await others.settled(SETTLE)
        stalled.go_on()
        others.clients.append(stalled)
        await others.settled(SETTLE)
        last = EVENTS - 1
        await stalled.until(lambda: progress.newest == [last] * len(KEYS), "newest", SETTLE)
        most = max(most, bridge.memory)
        others.check()
        assert not stalled.closes
        assert [each["reason"] for each in stalled.gaps if each["recoverable"]]
        assert {each["reason"] for each in stalled.gaps} == {"SLOW_CONSUMER"}
        assert all(each["recovered"] for each in stalled.resumes)
        for key in KEYS:
            came = progress.numbers[key]
            assert came == sorted(set(came)), f"{key}: an older one after a newer one"
            # Of what was published once the connection was full, the newest alone.
            assert max(came[:-1], default=0) < last - QUEUE, came
        assert most - before < GROWTH, f"{before} KiB before, {most} at most"
        published = (EVENTS * PADDING) >> 10
        figure(f"{before} KiB before, {most} KiB at most, {published} KiB published")


async def test_reads_too_slowly(world: World, repetition: int, scale: int) -> None:
    """A network that is slower than the events come: again and again behind, and never a hole."""
    bridge = await world.start_bridge()
    with Proxy(bridge.url) as network:
        wish = Wish(USER, subscribe=["review.*"])
        slow = ResumingClient([network.url], wish, buffer=SMALL_BUFFER)
        async with slow, world.fleet([bridge], [wish]) as fleet:

            def some() -> Address:
                return upload() if len(world.ledger) % 2 else topic("review.updated", "1")

            async with world.publishing(addresses=some, rate=150, padding=PADDING) as publisher:
                network.rate = 400_000
                await publisher.more(500 * scale)
                await publisher.finish()
            network.heal()
            fleet.clients.append(slow)
            await fleet.settled(SETTLE)
            fleet.check()
            assert slow.gaps
            assert not slow.closes


async def test_stalls_and_reads_in_turns(world: World, repetition: int, scale: int) -> None:
    """It stops again before it has caught up, several times, and is cut in between too."""
    bridge = await world.start_bridge()
    wish = Wish(USER, subscribe=[">"])
    reader = ResumingClient([bridge.url], wish, buffer=SMALL_BUFFER)
    async with reader, world.fleet([bridge], [wish]) as fleet:
        async with world.publishing(addresses=upload, rate=200, padding=PADDING) as publisher:
            for turn in range(5 * scale):
                await reader.until(lambda: reader.is_ready, "ready", SETTLE)
                reader.pause()
                await publisher.more(120)
                reader.go_on()
                if turn % 2:
                    reader.cut(reset=True)
                await publisher.more(20)
            await publisher.finish()
        fleet.clients.append(reader)
        await fleet.settled(SETTLE)
        fleet.check()


async def test_stream_keeps_too_little(world: World, repetition: int) -> None:
    """The stream has lost what a stalled reader missed: the range is told, the rest is healed."""
    bridge = await world.start_bridge(BRIDGE_STREAM_MAX_BYTES=str(1 << 20))
    reader = ResumingClient([bridge.url], Wish(USER), buffer=SMALL_BUFFER)
    async with reader, world.fleet([bridge], []) as fleet:
        async with world.publishing(addresses=upload, rate=300, padding=PADDING) as publisher:
            await publisher.more(20)
            reader.pause()
            await publisher.more(500)
            reader.go_on()
            await publisher.more(20)
            await publisher.finish()
        fleet.clients.append(reader)
        await fleet.settled(SETTLE)
        # The range is told behind the last event that could be healed.
        await reader.until(lambda: bool(reader.resumes), "told", SETTLE)
        # The stream goes on losing events while it is read: what came may be in the range too.
        result = audit(reader.account, world.ledger)
        assert set(result.faults) <= {"contradicted"}, f"{result}\n{reader}"
        assert result.told > 0
        assert not reader.closes


async def test_dropped_events_are_counted(world: World, repetition: int) -> None:
    """Of events that are neither stored nor conflated the oldest go, and how many is told."""
    bridge = await world.start_bridge(BRIDGE_CATALOGUE="tests.support.own_events")
    texts: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["type"] == "invoice.draft":
            texts.append(message["data"]["text"].partition(" ")[0])

    draft = to_user(USER, "invoice.draft")
    reader = ResumingClient([bridge.url], Wish(USER), buffer=SMALL_BUFFER, on_message=note)
    async with reader, Bus(bridge) as bus:
        reader.pause()
        for number in range(EVENTS):
            await bus.publish(draft, {"text": f"{number} " + "x" * PADDING})
        reader.go_on()
        await bus.publish(draft, {"text": "end"})
        await reader.until(lambda: texts[-1:] == ["end"], "at the end", SETTLE)
        await reader.until(lambda: bool(reader.gaps), "told", SETTLE)
        numbers = [int(text) for text in texts[:-1]]
        dropped = sum(each["dropped"]["invoice.draft"] for each in reader.gaps)
        assert numbers == sorted(set(numbers))
        assert len(numbers) + dropped == EVENTS
        assert numbers[-1] == EVENTS - 1
        assert dropped > 0
        for gap in reader.gaps:
            told = (gap["from"], gap["to"], gap["reason"], gap["recoverable"])
            assert told == (None, None, "SLOW_CONSUMER", False)
        assert not reader.closes


async def test_stalled_for_too_long(world: World, repetition: int) -> None:
    """It is sent away with 4002, comes back with its cursor and has every event."""
    bridge = await world.start_bridge(BRIDGE_STALL_TIMEOUT="1")
    reader = ResumingClient([bridge.url], Wish(USER), buffer=SMALL_BUFFER)
    async with reader, world.fleet([bridge], []) as fleet:
        async with world.publishing(addresses=upload, rate=200, padding=PADDING) as publisher:
            await publisher.more(20)
            reader.pause()
            await publisher.more(400)
            reader.go_on()
            await publisher.more(20)
            await publisher.finish()
        fleet.clients.append(reader)
        await fleet.settled(SETTLE)
        fleet.check()
        assert reader.closes == [codes.SLOW_CONSUMER.code]


async def test_others_do_not_wait(world: World, repetition: int, figure: Figure) -> None:
    """One stalled client among a hundred: how long others' live events take, with and without."""
    bridge = await world.start_bridge()
    came: list[float] = []
    sent: dict[str, float] = {}

    def note(message: dict[str, Any]) -> None:
        if (at := sent.get(message.get("id", ""))) is not None:
            came.append((time.perf_counter() - at) * 1000)

    wishes = [Wish(f"user-{number}") for number in range(99)]
    heavy = ResumingClient([bridge.url], Wish(USER), buffer=SMALL_BUFFER)
    async with world.fleet([bridge], wishes, on_message=note) as fleet, heavy, Bus(bridge) as bus:

        async def measure() -> float:
            """Send to everybody while the heavy one has a lot to read; return the p99 in ms."""
            came.clear()
            sent.clear()
            live = everyone("user.status_changed", "x")
            async with world.publishing(addresses=upload, rate=100, padding=PADDING) as publisher:
                for _ in range(150):
                    event = envelope(live)
                    subject = bus.subjects.event(Root.SERVICE, live)
                    sent[event["id"]] = time.perf_counter()
                    await bus.connection.publish(subject, json.dumps(event).encode())
                    await asyncio.sleep(0.01)
                await publisher.finish()
            for client in fleet.clients:
                await client.until(lambda: len(came) == 99 * len(sent), "there", SETTLE)
            return quantile(came, 0.99)

        await measure()
        reading = await measure()
        heavy.pause()
        stalled = await measure()
        heavy.go_on()
        fleet.clients.append(heavy)
        await fleet.settled(SETTLE)
        fleet.check()
        figure(f"p99 of 99 clients x{stalled / reading:.2f}: {reading:.2f} and {stalled:.2f} ms")
