"""Breaks between the bridge and NATS: every acknowledged event reaches every client once."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.conftest import Figure
from tests.support.faulty import World, eventually
from tests.support.fleet import Fleet
from tests.support.proxy import Proxy
from tests.support.steady_publisher import Plain, Sdk, SteadyPublisher

EVENTS = 150
"""How many are published before a fault, and after it."""

SETTLE = 15.0
NOTICE = 15.0
CATCH_UP = 5.0
"""Longest times, in seconds: until all is there; until a dead connection is noticed and made anew;
until the clients have what they missed, counted from the healing, while events go on.
"""


async def connected_again(proxy: Proxy, accepted: int) -> float:
    """Wait until so many connections came to the proxy; return the seconds."""
    return await eventually(lambda: proxy.accepted >= accepted, "connected again", NOTICE)


async def resumed(fleet: Fleet, publisher: SteadyPublisher) -> float:
    """Wait until the clients have all that was missed before now, and an event of after; return the
    seconds. Events go on meanwhile.
    """
    began = time.monotonic()
    await publisher.more(1, CATCH_UP)
    await fleet.settled(CATCH_UP - (time.monotonic() - began))
    return time.monotonic() - began


@pytest.mark.parametrize("kill", [True, False], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("way", [Plain, Sdk], ids=["nats-py", "SDK"])
async def test_broker_restarts(
    world: World,
    kill: bool,
    way: type[Plain] | type[Sdk],
    repetition: int,
    scale: int,
    figure: Figure,
) -> None:
    """The broker ends, at once or in order, and comes back; clients stay and miss nothing, and have
    everything 5 s after it is back.
    """
    bridge = await world.start_bridge()
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing(way=way(world.nats.url)) as publisher:
            for _ in range(scale):
                await publisher.more(EVENTS)
                await asyncio.to_thread(world.nats.stop, kill=kill)
                await asyncio.to_thread(world.nats.start)
                took = await resumed(fleet, publisher)
                figure(f"resumed {took:.2f} s after the broker was back")
                await publisher.more(EVENTS)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        assert not any(client.closes for client in fleet.clients)


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
async def test_cut_for_a_second(
    world: World, reset: bool, repetition: int, scale: int, figure: Figure
) -> None:
    """The bridge can't reach the broker for a second; services can. Clients miss nothing, and have
    everything 5 s after the healing.
    """
    proxy = world.proxy()
    bridge = await world.start_bridge(proxy.url)
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing() as publisher:
            for _ in range(scale):
                await publisher.more(EVENTS)
                proxy.refuse(reset=reset)
                await asyncio.sleep(1)
                proxy.heal()
                took = await resumed(fleet, publisher)
                figure(f"resumed {took:.2f} s after the healing")
                await publisher.more(EVENTS)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        assert not any(client.closes for client in fleet.clients)


async def test_cut_again_and_again(world: World, repetition: int, scale: int) -> None:
    """The connection breaks many times and comes back at once, in the middle of catching up too;
    clients miss nothing.
    """
    proxy = world.proxy()
    bridge = await world.start_bridge(proxy.url)
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing(rate=400) as publisher:
            for _ in range(5 * scale):
                await publisher.more(EVENTS // 3)
                goal = proxy.accepted + 1
                assert proxy.cut() > 0
                await connected_again(proxy, goal)
            await resumed(fleet, publisher)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        assert not any(client.closes for client in fleet.clients)


@pytest.mark.parametrize("noticed", [False, True], ids=["5 s", "until noticed"])
async def test_black_hole(
    world: World, noticed: bool, repetition: int, scale: int, figure: Figure
) -> None:
    """Nothing passes and no connection breaks, for 5 s or for as long as it takes the bridge to
    notice, 15 s at most; 5 s after the healing the clients have everything.
    """
    proxy = world.proxy()
    bridge = await world.start_bridge(proxy.url)
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing() as publisher:
            await publisher.more(EVENTS)
            proxy.swallow()
            if noticed:
                took = await connected_again(proxy, proxy.accepted + 1)
                figure(f"black hole noticed after {took:.1f} s")
            else:
                await asyncio.sleep(5)
            await publisher.finish()
            proxy.heal()
            took = await fleet.settled(CATCH_UP)
            figure(f"caught up {took:.2f} s after the healing")
        fleet.check()
        assert not any(client.closes for client in fleet.clients)
