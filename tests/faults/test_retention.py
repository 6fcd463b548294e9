"""What the stream no longer holds, or never held: told exactly, and live delivery goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.js import JetStreamContext

from tests.support.accounting import Ledger, Missing, sequence_of
from tests.support.bus import everyone, topic
from tests.support.faulty import World, eventually
from tests.support.fleet import Fleet
from tests.support.resuming_client import ResumingClient
from tests.support.steady_publisher import SteadyPublisher

SETTLE = 10.0


@asynccontextmanager
async def jetstream(world: World) -> AsyncIterator[JetStreamContext]:
    """Give an administrator's way to the stream."""
    connection = await nats.connect(world.nats.url)
    try:
        yield connection.jetstream()
    finally:
        await connection.close()


async def leave(fleet: Fleet) -> None:
    """Let all clients leave, with the cursors that they have."""
    for client in fleet.clients:
        await client.stop()


async def resumed(client: ResumingClient, known: int) -> None:
    """Wait until it was told of one more resume than were known."""
    await client.until(lambda: client.is_ready and len(client.resumes) > known, "resumed", SETTLE)


async def told(client: ResumingClient) -> dict[str, Any]:
    """Wait for the one gap that it is told of."""
    await client.until(lambda: bool(client.gaps), "told", SETTLE)
    [gap] = client.gaps
    return gap


async def come_back(fleet: Fleet) -> None:
    """Let all clients come back, and wait until they were told how that went."""
    known = [len(client.resumes) for client in fleet.clients]
    for client in fleet.clients:
        client.begin()
    for client, count in zip(fleet.clients, known, strict=True):
        await resumed(client, count)


async def publish_some(publisher: SteadyPublisher, count: int) -> int:
    """Publish so many events to a topic and to everybody; return the last one's sequence."""
    last = 0
    for number in range(count):
        addresses = (topic("review.updated", "1"), everyone("system.maintenance"))
        last = (await publisher.publish(addresses[number % 2])).sequence
    return last


def check_told(fleet: Fleet, to: int) -> None:
    """Each client was told of one range, from the cursor that it gave up to this sequence."""
    for client in fleet.clients:
        given = client.established[-1]["cursor"]
        short = [each for each in client.resumes if not each["recovered"]]
        assert short, client
        assert {each["reason"] for each in short} == {"CURSOR_TOO_OLD"}, client
        ranges = {
            (sequence_of(each["missing"]["from"]), sequence_of(each["missing"]["to"]))
            for each in short
        }
        assert ranges == {(sequence_of(given), to)}, client
        assert Missing(sequence_of(given), to) in client.account.missing


async def test_purged_while_away(world: World, repetition: int) -> None:
    """The stream is purged up to a sequence: the rest is replayed, and the range is named."""
    bridge = await world.start_bridge()
    async with (
        world.fleet([bridge], seed=repetition) as fleet,
        world.publishing(rate=0) as publisher,
        jetstream(world) as js,
    ):
        await publish_some(publisher, 20)
        await fleet.settled(SETTLE)
        await leave(fleet)
        first = await publish_some(publisher, 30) - 10
        await js.purge_stream(world.stream, seq=first)
        await come_back(fleet)
        check_told(fleet, first - 1)
        await publish_some(publisher, 10)
        await fleet.settled(SETTLE)
        fleet.check()


async def test_purged_whole_while_away(world: World, repetition: int) -> None:
    """Nothing is left of what was missed: the range goes up to the last that there was."""
    bridge = await world.start_bridge()
    async with (
        world.fleet([bridge], seed=repetition) as fleet,
        world.publishing(rate=0) as publisher,
        jetstream(world) as js,
    ):
        await publish_some(publisher, 20)
        await fleet.settled(SETTLE)
        await leave(fleet)
        last = await publish_some(publisher, 30)
        await js.purge_stream(world.stream)
        await come_back(fleet)
        check_told(fleet, last)
        await publish_some(publisher, 10)
        await fleet.settled(SETTLE)
        fleet.check()


async def test_purged_before_the_cursor(world: World, repetition: int) -> None:
    """Retention took nothing that the clients had not, time and again: each resume is whole."""
    bridge = await world.start_bridge()
    async with (
        world.fleet([bridge], seed=repetition) as fleet,
        world.publishing(rate=0) as publisher,
        jetstream(world) as js,
    ):
        for _ in range(3):
            last = await publish_some(publisher, 20)
            await fleet.settled(SETTLE)
            await leave(fleet)
            await js.purge_stream(world.stream, seq=last + 1)
            await publish_some(publisher, 10)
            await come_back(fleet)
        await fleet.settled(SETTLE)
        fleet.check()
        for client in fleet.clients:
            assert all(each["recovered"] for each in client.resumes), client


