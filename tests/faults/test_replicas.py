"""Bridges that end, stand still or start again: clients go elsewhere, or wait, and miss nothing."""

from __future__ import annotations

import asyncio

import pytest

from natsbridge.schemas import codes
from tests.faults.conftest import Figure
from tests.support.faulty import World
from tests.support.resuming_client import LOST

EVENTS = 150
SETTLE = 15.0


@pytest.mark.parametrize("kill", [True, False], ids=["SIGKILL", "SIGTERM"])
async def test_move_to_another_replica(
    world: World, kill: bool, repetition: int, scale: int
) -> None:
    """A replica is killed, or drains: its clients go to another with their cursors."""
    bridges = [await world.start_bridge(), await world.start_bridge()]
    async with world.fleet(bridges, seed=repetition) as fleet:
        async with world.publishing() as publisher:
            for _ in range(scale):
                await publisher.more(EVENTS)
                leaving = bridges.pop(0)
                if kill:
                    await asyncio.to_thread(leaving.kill)
                else:
                    leaving.terminate()
                    assert await asyncio.to_thread(leaving.wait) == 0
                await publisher.more(EVENTS)
                bridges.append(await world.start_bridge())
                fleet.move([bridge.url for bridge in bridges])
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        expected = [LOST if kill else codes.GOING_AWAY.code] * scale
        assert all(client.closes == expected for client in fleet.clients)


async def test_rolling_restart(world: World, repetition: int, figure: Figure) -> None:
    """Three replicas are replaced one after the other, as a deployment does it."""
    bridges = [await world.start_bridge() for _ in range(3)]
    async with world.fleet(bridges, seed=repetition) as fleet:
        for number, client in enumerate(fleet.clients):
            client.cut(reset=bool(number % 2))
        async with world.publishing() as publisher:
            for at in range(3):
                await publisher.more(EVENTS)
                bridges[at].terminate()
                assert await asyncio.to_thread(bridges[at].wait) == 0
                bridges[at] = await world.start_bridge()
                fleet.move([bridge.url for bridge in bridges])
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        figure(f"{sum(len(client.closes) for client in fleet.clients)} moves")


async def test_bridge_stands_still(world: World, repetition: int, scale: int) -> None:
    """A bridge whose event loop is blocked for 2 s goes on where it was; nobody leaves."""
    bridge = await world.start_bridge()
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing(rate=400) as publisher:
            for _ in range(scale):
                await publisher.more(EVENTS)
                bridge.freeze()
                await asyncio.sleep(2)
                bridge.thaw()
                await publisher.more(EVENTS)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        assert not any(client.closes for client in fleet.clients)


async def test_broker_and_bridge_die_together(world: World, repetition: int) -> None:
    """Both are killed at one moment; clients find another bridge on the broker that comes back."""
    first = await world.start_bridge()
    async with world.fleet([first], seed=repetition) as fleet:
        async with world.publishing() as publisher:
            await publisher.more(EVENTS)
            await asyncio.to_thread(world.nats.stop, kill=True)
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(world.nats.start)
            second = await world.start_bridge()
            fleet.move([second.url])
            await publisher.more(EVENTS)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
