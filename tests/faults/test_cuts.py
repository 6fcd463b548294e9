"""Connections of clients that break at any byte: clients miss nothing and get nothing twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.faults.conftest import Figure
from tests.support.faulty import Reachable, World
from tests.support.proxy import Proxy
from tests.support.resuming_client import ResumingClient

CUTS_EACH = 12
SETTLE = 15.0
DELAYS = (0.02, 0.05)
"""Seconds that each byte is on its way to the one replica and to the other, and back."""


def endings(client: ResumingClient) -> int:
    """How many of its connections have ended, those that did not come about among them."""
    return len(client.closes) + client.failures.total()


async def ended(client: ResumingClient, known: int) -> None:
    """Wait for one more ending than were known."""
    await client.until(lambda: endings(client) > known, "cut", SETTLE)


async def suffer(client: ResumingClient, cuts: int, dice: random.Random, pause: float) -> None:
    """Cut a client so often: while it reads, while it comes back, and while it catches up."""
    for _ in range(cuts):
        await asyncio.sleep(dice.uniform(0, pause))
        known = endings(client)
        # Some of the connections that follow end within the handshake or the replay.
        if dice.random() < 0.5:
            client.cut_next = dice.choice((dice.randint(1, 1200), dice.randint(1, 8000)))
        kinds = ({"reset": True}, {"reset": False}, {"after": dice.randint(1, 2000)})
        kind = dice.choice(kinds)
        while endings(client) == known and not client.cut(**kind):  # noqa: ASYNC110  # to come back
            await asyncio.sleep(0.005)
        await ended(client, known)


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
async def test_hundred_cuts(
    world: World, far: bool, repetition: int, scale: int, figure: Figure
) -> None:
    """Over a hundred cuts at random bytes under load, in handshakes and replays too; also where
    each byte is on its way for a while, so that each end learns late what the other has done.
    """
    bridges = [await world.start_bridge(), await world.start_bridge()]
    with Proxy(bridges[0].url) as one, Proxy(bridges[1].url) as other:
        one.delay, other.delay = DELAYS
        ways: list[Reachable] = [one, other] if far else [*bridges]
        async with world.fleet(ways, seed=repetition) as fleet:
            async with world.publishing(rate=300) as publisher:
                await asyncio.gather(
                    *(
                        suffer(client, CUTS_EACH * scale, random.Random(f"{repetition} {at}"), 0.3)
                        for at, client in enumerate(fleet.clients)
                    )
                )
                await publisher.finish()
            await fleet.settled(SETTLE)
            fleet.check()
            cuts = sum(len(client.closes) for client in fleet.clients)
            assert cuts >= 100 * scale
            broken = sum(client.failures.total() for client in fleet.clients)
            figure(f"{cuts} cuts, {broken} in a handshake, {len(world.ledger)} events")


async def test_one_client_cut_a_hundred_times(world: World, repetition: int) -> None:
    """One client that never stays for long comes to the end of it all in the end."""
    bridge = await world.start_bridge()
    async with world.fleet([bridge], seed=repetition) as fleet:
        client = fleet.clients[3]
        async with world.publishing(rate=300) as publisher:
            await suffer(client, 100, random.Random(repetition), 0.02)
            await publisher.finish()
        client.cut_next = None
        await fleet.settled(SETTLE)
        fleet.check()
