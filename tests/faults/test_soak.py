"""Hours in short: clients come, ask, stall, break and leave, and nothing of them stays behind.

``SOAK_SECONDS`` is how long it goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time

import pytest

from natsbridge.schemas.subjects import Address, Audience, Root, encode_id
from tests.faults.conftest import Figure
from tests.support.bus import Bus, envelope
from tests.support.faulty import FaultyBridge, World, eventually
from tests.support.leftovers import Holdings, holdings
from tests.support.model import PATTERNS, Wish
from tests.support.resuming_client import ResumingClient

SECONDS = int(os.environ.get("SOAK_SECONDS", "20"))
LIVES = 40
"""How many clients live at a time, each for some seconds."""

VISITORS = [f"visitor-{number}" for number in range(25)]
EPHEMERAL = ("upload.progress", "user.status_changed", "file.processing")
GROWTH = 1.05
LONG = 600
"""Seconds of a run whose first quarter warms it up for certain."""
QUIET = 60.0
SETTLE = 30.0
RATE = 100.0


class Churn:
    """Clients that live for some seconds each, and what becomes of them."""

    def __init__(self, bridge: FaultyBridge, dice: random.Random) -> None:
        self._bridge = bridge
        self._dice = dice
        self.lived = 0
        self.resumed = 0
        self.stalled = 0

    async def go_on(self, until: float) -> None:
        """Live one life after the other."""
        while time.monotonic() < until:
            await self._life()

    async def _life(self) -> None:
        dice = self._dice
        wish = Wish(dice.choice(VISITORS), direct=dice.random() < 0.7)
        wish.subscribe = dice.sample(PATTERNS, dice.randint(0, 4))
        buffer = dice.choice((0, 4096))
        self.lived += 1
        name = f"life {self.lived}"
        async with ResumingClient([self._bridge.url], wish, name=name, buffer=buffer) as client:
            for _ in range(dice.randint(1, 8)):
                await asyncio.sleep(dice.uniform(0.05, 0.8))
                await client.until(lambda: client.is_ready, "ready", SETTLE)
                await self._act(client)
            assert client.refused is None
            self.resumed += len(client.resumes)

    async def _act(self, client: ResumingClient) -> None:
        """Do one of the things that clients do."""
        dice = self._dice
        some = dice.sample(PATTERNS, 3)
        match dice.randrange(6):
            case 0:
                client.send("subscribe", {"events": some, "history": dice.randint(1, 50)})
            case 1:
                pace = {"upload.progress": {"max_rate": 2, "keep": "latest"}}
                client.send("subscribe", {"events": some, "policy": pace})
            case 2:
                client.send("unsubscribe", {"events": some})
            case 3:
                client.cut(reset=dice.random() < 0.5)
            case 4:
                client.cut(after=dice.randint(1, 3000))
            case _:
                self.stalled += 1
                client.pause()
                await asyncio.sleep(dice.uniform(0.2, 2))
                client.go_on()


async def ephemeral(bus: Bus, dice: random.Random) -> None:
    """Publish events that are not stored, to visitors and to topics, until cancelled."""
    while True:
        kind, resource = dice.choice(EPHEMERAL), dice.choice(("1", "2", "3"))
        user = encode_id(dice.choice(VISITORS))
        address = Address(Audience.TOPIC, kind, resource)
        if dice.random() < 0.7:
            address = Address(Audience.USER, kind, resource, user)
        payload = json.dumps({**envelope(address), "padding": "x" * 2000}).encode()
        await bus.connection.publish(bus.subjects.event(Root.SERVICE, address), payload)
        await asyncio.sleep(1 / RATE)


async def live(world: World, bridge: FaultyBridge, seconds: float, dice: random.Random) -> Churn:
    """Let clients churn for so long, beside some that stay and are checked event by event."""
    churn = Churn(bridge, dice)
    until = time.monotonic() + seconds
    async with (
        world.fleet([bridge], seed=dice.randrange(1 << 30)) as fleet,
        Bus(bridge) as bus,
        world.publishing(rate=RATE, padding=500) as publisher,
    ):
        sending = asyncio.create_task(ephemeral(bus, dice))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(LIVES):
                    group.create_task(churn.go_on(until))
                while time.monotonic() < until:
                    await asyncio.sleep(min(5, seconds / 10))
                    dice.choice(fleet.clients).cut(reset=dice.random() < 0.5)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
    return churn


async def quiet(world: World, bridge: FaultyBridge, before: Holdings) -> None:
    """Wait until the bridge holds what it held before."""
    now = before

    async def is_quiet() -> bool:
        nonlocal now
        now = await holdings(world, bridge)
        return not before.has_left(now)

    try:
        await eventually(is_quiet, "quiet", QUIET, pause=0.5)
    except AssertionError:
        raise AssertionError(f"held before: {before}\nheld after: {now}") from None


@pytest.mark.timeout(SECONDS * 3 + 240)
async def test_soak(world: World, figure: Figure) -> None:
    """After all the churn the bridge weighs what it weighed, and holds what it held.

    A short run may not have seen the most at once while it got warm: then it goes on for as long
    again, in which a leak would go on, too.
    """
    dice = random.Random(SECONDS)
    bridge = await world.start_bridge(
        BRIDGE_MAX_CONNECTIONS_PER_USER="100",
        BRIDGE_INTEREST_LINGER="1",
        BRIDGE_STALL_TIMEOUT="1.5",
        BRIDGE_LOG_LEVEL="info",
    )
    before = await holdings(world, bridge)
    assert before.clients == 0
    await live(world, bridge, SECONDS / 4, dice)
    await quiet(world, bridge, before)
    warm = bridge.memory
    churn = await live(world, bridge, SECONDS * 3 / 4, dice)
    await quiet(world, bridge, before)
    if SECONDS < LONG and bridge.memory > warm * GROWTH:
        warm = bridge.memory
        churn = await live(world, bridge, SECONDS * 3 / 4, dice)
        await quiet(world, bridge, before)
    figure(
        f"{churn.lived} clients, {churn.stalled} stalls, {churn.resumed} resumes,"
        f" {len(world.ledger)} durable events; {warm} KiB warm, {bridge.memory} KiB in the end"
    )
    assert bridge.memory <= warm * GROWTH
