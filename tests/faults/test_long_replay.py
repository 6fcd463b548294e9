"""A replay of far more than the bridge may hold: its memory is bounded, and nothing is missing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from natsbridge.schemas.subjects import Address
from tests.faults.conftest import Figure
from tests.support.bus import to_user
from tests.support.faulty import World
from tests.support.model import Wish
from tests.support.proxy import Proxy
from tests.support.resuming_client import ResumingClient

USER = "dora"
EVENTS = 20_000
PADDING = 3000
AT_ONCE = 100
"""Events that are stored, how long each is, and how many of them are on their way at once."""

FIRST = 300
"""How many come slowly before the rest may come as fast as it can."""
RATE = 500_000
BUFFER = 16_384
"""Bytes a second meanwhile, and of the kernel's, which would else take much of it at once."""

GROWTH = 12 * 1024
"""How much the bridge may grow by, in KiB."""
WEIGHED = 50
"""After how many messages it is weighed again."""
SETTLE = 60.0


def upload() -> Address:
    """Where the events of this test go."""
    return to_user(USER, "upload.completed", "1")


@pytest.mark.timeout(180)
async def test_memory_is_bounded(world: World, repetition: int, figure: Figure) -> None:
    """A client comes back for over sixty megabytes of stored events, and reads slowly at first:
    the bridge grows by a small part of that, and each event comes once and in order.
    """
    bridge = await world.start_bridge(BRIDGE_STALL_TIMEOUT="60")
    weights: list[int] = []
    messages = 0

    def weigh(_: dict[str, Any]) -> None:
        nonlocal messages
        messages += 1
        if messages % WEIGHED == 0:
            weights.append(bridge.memory)

    with Proxy(bridge.url) as network:
        reader = ResumingClient([network.url], Wish(USER), buffer=BUFFER, on_message=weigh)
        async with world.publishing(rate=0, padding=PADDING) as publisher:
            # A first resume, so that what any replay needs once is there before.
            async with reader:
                await publisher.publish(upload())
                await reader.until(lambda: bool(reader.account.ids), "there", SETTLE)
            await publisher.publish(upload())
            async with reader:
                await reader.until(lambda: bool(reader.resumes), "resumed", SETTLE)
            for _ in range(EVENTS // AT_ONCE):
                await asyncio.gather(*(publisher.publish(upload()) for _ in range(AT_ONCE)))
        before = bridge.memory
        network.rate = RATE
        known = len(reader.account.ids)
        async with reader, world.fleet([bridge], []) as fleet:
            await reader.until(lambda: len(reader.account.ids) >= known + FIRST, "slow", SETTLE)
            slowly = max(weights)
            assert len(reader.resumes) == 1, "at its end already"
            network.heal()
            fleet.clients.append(reader)
            took = await fleet.settled(SETTLE)
            await reader.until(lambda: len(reader.resumes) == 2, "resumed", SETTLE)
            fleet.check()
        most = max(weights)
        [first, last] = reader.resumes
        assert (first["recovered"], first["replayed"]) == (True, 1)
        assert (last["recovered"], last["replayed"]) == (True, EVENTS)
        replayed = EVENTS * PADDING >> 10
        assert most - before < GROWTH, f"{before} KiB before, {most} at most"
        figure(
            f"{before} KiB before, {slowly - before:+} while it came slowly, {most - before:+} at"
            f" most; {replayed} KiB replayed in {took:.1f} s"
        )
