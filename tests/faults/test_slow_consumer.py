"""A bridge that NATS cuts off for reading too slowly: it comes back, and nobody misses anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartNats
from tests.faults.conftest import Figure
from tests.support.faulty import USERS, World, eventually, monitored
from tests.support.steady_publisher import mixed

PADDING = 30_000
AT_ONCE = 16
MOST = 2000
"""How many events are published at most: several times what NATS and the kernel may hold."""
SETTLE = 15.0

SETTINGS = """
max_pending: 8MB
write_deadline: "300ms"
"""
"""Room for what the bridge reads at a time when it catches up; for none that stands still."""


@pytest.fixture
def strict(
    start_nats: StartNats, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A broker that has little patience with slow readers."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the file with the broker's settings is not in the container")
    settings = tmp_path / "nats.conf"
    settings.write_text(SETTINGS)
    world = World(start_nats(arguments=("-c", str(settings))))
    yield world
    world.close()


async def test_cut_for_slowness(strict: World, repetition: int, scale: int, figure: Figure) -> None:
    """The bridge stands still while large events come, until NATS cuts it off as a slow consumer,
    as NATS's monitoring says; it goes on, and each client has each acknowledged event once and in
    order. No client had to leave for it.
    """
    bridge = await strict.start_bridge()
    some = mixed(USERS, repetition)
    async with (
        httpx.AsyncClient(base_url=strict.nats.monitor_url, trust_env=False) as monitor,
        strict.fleet([bridge], seed=repetition) as fleet,
        strict.publishing(rate=0, padding=PADDING) as publisher,
    ):

        async def slow_consumers() -> int:
            return monitored((await monitor.get("/varz")).json(), "slow_consumers")

        async def publish(count: int) -> None:
            await asyncio.gather(*(publisher.publish(some()) for _ in range(count)))

        assert await slow_consumers() == 0
        for _ in range(scale):
            await publish(AT_ONCE)
            await fleet.settled(SETTLE)
            before, cuts = len(strict.ledger), await slow_consumers()
            caught_up = await bridge.gauge("catch_ups_total")
            bridge.freeze()
            try:
                while await slow_consumers() == cuts:
                    assert len(strict.ledger) - before < MOST, "never cut"
                    await publish(AT_ONCE)
                held = len(strict.ledger) - before
                await publish(AT_ONCE)
            finally:
                bridge.thaw()
            took = await fleet.settled(SETTLE)

            async def has_caught_up(before: float = caught_up) -> bool:
                return await bridge.gauge("catch_ups_total") > before

            await eventually(has_caught_up, "caught up", SETTLE)
            figure(f"cut after {held} events of {PADDING >> 10} KiB, whole again in {took:.2f} s")
        fleet.check()
        assert not any(client.closes for client in fleet.clients)