async def test_purged_while_the_bridge_is_cut_off(world: World, repetition: int) -> None:
    """The bridge itself misses events that the stream no longer has: open connections are told."""
    proxy = world.proxy()
    bridge = await world.start_bridge(proxy.url)
    async with (
        world.fleet([bridge], seed=repetition) as fleet,
        world.publishing(rate=0) as publisher,
        jetstream(world) as js,
    ):
        known = await publish_some(publisher, 20)
        await fleet.settled(SETTLE)
        proxy.refuse()
        first = await publish_some(publisher, 30) - 10
        await js.purge_stream(world.stream, seq=first)
        proxy.heal()
        await publish_some(publisher, 10)
        await fleet.settled(SETTLE)
        fleet.check()
        for client in fleet.clients:
            gap = await told(client)
            assert (gap["reason"], gap["recoverable"]) == ("RETENTION", False), client
            assert client.account.missing == [Missing(known, first - 1)], client
            assert not client.closes


async def test_too_old(world: World, repetition: int) -> None:
    """Events age out of the stream while the clients are away."""
    bridge = await world.start_bridge(BRIDGE_STREAM_MAX_AGE="2")
    async with (
        world.fleet([bridge], seed=repetition) as fleet,
        world.publishing(rate=0) as publisher,
        jetstream(world) as js,
    ):
        await publish_some(publisher, 20)
        await fleet.settled(SETTLE)
        await leave(fleet)
        last = await publish_some(publisher, 30)

        async def empty() -> bool:
            return (await js.stream_info(world.stream)).state.messages == 0

        await eventually(empty, "empty", 10)
        await come_back(fleet)
        check_told(fleet, last)
        await publish_some(publisher, 10)
        await fleet.settled(SETTLE)
        fleet.check()


async def test_replaced_while_away(world: World, repetition: int) -> None:
    """The stream is another one with the same name: old cursors are told so, new ones are good."""
    bridge = await world.start_bridge()
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing(rate=0) as publisher, jetstream(world) as js:
            await publish_some(publisher, 20)
            await fleet.settled(SETTLE)
            fleet.check()
            await leave(fleet)
            await replace(world, js)
            begin_anew(world, fleet)
        async with world.publishing(rate=0) as publisher:
            last = await publish_some(publisher, 5)
            await come_back(fleet)
            for client in fleet.clients:
                end = client.resumes[-1]
                assert (end["recovered"], end["reason"]) == (False, "STREAM_REPLACED"), client
                assert "missing" not in end, client
                client.account.start = max(last, newest(client))
            await publish_some(publisher, 10)
            await fleet.settled(SETTLE)
            await leave(fleet)
            await publish_some(publisher, 10)
            await come_back(fleet)
            assert all(client.resumes[-1]["recovered"] for client in fleet.clients)
            await fleet.settled(SETTLE)
            fleet.check()


async def test_replaced_while_connected(world: World, repetition: int) -> None:
    """Clients that stay are told of the gap, and have what the new stream gets after that."""
    bridge = await world.start_bridge()
    async with world.fleet([bridge], seed=repetition) as fleet:
        async with world.publishing(rate=0) as publisher, jetstream(world) as js:
            await publish_some(publisher, 20)
            await fleet.settled(SETTLE)
            fleet.check()
            begin_anew(world, fleet)
            await replace(world, js)
        async with world.publishing(rate=0) as publisher:
            last = await publish_some(publisher, 5)
            for client in fleet.clients:
                gap = await told(client)
                assert gap["reason"] == "STREAM_REPLACED", client
                assert (gap["from"], gap["to"], gap["recoverable"]) == (None, None, False), client
                # Until the bridge knows of the new stream its cursors are of the old one.
                client.account.stepped_back.clear()
                client.account.start = max(last, newest(client))
            await publish_some(publisher, 10)
            await fleet.settled(SETTLE)
            fleet.check()
            assert not any(client.closes for client in fleet.clients)


async def replace(world: World, js: JetStreamContext) -> None:
    """Delete the stream and make one with the same settings."""
    config = (await js.stream_info(world.stream)).config
    await js.delete_stream(world.stream)
    await js.add_stream(config)


def newest(client: ResumingClient) -> int:
    """The highest sequence of what it got since it began anew."""
    return max((max(each.sequences) for each in client.account.seen), default=0)


def begin_anew(world: World, fleet: Fleet) -> None:
    """Count from here on, with sequences that begin at 1 again."""
    world.ledger = fleet.ledger = Ledger()
    for client in fleet.clients:
        client.account.entries.clear()
