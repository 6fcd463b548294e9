"""Interests change while events flow: nothing is lost and nothing comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from natsbridge.schemas.subjects import Root
from tests.support.bridge import StartBridge
from tests.support.bus import Bus, envelope, topic
from tests.support.clients import Client, Clients

ADDRESS = topic("review.updated", "77")
CHANGES = 25


class Numbers:
    """Publishes events numbered from 0, until it is told to stop."""

    def __init__(self, bus: Bus, root: Root) -> None:
        self._bus = bus
        self._subject = bus.subjects.event(root, ADDRESS)
        self._stop = asyncio.Event()
        self.count = 0

    async def run(self) -> None:
        """Publish until ``stop`` and one round more, leaving room for others."""
        last = False
        while not last:
            last = self._stop.is_set()
            for _ in range(5):
                data = {"review_id": "77", "changes": {"number": self.count}}
                payload = json.dumps(envelope(ADDRESS, data)).encode()
                await self._bus.connection.publish(self._subject, payload)
                self.count += 1
            await self._bus.settle()

    def stop(self) -> None:
        """Let the next round be the last."""
        self._stop.set()


@contextlib.asynccontextmanager
async def publishing(bus: Bus, root: Root) -> AsyncIterator[Numbers]:
    """Publish numbers during the block."""
    numbers = Numbers(bus, root)
    async with asyncio.TaskGroup() as group:
        group.create_task(numbers.run())
        try:
            yield numbers
        finally:
            numbers.stop()


async def change(client: Client, kind: str, *events: str) -> list[int]:
    """Send a subscription message; return the numbers that come before its answer."""
    await client.send(kind, {"events": list(events)}, "change")
    numbers = []
    while (message := await client.receive()).get("reply_to") != "change":
        numbers.append(message["data"]["changes"]["number"])
    assert message["type"] in ("subscription.acknowledged", "unsubscription.acknowledged"), message
    assert message["data"]["events"] == list(events), message
    return numbers


async def up_to(client: Client, last: int) -> list[int]:
    """Return the numbers that come up to and with the last one."""
    numbers = [-1]
    while numbers[-1] != last:
        numbers.append((await client.receive())["data"]["changes"]["number"])
    await client.ping()
    return numbers[1:]


@pytest.mark.parametrize(
    ("linger", "root"), [("0", Root.SERVICE), ("0.05", Root.EVENTS), ("5", Root.SERVICE)]
)
async def test_others_switch(start_bridge: StartBridge, linger: str, root: Root) -> None:
    """Others come and go for ``any`` and for one resource; who stays gets each number once."""
    bridge = start_bridge(BRIDGE_INTEREST_LINGER=linger, BRIDGE_RATE_LIMIT_MESSAGES="1000")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        narrow, wide, mover = [await clients.join() for _ in range(3)]
        await narrow.subscribe("review.updated.77")
        await wide.subscribe("review.updated")
        async with publishing(bus, root) as numbers:
            for _ in range(CHANGES):
                await change(mover, "subscribe", "review.updated")
                await change(mover, "unsubscribe", "review.updated")
                await change(mover, "subscribe", "review.updated.77")
                await change(mover, "unsubscribe", "review.updated.77")
        expected = list(range(numbers.count))
        assert await up_to(narrow, numbers.count - 1) == expected
        assert await up_to(wide, numbers.count - 1) == expected


@pytest.mark.parametrize(
    ("linger", "kept"),
    [("0", "review.updated"), ("0", "review.updated.77"), ("5", "review.updated")],
)
async def test_the_last_holder_switches(start_bridge: StartBridge, linger: str, kept: str) -> None:
    """The only client goes from one to the other and back under events, and misses none.

    At each moment it holds at least one of the two, so each number comes, in order, once.
    """
    passing = "review.updated.77" if kept == "review.updated" else "review.updated"
    bridge = start_bridge(BRIDGE_INTEREST_LINGER=linger, BRIDGE_RATE_LIMIT_MESSAGES="1000")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe(kept)
        received: list[int] = []
        async with publishing(bus, Root.SERVICE) as numbers:
            for _ in range(CHANGES):
                received += await change(client, "subscribe", passing)
                received += await change(client, "unsubscribe", kept)
                received += await change(client, "subscribe", kept)
                received += await change(client, "unsubscribe", passing)
        received += await up_to(client, numbers.count - 1)
        assert received == list(range(numbers.count))


async def test_acknowledgement_is_kept(start_bridge: StartBridge) -> None:
    """What is published after an acknowledgement arrives; after an end nothing does."""
    bridge = start_bridge(BRIDGE_INTEREST_LINGER="0", BRIDGE_RATE_LIMIT_MESSAGES="1000")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        for number in range(30):
            address = topic("review.updated", str(number))
            pattern = f"review.updated.{number}" if number % 2 else "review.updated"
            await client.subscribe(pattern)
            event = await bus.publish(address)
            await client.expect_event(event)
            await client.unsubscribe(pattern)
            await bus.publish(address)
            marker = await bus.marker(client.user)
            assert await client.until(marker) == []


async def test_established_is_kept(start_bridge: StartBridge) -> None:
    """A user's event that is published after ``connection.established`` was read arrives."""
    bridge = start_bridge(BRIDGE_INTEREST_LINGER="0")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        for number in range(20):
            client = await clients.join(f"again-{number % 2}")
            event = await bus.marker(client.user)
            await client.expect_event(event)
            await client.socket.close()
