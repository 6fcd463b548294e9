"""Permissions of the bridge that are taken away and given back while it runs: by a broker that
reloads its settings, and by one that comes back with others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from natsbridge.publishers import EventPublisher, PublishError, PublisherSettings, UploadEvents
from natsbridge.schemas import codes
from natsbridge.schemas.subjects import Root
from tests.conftest import StartNats
from tests.support.bus import Bus, everyone, to_user, topic
from tests.support.clients import Clients, http, mint, new_user
from tests.support.faulty import FaultyBridge, World, eventually

TOLD: Final = 10.0
BACK: Final = 5.0
"""Longest times, in seconds: until clients are told, the bridge having to connect again first, and
until it is ready again.
"""
NOTICED: Final = 20.0
"""Longest time, in seconds, until the bridge has seen that there is a stream, or none."""

USER: Final = {"BRIDGE_NATS_USER": "bridge", "BRIDGE_NATS_PASSWORD": "bridge"}


class Permissions:
    """What a broker lets the bridge subscribe to: everything but what is denied."""

    def __init__(self, settings: Path, way: str) -> None:
        self.settings: Final = settings
        self._way: Final = way
        self._write()

    def _write(self, *denied: str) -> None:
        self.settings.write_text(
            f"""
            no_auth_user: any
            authorization {{ users = [
                {{ user: any, password: any }}
                {{ user: bridge, password: bridge, permissions: {{
                    subscribe: {{ allow: [">"], deny: {json.dumps(denied)} }} }} }} ] }}
            """
        )

    async def deny(self, world: World, *denied: str) -> None:
        """Deny these subjects, and nothing else any more; who waits sees when that is in force."""
        if self._way == "restart":
            await asyncio.to_thread(world.nats.stop)
        self._write(*denied)
        if self._way == "restart":
            await asyncio.to_thread(world.nats.start)
        else:
            assert world.nats.pid is not None
            os.kill(world.nats.pid, signal.SIGHUP)


@pytest.fixture(params=["reload", "restart"])
def permissions(request: pytest.FixtureRequest, tmp_path: Path) -> Permissions:
    """Permissions that change in one of two ways."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the file with the broker's settings is not in the container")
    return Permissions(tmp_path / "nats.conf", request.param)


@pytest.fixture
def guarded(start_nats: StartNats, permissions: Permissions) -> Iterator[World]:
    """A broker with these permissions."""
    world = World(start_nats(arguments=("-c", str(permissions.settings))))
    yield world
    world.close()


async def readiness(bridge: FaultyBridge) -> tuple[int, str]:
    """Return the status of ``/readyz``, and what it says of NATS."""
    async with http(bridge.url) as client:
        answer = await client.get("/readyz")
    return answer.status_code, answer.json()["checks"]["nats"]


async def test_one_topic(guarded: World, permissions: Permissions, repetition: int) -> None:
    """Whoever is subscribed to the topic, as a whole or by a resource, is sent away with 1013, and
    told when subscribing again, until that is allowed; the others stay, and get their events.
    """
    bridge = await guarded.start_bridge(**USER)
    async with Clients(bridge.url) as clients:
        wide, narrow, other, silent = [await clients.join() for _ in range(4)]
        await wide.subscribe("review.*", "upload.*")
        await narrow.subscribe("review.updated.7")
        await other.subscribe("upload.*")
        await permissions.deny(guarded, guarded.subjects.root(Root.ANY_LIVE) + ".topic.review.>")
        await wide.expect_close(codes.TRY_AGAIN_LATER, TOLD)
        await narrow.expect_close(codes.TRY_AGAIN_LATER, TOLD)
        again = await clients.join()
        answer = await again.ask("subscribe", {"events": ["review.*"]})
        assert (answer["type"], answer["data"]["code"]) == ("error", "SERVICE_UNAVAILABLE"), answer
        async with Bus(bridge) as bus:
            await bus.publish(topic("review.updated", "7"))
            for root in (Root.SERVICE, Root.EVENTS):
                event = await bus.publish(topic("upload.completed", "1"), root=root)
                await other.expect_event(event)
                event = await bus.publish(everyone("system.maintenance"), root=root)
                for client in (other, silent, again):
                    await client.expect_event(event)
            assert await readiness(bridge) == (200, "ok")
        await permissions.deny(guarded)

        async def is_accepted() -> bool:
            answer = await again.ask("subscribe", {"events": ["review.*"]})
            return bool(answer["type"] == "subscription.acknowledged")

        await eventually(is_accepted, "accepted", BACK, pause=0.3)
        async with Bus(bridge) as bus:
            await again.expect_event(await bus.publish(topic("review.updated", "7")))


