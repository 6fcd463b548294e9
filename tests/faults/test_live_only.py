"""JetStream that is not there: live delivery goes on, it is told, and it comes back by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.js.api import RePublish, StreamConfig

from natsbridge.bridge.nats.shape import event_subjects
from tests.conftest import StartNats
from tests.faults.test_retention import jetstream
from tests.support.bus import CATALOGUE, Bus, to_user
from tests.support.clients import Clients
from tests.support.faulty import FaultyBridge, World, eventually

GIVEN_UP = 15.0
BACK = 40.0
"""Longest times until a replay is given up, and until JetStream is seen to be there, in seconds."""


async def is_whole(bridge: FaultyBridge) -> bool:
    """Whether the bridge says that nothing is wrong with the stream, and nothing to be read."""
    checks = await bridge.ready_checks()
    return bool(checks["stream"] == checks["catch_up"] == "ok")


async def is_live_only(bridge: FaultyBridge) -> bool:
    """Whether the bridge says that delivery is live only; nothing is to be read then."""
    checks = await bridge.ready_checks()
    assert checks["catch_up"] == "ok", checks
    return bool(checks["stream"].startswith("live only: "))


async def can_resume(bridge: FaultyBridge) -> bool:
    """Whether a client that connects now is told that it may resume."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        return "resume" in client.established["data"]["features"]


async def check_live_only(bridge: FaultyBridge) -> None:
    """See that the state is told, and that live events come."""
    assert await is_live_only(bridge)
    assert await bridge.gauge("stream_up") == 0
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
    assert await bridge.gauge("stream_up") == 1
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
        async with Clients(bridge.url) as clients:
            # It is known, so nobody waits for it.
            client = await clients.join(query={"cursor": "abc-1"})
            assert client.established["data"]["resume"] == {"replaying": False}
            await client.expect("resume.completed", 2.0)
        world.nats.stop()

        async def is_unknown() -> bool:
            stream: str = (await bridge.ready_checks())["stream"]
            assert stream != "ok"
            return stream.startswith(("unknown", "live only"))

        await eventually(is_unknown, "not vouched for", BACK, pause=0.2)
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
                subjects=event_subjects(CATALOGUE, world.subjects),
                republish=RePublish(src=f"{root}.events.>", dest=f"{root}.live.stream.>"),
                allow_direct=True,
            )
        )
    await check_whole(world, bridge)


async def test_stream_that_is_deleted(world: World) -> None:
    """A stream that goes away while the bridge runs is missed, and made anew."""
    bridge = await world.start_bridge()
    assert await is_whole(bridge)
    assert await bridge.gauge("stream_up") == 1
    async with jetstream(world) as js:
        await js.delete_stream(world.stream)
    await check_whole(world, bridge)


NOT_ALLOWED = "it does not exist, and NATS does not allow this user to make it"
PATIENT = {"BRIDGE_NATS_TIMEOUT": "60"}
"""A bridge that waited for answers that can't come would not be ready in time."""


@pytest.fixture
def forbidding(
    start_nats: StartNats, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A broker on which nobody but the administrator may make or change a stream."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the file with the broker's settings is not in the container")
    settings = tmp_path / "nats.conf"
    settings.write_text(
        """
        no_auth_user: any
        authorization { users = [
            { user: admin, password: admin }
            { user: any, password: any, permissions: {
                publish: { deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.UPDATE.>"] } } } ] }
        """
    )
    world = World(start_nats(arguments=("-c", str(settings))))
    yield world
    world.close()


async def administer(world: World, *, allow_direct: bool, update: bool = False) -> None:
    """Make or change the stream as the administrator."""
    root = world.subjects.prefix
    config = StreamConfig(
        name=world.stream,
        subjects=event_subjects(CATALOGUE, world.subjects),
        republish=RePublish(src=f"{root}.events.>", dest=f"{root}.live.stream.>"),
        allow_direct=allow_direct,
    )
    admin = await nats.connect(world.nats.url, user="admin", password="admin")
    try:
        js = admin.jetstream()
        await (js.update_stream(config) if update else js.add_stream(config))
    finally:
        await admin.close()


async def test_stream_that_may_not_be_made(forbidding: World) -> None:
    """A bridge whose NATS user may not make the stream says so at once and once, is live only,
    does not ask again and again, and is whole when somebody else has made it.
    """
    bridge = await forbidding.start_bridge(**PATIENT)
    assert (await bridge.ready_checks())["stream"] == f"live only: {NOT_ALLOWED}"
    await check_live_only(bridge)
    await administer(forbidding, allow_direct=True)
    await check_whole(forbidding, bridge)
    assert bridge.output.count(f"{NOT_ALLOWED}; delivery is live only") == 1
    assert len(re.findall("permissions violation", bridge.output, re.IGNORECASE)) == 1


async def test_stream_that_may_not_be_made_and_differs(forbidding: World) -> None:
    """Where it is there and would break delivery, a bridge that may not change it says in what,
    and is whole when somebody else has mended it.
    """
    await administer(forbidding, allow_direct=False)
    bridge = await forbidding.start_bridge(**PATIENT)
    said = (
        "allow_direct is off, not on "
        "(what is stored can't be read; `natsbridge stream apply` mends it)"
    )
    assert (await bridge.ready_checks())["stream"] == f"live only: {said}"
    assert not await can_resume(bridge)
    await administer(forbidding, allow_direct=True, update=True)
    await check_whole(forbidding, bridge)
    assert "permissions violation" not in bridge.output


async def test_stream_that_may_be_made_after_all(forbidding: World, tmp_path: Path) -> None:
    """A bridge that comes back to a broker with other permissions makes the stream."""
    bridge = await forbidding.start_bridge()
    assert (await bridge.ready_checks())["stream"] == f"live only: {NOT_ALLOWED}"
    forbidding.nats.stop()
    (tmp_path / "nats.conf").write_text("")
    forbidding.nats.start()
    await check_whole(forbidding, bridge)
