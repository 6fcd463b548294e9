"""A stream with three replicas: a broker that is lost costs no event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import nats
import pytest

from tests.faults.conftest import Figure
from tests.support.cluster import Cluster
from tests.support.faulty import World, eventually
from tests.support.steady_publisher import Plain

EVENTS: Final = 150
"""How many are published before a broker is lost, and after it."""
SETTLE: Final = 30.0
"""Longest time, in seconds, until all is there: choosing a leader takes some of it."""


@pytest.fixture
def wide(cluster: Cluster) -> Iterator[World]:
    """A place whose stream is on all brokers of a cluster."""
    world = World(cluster.servers["n1"])
    yield world
    world.close()


async def leader(cluster: Cluster, world: World) -> str:
    """Return the name of the broker that leads the stream."""
    async with await nats.connect(cluster.urls) as admin:
        return await cluster.leader(admin.jetstream(), world.stream)


@pytest.mark.timeout(180)
async def test_the_leader_of_the_stream_is_lost(
    cluster: Cluster, wide: World, repetition: int, figure: Figure
) -> None:
    """Its broker is killed under publishers, bridge and clients, and comes back: every acknowledged
    event reaches every client once.
    """
    bridge = await wide.start_bridge(BRIDGE_STREAM_REPLICAS="3")

    async def is_made() -> bool:
        return bool((await bridge.ready_checks())["stream"] == "ok")

    await eventually(is_made, "made", SETTLE, pause=0.1)
    async with wide.fleet([bridge], seed=repetition) as fleet:
        async with wide.publishing(way=Plain(wide.nats.url)) as publisher:
            await publisher.more(EVENTS)
            lost = cluster.servers[await leader(cluster, wide)]
            await asyncio.to_thread(lost.stop, kill=True)
            await publisher.more(EVENTS, SETTLE)
            await asyncio.to_thread(lost.start)
            await publisher.more(EVENTS, SETTLE)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        assert not any(client.closes for client in fleet.clients)
        figure(f"a leader lost over {len(wide.ledger.events)} events")
