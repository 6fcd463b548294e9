"""A thousand clients that come back at once, with events to catch up on."""

from __future__ import annotations

import asyncio
import os
import resource
import time

from natsbridge.schemas import codes
from tests.faults.conftest import Figure
from tests.support.bus import everyone, to_user, topic
from tests.support.cores import core_of_its_own, only_what_is_left
from tests.support.faulty import World
from tests.support.model import Wish
from tests.support.pulse import Pulse
from tests.support.steady_publisher import SteadyPublisher

CLIENTS = int(os.environ.get("FAULT_CLIENTS", "100"))
OWN = 10
SHARED = 90
MISSED = SHARED + OWN
"""How many events each client has missed: some of its own, among those of all the others."""
DEADLINE = 10.0
AT_ONCE = 100
"""How many events are published at a time."""


async def miss(publisher: SteadyPublisher, wishes: list[Wish]) -> None:
    """Publish what the clients are to have when they come back."""
    for _ in range(OWN):
        some = [
            *(everyone("file.ready", "1") for _ in range(SHARED // OWN // 3)),
            *(topic("review.updated", "1") for _ in range(SHARED // OWN - SHARED // OWN // 3)),
        ]
        await asyncio.gather(*(publisher.publish(each) for each in some))
        for at in range(0, len(wishes), AT_ONCE):
            users = [wish.user for wish in wishes[at : at + AT_ONCE]]
            await asyncio.gather(
                *(publisher.publish(to_user(user, "upload.completed", "1")) for user in users)
            )


async def test_herd(world: World, repetition: int, figure: Figure) -> None:
    """All clients of a bridge come back to a new one at once and have all within 10 s; others on
    that bridge have their live events meanwhile.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(hard, 3 * CLIENTS + 1000))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    settings = {"BRIDGE_MAX_CONNECTIONS": str(CLIENTS + 100)}
    first = await world.start_bridge(**settings)
    wishes = [Wish(f"user-{number}", subscribe=["review.*"]) for number in range(CLIENTS)]
    async with world.fleet([first], wishes, seed=repetition) as fleet:
        async with world.publishing(rate=0) as publisher:
            await publisher.publish(everyone("system.maintenance"))
            await fleet.settled(DEADLINE)
            fleet.move([])
            first.terminate()
            assert await asyncio.to_thread(first.wait) == 0
            await miss(publisher, wishes)
            second = await world.start_bridge(**settings)
            with (
                Pulse(world.nats.url, second.url, world.subjects.prefix) as pulse,
                core_of_its_own(second.pid, world.nats.pid, pulse.pid),
            ):
                await pulse.lap()
                await asyncio.sleep(1)  # for a lap without the herd
                quiet = await pulse.lap()
                began = time.monotonic()
                with only_what_is_left():  # on machines of their own they would not compete
                    fleet.move([second.url])
                    await fleet.settled(DEADLINE)
                took = time.monotonic() - began
                busy = await pulse.lap()
        audits = fleet.check()
        assert {each.received for each in audits} == {MISSED + 1}
        assert all(client.closes == [codes.GOING_AWAY.code] for client in fleet.clients)
        assert quiet.lost == busy.lost == 0
        ratio = busy.p99 / quiet.p99
        figure(f"{CLIENTS} clients, {MISSED} events each: {took:.2f} s")
        figure(f"live p99 x{ratio:.1f} meanwhile: {quiet} before, {busy} during")
