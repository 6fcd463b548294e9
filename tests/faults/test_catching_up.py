"""What the bridge says of itself while it catches up with the stream, and when it has."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.faults.conftest import Figure
from tests.support.bus import Bus, to_user, topic
from tests.support.faulty import World, eventually
from tests.support.model import Wish

USER = "dora"
MISSED = 3000
PADDING = 500
RATE = 200_000
"""Bytes a second at which the bridge may read: what was missed takes more than ten seconds, a batch
of it less than one.
"""
TOLD = 10.0
SETTLE = 15.0
LEFT = re.compile(r"reading what was missed, (\d+) to go")


async def test_is_told_while_it_lasts(world: World, repetition: int, figure: Figure) -> None:
    """The way to NATS breaks and comes back narrow: while the bridge reads what was missed,
    ``/readyz`` says so and how much is left, ``bridge_catching_up`` is 1, clients are welcome and
    live events come. When it has read all of it neither says so any more.
    """
    proxy = world.proxy()
    bridge = await world.start_bridge(proxy.url)
    live = 0
    all_live = asyncio.Event()
    wishes = [Wish(USER), Wish(USER, subscribe=["review.*"])]

    def note(message: dict[str, Any]) -> None:
        nonlocal live
        live += message["type"] == "upload.progress"
        if live == len(wishes):
            all_live.set()

    async def left() -> int | None:
        """How much there is to go, as told; None when nothing is being caught up with."""
        checks = await bridge.ready_checks()
        assert (checks["nats"], checks["stream"]) == ("ok", "ok"), checks
        if checks["catch_up"] == "ok":
            return None
        told = LEFT.fullmatch(checks["catch_up"])
        assert told is not None, checks
        return int(told[1])

    async with (
        world.fleet([bridge], wishes, on_message=note) as fleet,
        world.publishing(rate=0, padding=PADDING) as publisher,
        Bus(world) as bus,
    ):
        await publisher.publish(topic("review.updated", "1"))
        await fleet.settled(SETTLE)
        assert await left() is None
        assert await bridge.gauge("catching_up") == 0
        caught_up = await bridge.gauge("catch_ups_total")
        # All of it is missed, and the way is narrow before the bridge knows that it was cut.
        bridge.freeze()
        try:
            assert proxy.cut() > 0
            for _ in range(MISSED // 100):
                await asyncio.gather(
                    *(publisher.publish(topic("review.updated", "1")) for _ in range(100))
                )
            proxy.rate = RATE
        finally:
            bridge.thaw()

        async def is_told() -> bool:
            return bool((await bridge.ready_checks())["catch_up"] != "ok")

        await eventually(is_told, "told", TOLD)
        assert await bridge.gauge("catching_up") == 1
        await bus.publish(to_user(USER, "upload.progress", "1"))
        async with asyncio.timeout(TOLD):
            await all_live.wait()
        now: int | None = MISSED

        async def goes_on() -> bool:
            nonlocal now
            now = await left()
            return now != MISSED

        await eventually(goes_on, "going on", TOLD)
        assert now is not None, "at its end before the way was widened"
        assert 0 < now < MISSED
        assert await bridge.gauge("catching_up") == 1
        proxy.heal()
        took = await fleet.settled(SETTLE)

        async def is_over() -> bool:
            return await left() is None

        await eventually(is_over, "over", TOLD)
        assert await bridge.gauge("catching_up") == 0
        assert await bridge.gauge("catch_ups_total") > caught_up
        fleet.check()
        assert not any(client.closes for client in fleet.clients)
        figure(f"{now} of {MISSED} to go when live events had come; {took:.2f} s for the rest")
