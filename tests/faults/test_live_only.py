"""JetStream that is not there: live delivery goes on, it is told, and it comes back by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from nats.js.api import RePublish, StreamConfig

from tests.conftest import StartNats
from tests.faults.test_retention import jetstream
from tests.support.bus import Bus, to_user
from tests.support.clients import Clients
from tests.support.faulty import FaultyBridge, World, eventually

GIVEN_UP = 15.0
BACK = 40.0
"""Longest times until a replay is given up, and until JetStream is seen to be there, in seconds."""


async def is_whole(bridge: FaultyBridge) -> bool:
    """Whether the bridge says that nothing is wrong with the stream."""
    return bool((await bridge.ready_checks()).get("stream", "ok") == "ok")


async def can_resume(bridge: FaultyBridge) -> bool:
    """Whether a client that connects now is told that it may resume."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        return "resume" in client.established["data"]["features"]


async def check_live_only(bridge: FaultyBridge) -> None:
    """See that the state is told, and that live events come."""
    assert not await is_whole(bridge)
    assert not await can_resume(bridge)
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(query={"cursor": "abc-1"})
        end = await client.expect("resume.completed", GIVEN_UP)
        assert (end["data"]["recovered"], end["data"]["reason"]) == (False, "UNAVAILABLE")
        await client.subscribe("review.*")
        for kind in ("upload.progress", "upload.completed"):
            event = await bus.publish(to_user(client.user, kind, "1"))
            message = await client.expect_event(event)
            assert "cursor" not in message


async def check_whole(world: World, bridge: FaultyBridge) -> None:
    """See that durable events are stored, delivered and resumed again."""
    await eventually(lambda: is_whole(bridge), "told to be whole", BACK, pause=0.2)
    await eventually(lambda: can_resume(bridge), "able to resume", BACK, pause=0.2)
    async with world.fleet([bridge]) as fleet, world.publishing() as publisher:
        await publisher.more(50)
        for client in fleet.clients:
            client.cut()
        await publisher.more(50)
        await publisher.finish()
        await fleet.settled(15)
        fleet.check()


async def test_broker_without_jetstream(
    start_nats: StartNats, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A broker without JetStream, which then starts with it."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the file with the broker's settings is not in the container")
    settings = tmp_path / "nats.conf"
    settings.write_text("")
    world = World(start_nats(jetstream=False, arguments=("-c", str(settings))))
    try:
        bridge = await world.start_bridge()
        await check_live_only(bridge)
        world.nats.stop()
        settings.write_text(f'jetstream {{ store_dir: "{tmp_path}/stored" }}\n')
        world.nats.start()
        await check_whole(world, bridge)
    finally:
        world.close()


async def test_stream_that_nobody_made(world: World) -> None:
    """A bridge that may not make the stream says so until somebody has made it."""
    bridge = await world.start_bridge(BRIDGE_STREAM_CREATE="false")
    await check_live_only(bridge)
    root = world.subjects.prefix
    async with jetstream(world) as js:
        await js.add_stream(
            StreamConfig(
                name=world.stream,
                subjects=[f"{root}.events.>"],
                republish=RePublish(src=f"{root}.events.>", dest=f"{root}.live.>"),
                allow_direct=True,
            )
        )
    await check_whole(world, bridge)


async def test_stream_that_is_deleted(world: World) -> None:
    """A stream that goes away while the bridge runs is missed, and made anew."""
    bridge = await world.start_bridge()
    async with jetstream(world) as js:
        await js.delete_stream(world.stream)
    await check_whole(world, bridge)