async def test_what_everybody_gets(
    guarded: World, permissions: Permissions, repetition: int
) -> None:
    """All are sent away with 1013, as is whoever comes then, and the bridge is not ready until the
    permission is back: then new clients get what is sent to all.
    """
    bridge = await guarded.start_bridge(**USER)
    everybody = guarded.subjects.root(Root.ANY_LIVE) + ".all.>"
    async with Clients(bridge.url) as clients:
        some = [await clients.join() for _ in range(3)]
        await some[0].subscribe("upload.*")
        await permissions.deny(guarded, everybody)
        for client in some:
            await client.expect_close(codes.TRY_AGAIN_LATER, TOLD)
        assert await readiness(bridge) == (503, f"subscriptions are refused: {everybody}")
        early = await clients.connect(mint(new_user()))
        await early.expect_close(codes.TRY_AGAIN_LATER)
        await permissions.deny(guarded)

        async def is_ready() -> bool:
            return await readiness(bridge) == (200, "ok")

        await eventually(is_ready, "ready", BACK)
        client = await clients.join()
        async with Bus(bridge) as bus:
            for root in (Root.SERVICE, Root.EVENTS):
                event = await bus.publish(everyone("system.maintenance"), root=root)
                await client.expect_event(event)


async def test_the_inbox(guarded: World, permissions: Permissions, repetition: int) -> None:
    """Without answers from JetStream delivery is live only for those who are there, and whoever
    comes is sent away; once answers may come, clients may, and events can be resumed again.
    """
    bridge = await guarded.start_bridge(**USER)

    async def stream() -> str:
        return str((await bridge.ready_checks())["stream"])

    async def is_live_only() -> bool:
        return (await stream()).startswith("live only: ")

    async def is_whole() -> bool:
        return await stream() == "ok"

    async with Clients(bridge.url) as clients:
        client = await clients.join()
        await permissions.deny(guarded, "_INBOX.>")
        await eventually(is_live_only, "live only", NOTICED, pause=0.1)
        async with Bus(bridge) as bus:
            await client.expect_event(await bus.publish(everyone("system.maintenance")))
        assert (await readiness(bridge))[0] == 503
        early = await clients.connect(mint(new_user()))
        await early.expect_close(codes.TRY_AGAIN_LATER)
        await permissions.deny(guarded)
        await eventually(is_whole, "whole again", NOTICED, pause=0.1)
        await client.ping()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        cursor = (await clients.join("ann")).established["data"]["cursor"]
        event = await bus.publish(to_user("ann", "upload.completed", "7"), root=Root.EVENTS)
        client = await clients.join("ann", query={"cursor": cursor})
        await client.expect_event(event)
        await client.expect("resume.completed")


async def test_the_inbox_of_a_service(
    guarded: World, permissions: Permissions, repetition: int
) -> None:
    """Without it no event is acknowledged, which is an error in time; once answers may come again,
    events are.
    """
    await guarded.start_bridge(**USER)  # which makes the stream
    settings = PublisherSettings(
        url=(guarded.nats.url,),
        user="bridge",
        password=SecretStr("bridge"),
        timeout=0.5,
        publish_deadline=1.0,
        stream=guarded.stream,
        prefix=guarded.subjects.prefix,
    )
    async with EventPublisher(settings) as service:
        uploads = UploadEvents(service)
        await uploads.completed("u1", {}, to="42")
        await permissions.deny(guarded, "_INBOX.>")

        async def is_refused() -> bool:
            try:
                await uploads.completed("u2", {}, to="42")
            except PublishError:
                return True
            return False

        await eventually(is_refused, "refused", NOTICED)
        await permissions.deny(guarded)

        async def is_stored() -> bool:
            return not await is_refused()

        await eventually(is_stored, "stored again", NOTICED)
