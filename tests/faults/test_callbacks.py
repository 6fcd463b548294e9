"""Callbacks of nats-py that raise or stall: no other subscription stops, nor the connection.

The bridge in which something fails runs in the test's own process; its parts are the real ones, and
so are the broker and the other replica, which asks it questions. A fleet checks every event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from natsbridge.bridge.delivery.outbox import Flush
from natsbridge.bridge.nats.control import Control
from natsbridge.schemas.commands import CommandReply
from natsbridge.schemas.subjects import Audience
from tests.conftest import StartNats
from tests.support.bus import Bus, topic
from tests.support.clients import Clients, http, mint, new_user, ticket
from tests.support.faulty import USERS, FaultyBridge, World, eventually
from tests.support.inside import InsideBridge
from tests.support.nats_server import settle
from tests.support.steady_publisher import Addresses, SteadyPublisher, mixed

EVENTS = 100
"""How many are published around a fault."""
SETTLE = 15.0
NOTICE = 15.0
"""Longest times until all is there, and until a break is noticed and mended, in seconds."""
LONG = "30"
"""Seconds that an answer may take: nothing here is to wait for that."""


class Fault(RuntimeError):
    """What fails in these tests."""


def fail(*_: object) -> None:
    """Stand in for a function that has a fault."""
    raise Fault


def inside(world: World, nats_url: str | None = None) -> InsideBridge:
    """A bridge of this world in this process, by way of a proxy where a URL says so."""
    return InsideBridge(nats_url or world.nats.url, world.shared)


def faults(caplog: pytest.LogCaptureFixture) -> int:
    """How many times a fault was logged, with its traceback."""
    return sum(bool(each.exc_info) and each.exc_info[0] is Fault for each in caplog.records)


async def found_by(other: FaultyBridge, connection_id: str) -> int:
    """Ask a replica for a connection of any replica; return the HTTP status."""
    async with http(other.url, mint("admin", role="admin")) as api:
        return (await api.get(f"/ws/connections/{connection_id}")).status_code


async def check_all_goes_on(
    bridge: InsideBridge, other: FaultyBridge, publisher: SteadyPublisher
) -> None:
    """See that a new client gets all there is: a ticket of either replica redeemed at the other, a
    subscription, live and stored events, an answered command, and an admin who finds it.
    """
    async with Clients(bridge.url) as here, Clients(other.url) as there, Bus(bridge) as bus:
        word = await ticket(bridge.url, mint(new_user()))
        visitor = await there.open(query={"ticket": word})
        await visitor.expect("connection.established")
        user = new_user()
        word = await ticket(other.url, mint(user))
        client = await here.open(query={"ticket": word})
        client.established = await client.expect("connection.established")
        assert await found_by(other, client.id) == 200
        await client.subscribe(f"review.updated.{user}", f"file.processing.{user}")
        live = await bus.publish(topic("file.processing", user))
        await client.expect_event(live)
        stored = await publisher.publish(topic("review.updated", user))
        await client.expect_event(stored.id)
        late = await here.join()
        answer = await late.ask("subscribe", {"events": [f"review.*.{user}"], "history": 1})
        assert answer["type"] == "subscription.acknowledged"
        await late.expect_event(stored.id)
        assert (await late.expect("resume.completed"))["data"]["recovered"]

        async def accept(message: Msg) -> None:
            await message.respond(CommandReply(accepted=True).model_dump_json().encode())

        subject = bus.subjects.command("upload.cancel", late.user, "*")
        await bus.connection.subscribe(subject, cb=accept)
        await bus.settle()
        answer = await late.ask("upload.cancel", {"upload_id": "1"})
        assert answer["type"] == "command.accepted", answer


async def all_goes_on_again(
    bridge: InsideBridge, other: FaultyBridge, publisher: SteadyPublisher
) -> None:
    """Wait until the bridge is asked by others again, which nobody tells; then see the same."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()

        async def found() -> bool:
            return await found_by(other, client.id) == 200

        await eventually(found, "asked again", NOTICE)
    await check_all_goes_on(bridge, other, publisher)


def not_to_everybody(seed: int) -> Addresses:
    """Mixed addresses, but none that clients get who are not of the fleet."""
    dice = mixed(USERS, seed)
    return lambda: next(each for each in iter(dice, None) if each.audience is not Audience.ALL)


