"""Faults of every kind on top of each other, in an order that a seed decides."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.faults.conftest import Figure
from tests.support.faulty import FaultyBridge, World
from tests.support.fleet import Fleet
from tests.support.proxy import Proxy

SECONDS = 12.0
SETTLE = 30.0


class Storm:
    """Two replicas behind one bad network to the broker, and clients that come and go."""

    def __init__(self, world: World, proxy: Proxy, fleet: Fleet, dice: random.Random) -> None:
        self._world = world
        self._proxy = proxy
        self._fleet = fleet
        self._dice = dice
        self.bridges: list[FaultyBridge] = []
        self.told: list[str] = []

    async def go_on(self, until: float) -> None:
        """Let one fault follow the other, some of them while another lasts."""
        faults = (self._network, self._network, self._client, self._client, self._reader)
        rare = (self._replica, self._frozen, self._broker)
        while time.monotonic() < until:
            chosen = [self._dice.choice(faults), self._dice.choice(faults)]
            if self._dice.random() < 0.4:
                chosen.append(self._dice.choice(rare))
            await asyncio.gather(*(fault() for fault in chosen))
            await asyncio.sleep(self._dice.uniform(0, 0.3))

    async def _network(self) -> None:
        kind = self._dice.choice(("cut", "refuse", "swallow"))
        self.told.append(kind)
        if kind == "cut":
            self._proxy.cut(reset=self._dice.random() < 0.5)
            return
        if kind == "refuse":
            self._proxy.refuse(reset=self._dice.random() < 0.5)
        else:
            self._proxy.swallow()
        await asyncio.sleep(self._dice.uniform(0.1, 1))
        self._proxy.heal()

    async def _client(self) -> None:
        for client in self._dice.sample(self._fleet.clients, 3):
            client.cut_next = self._dice.choice((None, self._dice.randint(1, 6000)))
            client.cut(reset=self._dice.random() < 0.5)

    async def _reader(self) -> None:
        client = self._dice.choice(self._fleet.clients)
        if client.is_ready:
            client.pause()
            await asyncio.sleep(self._dice.uniform(0.1, 0.8))
            client.go_on()

    async def _replica(self) -> None:
        leaving = self.bridges.pop(0)
        self.told.append("replica")
        if self._dice.random() < 0.5:
            leaving.terminate()
        await asyncio.to_thread(leaving.kill)
        self.bridges.append(await self._world.start_bridge(self._proxy.url))
        self._fleet.move([bridge.url for bridge in self.bridges])

    async def _frozen(self) -> None:
        self.told.append("frozen")
        bridge = self._dice.choice(self.bridges)
        bridge.freeze()
        await asyncio.sleep(self._dice.uniform(0.1, 1))
        bridge.thaw()

    async def _broker(self) -> None:
        self.told.append("broker")
        await asyncio.to_thread(self._world.nats.stop, kill=self._dice.random() < 0.5)
        await asyncio.to_thread(self._world.nats.start)


@pytest.mark.timeout(300)
async def test_storm(world: World, repetition: int, scale: int, figure: Figure) -> None:
    """Whatever happens at once and in whatever order: every event, once, in order."""
    dice = random.Random(repetition)
    proxy = world.proxy()
    bridges = [await world.start_bridge(proxy.url), await world.start_bridge(proxy.url)]
    async with world.fleet(bridges, seed=repetition) as fleet:
        async with world.publishing(rate=150, padding=300) as publisher:
            storm = Storm(world, proxy, fleet, dice)
            storm.bridges = bridges
            await storm.go_on(time.monotonic() + SECONDS * scale)
            proxy.heal()
            for client in fleet.clients:
                client.cut_next = None
                client.go_on()
            await publisher.more(50)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        closes = sum(len(client.closes) for client in fleet.clients)
        figure(f"{len(world.ledger)} events, {closes} closes, faults: {' '.join(storm.told)}")
