"""Many clients that come back together after much was stored: the bridge reads that once for all of
them, and what it keeps meanwhile is gone when they are.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.conftest import Figure
from tests.support.bus import everyone, to_user
from tests.support.faulty import FaultyBridge, World, eventually
from tests.support.model import Wish

CLIENTS = 30
EVENTS = 2_000
PADDING = 7_000
AT_ONCE = 100
"""How many there are, what is stored while they are away, and how much of that at a time, of which
one is for all of them, and the rest each for somebody else who is not there.
"""

STORED = EVENTS * PADDING // 1024
GROWTH = 4 * 1024
"""What is stored, and how much may be left of it in the bridge, in KiB."""
SETTLE = 60.0
QUIET = 15.0


async def weigh(bridge: FaultyBridge, weights: list[int]) -> None:
    """Note what the bridge weighs, until cancelled."""
    while True:
        weights.append(bridge.memory)
        await asyncio.sleep(0.005)


@pytest.mark.timeout(180)
async def test_memory_is_given_back(world: World, repetition: int, figure: Figure) -> None:
    """The bridge takes as much as the crowd needs together, gives it back, and each client has all
    that it missed.
    """
    bridge = await world.start_bridge(BRIDGE_MAX_CONNECTIONS=str(CLIENTS + 10))
    wishes = [Wish(f"user-{number}") for number in range(CLIENTS)]
    async with world.fleet([bridge], wishes, seed=repetition) as fleet:
        async with world.publishing(rate=0, padding=PADDING) as publisher:

            async def come_back_for(events: int) -> None:
                fleet.move([])
                for client in fleet.clients:
                    client.cut()
                for number in range(0, events, AT_ONCE):
                    others = range(number + 1, number + AT_ONCE)
                    some = [to_user(f"other-{each}", "upload.completed", "1") for each in others]
                    some.append(everyone("file.ready", "1"))
                    await asyncio.gather(*(publisher.publish(each) for each in some))
                fleet.move([bridge.url])
                await fleet.settled(SETTLE)

            await publisher.publish(everyone("system.maintenance"))
            await fleet.settled(SETTLE)
            # A first crowd, so that what any crowd needs once is there before.
            await come_back_for(AT_ONCE)
            before, weights = bridge.memory, [bridge.memory]
            weighing = asyncio.create_task(weigh(bridge, weights))
            await come_back_for(EVENTS)
            weighing.cancel()
            await asyncio.wait([weighing])
        assert max(weights) - before > STORED // 2, "they did not read it together"
        took = await eventually(
            lambda: bridge.memory - before < GROWTH, "given back", QUIET, pause=0.1
        )
        audits = fleet.check()
        assert {each.received for each in audits} == {1 + 1 + EVENTS // AT_ONCE}
    figure(
        f"{STORED} KiB stored: {max(weights) - before:+} KiB meanwhile,"
        f" {bridge.memory - before:+} {took:.1f} s later"
    )