@contextlib.asynccontextmanager
async def audited(world: World, bridge: InsideBridge, seed: int) -> AsyncIterator[SteadyPublisher]:
    """Clients of the bridge, and events to them before, during and after the block: each of them
    has come once and in order in the end, and nobody had to leave for it.
    """
    async with world.fleet([bridge], seed=seed) as fleet:
        async with world.publishing(addresses=not_to_everybody(seed)) as publisher:
            await publisher.more(EVENTS)
            yield publisher
            await publisher.more(EVENTS)
            await publisher.finish()
        await fleet.settled(SETTLE)
        fleet.check()
        assert not any(client.closes for client in fleet.clients)


async def test_an_operation_that_raises(world: World, repetition: int) -> None:
    """Another replica's question fails here: it hears so at once, the next ones are answered, and
    events, confirmations and commands go on.
    """
    other = await world.start_bridge(BRIDGE_NATS_TIMEOUT=LONG)
    async with inside(world) as bridge, audited(world, bridge, repetition) as publisher:
        bridge.offer(connection=fail)
        async with Clients(bridge.url) as here:
            mine = await here.join()
            for _ in range(3):
                assert await found_by(other, mine.id) == 404
        bridge.offer()
        await check_all_goes_on(bridge, other, publisher)


async def test_an_answer_that_nats_py_does_not_take(
    world: World, repetition: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py may wait, for as long as it likes, with what is to be published as an answer: the
    questions behind it are answered all the same.
    """
    other = await world.start_bridge()
    async with inside(world) as bridge, audited(world, bridge, repetition) as publisher:
        publish = bridge.client.publish

        async def stall(subject: str, *args: Any, **options: Any) -> None:
            if subject.startswith("_INBOX."):
                await asyncio.Event().wait()
            await publish(subject, *args, **options)

        monkeypatch.setattr(bridge.client, "publish", stall)
        async with Clients(bridge.url) as here:
            mine = await here.join()
            for _ in range(3):
                assert await found_by(other, mine.id) == 200
        await check_all_goes_on(bridge, other, publisher)


async def test_a_subscription_that_stalls(world: World, repetition: int) -> None:
    """A callback that never returns, with more messages behind it: all others are called."""
    other = await world.start_bridge()
    stalled, release = asyncio.Event(), asyncio.Event()

    async def stall(_: Msg) -> None:
        stalled.set()
        await release.wait()

    async with (
        inside(world) as bridge,
        audited(world, bridge, repetition) as publisher,
        Bus(bridge) as bus,
    ):
        await bridge.client.subscribe("stall", cb=stall)
        await settle(bridge.client)
        for _ in range(EVENTS):
            await bus.raw("stall", b"x")
        async with asyncio.timeout(SETTLE):
            await stalled.wait()
        await check_all_goes_on(bridge, other, publisher)
        release.set()


async def test_a_subscription_that_raises(world: World, repetition: int) -> None:
    """A callback that raises is called for the next message, and so are all others."""
    other = await world.start_bridge()
    called: asyncio.Queue[bytes] = asyncio.Queue()

    async def note_and_fail(message: Msg) -> None:
        called.put_nowait(message.data)
        raise Fault

    async with (
        inside(world) as bridge,
        audited(world, bridge, repetition) as publisher,
        Bus(bridge) as bus,
    ):
        await bridge.client.subscribe("raise", cb=note_and_fail)
        await settle(bridge.client)
        for payload in (b"1", b"2", b"3"):
            await bus.raw("raise", payload)
            async with asyncio.timeout(SETTLE):
                assert await called.get() == payload
        await check_all_goes_on(bridge, other, publisher)


async def test_a_receiver_that_raises(
    world: World, repetition: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever takes what comes on a subject fails with each of it: all else that the same reads
    bring is handled, each failure is logged, and the connection stays.
    """
    other = await world.start_bridge()
    async with (
        inside(world) as bridge,
        audited(world, bridge, repetition) as publisher,
        Bus(bridge) as bus,
    ):
        await bridge.receive("faulty", fail)
        client = bridge.client
        for _ in range(EVENTS):
            await bus.raw("faulty", b"x")
        await check_all_goes_on(bridge, other, publisher)
        assert (bridge.client, client.stats["reconnects"]) == (client, 0)
    assert faults(caplog) == EVENTS


async def test_the_end_of_a_read_that_raises(
    world: World,
    repetition: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What writes the events that a read brought fails now and then: the connection stays, and the
    next read writes them too.
    """
    other = await world.start_bridge()
    end, reads = Flush.end, iter(range(EVENTS))

    def fail_sometimes(flush: Flush, more: bool) -> None:
        if next(reads, 0) % 2:
            raise Fault
        end(flush, more)

    async with inside(world) as bridge:
        monkeypatch.setattr(Flush, "end", fail_sometimes)
        client = bridge.client
        async with audited(world, bridge, repetition) as publisher:
            await eventually(lambda: next(reads, None) is None, "done with failing", SETTLE)
            await check_all_goes_on(bridge, other, publisher)
        assert (bridge.client, client.stats["reconnects"]) == (client, 0)
    assert faults(caplog) > 0


class FaultyLatch:
    """Waits for a PONG, and fails when it comes."""

    def done(self) -> bool:
        return False

    def set_result(self, _: bool) -> None:
        raise Fault


async def test_a_confirmation_that_raises(
    world: World, repetition: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for NATS's confirmation fails when it comes: those behind it are told."""
    other = await world.start_bridge()
    async with inside(world) as bridge, audited(world, bridge, repetition) as publisher:
        for _ in range(3):
            bridge.connection.ping(b"", FaultyLatch())
            await bridge.connection.round_trip(SETTLE)
        await check_all_goes_on(bridge, other, publisher)
    assert faults(caplog) == 3


async def test_a_refusal_that_raises(
    start_nats: StartNats,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    repetition: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """NATS denies a subscription, and whoever is told fails: everybody else's go on."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the file with the broker's settings is not in the container")
    settings = tmp_path / "nats.conf"
    settings.write_text(
        """
        no_auth_user: any
        authorization { users = [ { user: any, password: any, permissions: {
            subscribe: { deny: "*.live.*.user.denied.>" } } } ] }
        """
    )
    world = World(start_nats(arguments=("-c", str(settings))))
    try:
        other = await world.start_bridge()
        async with inside(world) as bridge, audited(world, bridge, repetition) as publisher:
            bridge.connection.on_denied = fail
            async with Clients(bridge.url) as clients:
                await clients.join("denied")
            await check_all_goes_on(bridge, other, publisher)
        assert faults(caplog) == 1
    finally:
        world.close()


@pytest.mark.parametrize("for_good", [False, True], ids=["cut", "closed"])
async def test_a_change_of_the_connection_that_raises(
    world: World, repetition: int, for_good: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Parts of the bridge fail when they are told that NATS is gone and back: the others are told,
    the bridge connects again, and what was missed is delivered.
    """
    proxy = world.proxy()
    other = await world.start_bridge()
    down, up = asyncio.Event(), asyncio.Event()
    async with inside(world, proxy.url) as bridge, audited(world, bridge, repetition) as publisher:
        connection = bridge.connection
        connection.on_down = (fail, *connection.on_down, down.set)
        connection.on_up = (fail, *connection.on_up, up.set)
        connection.on_socket = fail
        if for_good:
            connection.write(b"NONSENSE\r\n")
        else:
            proxy.cut()
        async with asyncio.timeout(NOTICE):
            await down.wait()
            await up.wait()
        await all_goes_on_again(bridge, other, publisher)
        assert faults(caplog) == 4  # on_socket twice


async def test_listening_again_that_stalls(
    world: World, repetition: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the bridge does after a break never ends: it is connected, and all else goes on."""
    proxy = world.proxy()
    other = await world.start_bridge()
    stalled = asyncio.Event()

    async def stall(_: Control) -> None:
        stalled.set()
        await asyncio.Event().wait()

    async with inside(world, proxy.url) as bridge, audited(world, bridge, repetition) as publisher:
        monkeypatch.setattr(Control, "listen", stall)
        for _ in range(2):
            stalled.clear()
            proxy.cut()
            async with asyncio.timeout(NOTICE):
                await stalled.wait()
            await all_goes_on_again(bridge, other, publisher)
