"""JetStream that is slow rather than gone: what takes too long is told, and live events go on.

Its server is a leaf of the one that bridge and clients' services are connected to, on a link that
a proxy delays: everything that JetStream says takes its time, and nothing else does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartNats
from tests.faults.conftest import Figure
from tests.faults.test_live_only import (
    BACK,
    can_resume,
    check_live_only,
    check_whole,
    is_live_only,
    is_whole,
)
from tests.support.bus import Bus, to_user
from tests.support.clients import http
from tests.support.faulty import USERS, FaultyBridge, World, eventually, monitored
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy
from tests.support.steady_publisher import Addresses, Plain, SteadyPublisher, mixed

PATIENCE = 1.0
"""Seconds that the bridge waits for an answer."""
LATE = 0.1
TOO_LATE = 0.8
"""Delays of each way, in seconds: the answer is in time, or it is not."""
EVENTS = 50
TOLD = 30.0
SETTLE = 15.0

HUB = """
server_name: hub
leafnodes { listen: "127.0.0.1:-1" }
mappings { "$JS.API.>": "$JS.far.API.>" }
"""
LEAF = """
server_name: far
jetstream { domain: far, store_dir: "%(folder)s" }
leafnodes { reconnect: 1, remotes: [ { url: "%(hub)s" } ] }
"""


class FarWorld(World):
    """A broker whose JetStream is on another server, at the end of a link."""

    def __init__(self, near: NatsServer, far: NatsServer, link: Proxy) -> None:
        super().__init__(near)
        self.far = far
        self.link = link


@pytest.fixture
def far_world(
    start_nats: StartNats, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[FarWorld]:
    """Bring up both servers and the link between them, which is a good one as yet."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the files with the brokers' settings are not in the container")
    near_file, far_file = tmp_path / "near.conf", tmp_path / "far.conf"
    near_file.write_text(HUB)
    near = start_nats(jetstream=False, arguments=("-c", str(near_file)))
    try:
        varz = httpx.get(f"{near.monitor_url}/varz", trust_env=False).json()
        with Proxy(f"nats-leaf://127.0.0.1:{monitored(varz['leaf'], 'port')}") as link:
            far_file.write_text(LEAF % {"folder": tmp_path / "stored", "hub": link.url})
            far = start_nats(jetstream=False, arguments=("-c", str(far_file)))
            try:
                world = FarWorld(near, far, link)
                yield world
                link.heal()
                world.close()
            finally:
                far.close()
    finally:
        near.close()


async def status(bridge: FaultyBridge) -> int:
    """The status of ``/readyz``."""
    async with http(bridge.url) as client:
        return (await client.get("/readyz")).status_code


async def live_delay(bridge: FaultyBridge, user: str, came: dict[str, float]) -> float:
    """Publish a live event to a client of a fleet; return the seconds until it was there."""
    async with Bus(bridge) as bus:
        began = time.monotonic()
        event = await bus.publish(to_user(user, "upload.progress", "1"))
        await eventually(lambda: event in came, "there", SETTLE, pause=0.001)
        return came[event] - began


async def publish_some(publisher: SteadyPublisher, addresses: Addresses) -> None:
    """Publish durable events, and return when they are stored."""
    await asyncio.gather(*(publisher.publish(addresses()) for _ in range(EVENTS)))


async def test_slow_and_too_slow(far_world: FarWorld, repetition: int, figure: Figure) -> None:
    """While JetStream's answers are late but in time, the bridge is whole and clients resume. When
    they are later than it waits, it says that delivery is live only and why, clients are still
    welcome, live events come as fast as before and durable ones as soon as NATS has them. When the
    answers are in time again the bridge is whole by itself, and nobody has missed anything.
    """
    world, link = far_world, far_world.link
    bridge = await world.start_bridge(BRIDGE_NATS_TIMEOUT=str(PATIENCE))
    await eventually(lambda: is_whole(bridge), "whole at first", BACK, pause=0.2)
    came: dict[str, float] = {}
    addresses = mixed(USERS, repetition)

    def note(message: dict[str, Any]) -> None:
        came.setdefault(message.get("id", ""), time.monotonic())

    async with (
        world.fleet([bridge], seed=repetition, on_message=note) as fleet,
        world.publishing(way=Plain(world.far.url), rate=0) as publisher,
    ):
        await publish_some(publisher, addresses)
        at_first = await live_delay(bridge, USERS[0], came)

        link.delay = LATE
        for client in fleet.clients:
            client.cut()
        await publish_some(publisher, addresses)
        await fleet.settled(SETTLE)

        async def are_resumed() -> bool:
            return await bridge.gauge("replays") == 0

        await eventually(are_resumed, "resumed", SETTLE)
        resumes = [each for client in fleet.clients for each in client.resumes]
        assert len(resumes) >= len(fleet.clients)
        assert all(each["recovered"] for each in resumes)
        await eventually(lambda: is_whole(bridge), "whole still", SETTLE)
        assert await can_resume(bridge)

        link.delay = TOO_LATE
        took = await eventually(lambda: is_live_only(bridge), "told", TOLD)
        checks = await bridge.ready_checks()
        assert checks["nats"] == "ok"
        assert checks["stream"] == "live only: JetStream does not answer: no answer in time"
        assert await status(bridge) == 200
        await check_live_only(bridge)
        meanwhile = await live_delay(bridge, USERS[0], came)
        assert meanwhile < TOO_LATE
        await publish_some(publisher, addresses)
        await fleet.settled(SETTLE)  # by the late link, and without a look at the stream
        assert await is_live_only(bridge)

        link.heal()
        back = await eventually(lambda: is_whole(bridge), "whole again", BACK)
        await publish_some(publisher, addresses)
        await fleet.settled(SETTLE)
        fleet.check()
        assert all(len(client.closes) == 1 for client in fleet.clients), "sent away"
    await check_whole(world, bridge)
    figure(
        f"told after {took:.1f} s, whole again {back:.1f} s after the healing; a live event took"
        f" {at_first * 1000:.1f} ms at first, {meanwhile * 1000:.1f} ms meanwhile"
    )
