"""Without a fault every client has every event: what the other tests start from."""

from __future__ import annotations

from tests.support.faulty import World


async def test_no_fault(world: World, repetition: int) -> None:
    """Two replicas, clients of each kind at both, and every event once and in order."""
    bridges = [await world.start_bridge(), await world.start_bridge()]
    async with (
        world.fleet(bridges[:1], seed=repetition) as near,
        world.fleet(bridges[1:], seed=repetition) as far,
    ):
        async with world.publishing(rate=500) as publisher:
            await publisher.more(300)
            await publisher.finish()
        for fleet in (near, far):
            await fleet.settled(10)
            fleet.check()
            assert not any(client.closes or client.gaps for client in fleet.clients)
