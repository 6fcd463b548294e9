"""Whoever lies about places in the stream: no event of others is lost, and no cursor moves."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.subjects import Address, Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, envelope, protocol, to_user, topic, with_header
from tests.support.clients import Client, Clients, http, mint, new_user
from tests.support.republished import republished

REVIEWS = [topic("review.updated", str(number)) for number in range(3)]


def forged(bus: Bus, bridge: BridgeProcess, address: Address, sequence: int, before: int) -> bytes:
    """The stream's own headers, with a place of one's choice."""
    subject = bus.subjects.event(Root.EVENTS, address)
    return republished(subject, sequence, before, stream=bridge.settings["BRIDGE_STREAM"])


async def last(bus: Bus, bridge: BridgeProcess) -> int:
    """How far the stream reaches."""
    found = await bus.connection.jetstream().stream_info(bridge.settings["BRIDGE_STREAM"])
    return found.state.last_seq


async def rejected(bridge: BridgeProcess, reason: str) -> int:
    """How many events were refused for a reason."""
    async with http(bridge.url, mint("admin", role="admin")) as caller:
        text = (await caller.get("/metrics")).text
    found = re.search(rf'rejected\w*{{[^}}]*reason="{reason}"[^}}]*}} (\d+)', text)
    return int(found[1]) if found else 0


async def lie(bus: Bus, bridge: BridgeProcess, root: Root, user: str, reach: int) -> None:
    """Send events for many subjects on a root, with places before, amid and behind the stream's."""
    mine = to_user(user, "upload.completed", "f")
    for address in (*REVIEWS, mine):
        payload = json.dumps(envelope(address, id="forged")).encode()
        for sequence, before in (
            (reach + 50, 0),
            (reach + 120, reach + 50),
            (1, 0),
            (reach, 10**6),
        ):
            headers = forged(bus, bridge, address, sequence, before)
            if root is Root.STREAM:
                # As near as one comes who can't have the server republish it.
                headers = headers.replace(b"Nats-Subject: ", b"Nats-Subject: x.", 1)
            subject = bus.subjects.event(root, address).encode()
            await protocol(bridge.nats_url, with_header(subject, headers, payload))


async def received(client: Client, end: str) -> list[dict[str, Any]]:
    """The events up to one, without what was forged; anything but events fails."""
    messages = await client.until(end)
    assert not [each for each in messages if each["type"] == "gap"]
    return [each for each in messages if each["id"] != "forged"]


@pytest.mark.parametrize("root", [Root.SERVICE, Root.STREAM])
async def test_places_of_ones_own_choice(bridge: BridgeProcess, root: Root) -> None:
    """Of 180 durable events none is lost while somebody writes the stream's headers on subjects
    that services may publish to, or on the stream's with a place that is not theirs; and whoever
    comes back with a cursor from then gets what followed.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        client = await clients.join(user)
        await client.subscribe("review.updated")
        ids = []
        for number in range(180):
            if number % 20 == 10:
                await lie(bus, bridge, root, user, await last(bus, bridge))
            address = REVIEWS[number % 3]
            ids.append(await bus.publish(address, root=Root.EVENTS))
        end = await bus.publish(REVIEWS[0], root=Root.EVENTS)
        events = await received(client, end)
        assert [each["id"] for each in events] == ids
        reach = await last(bus, bridge)
        places = [Cursor.parse(each["cursor"]).position for each in events]
        assert places == sorted(places)
        assert places[-1] <= reach
        await lie(bus, bridge, root, user, reach)
        marker = await bus.marker(user)
        assert all("cursor" not in each for each in await client.until(marker))
        missed = [end]
        missed += [await bus.publish(REVIEWS[1], root=Root.EVENTS) for _ in range(60)]
        back = await clients.join(user)
        wish = {"events": ["review.updated"], "cursor": events[-1]["cursor"]}
        await back.ask("subscribe", wish)
        got = [await back.receive() for _ in missed]
        assert [each.get("id") for each in got] == missed
        assert (await back.expect("resume.completed"))["data"]["recovered"]


async def test_headers_that_a_publisher_wrote_before_the_servers(bridge: BridgeProcess) -> None:
    """The server appends its own: those count, and nothing else moves."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "upload.completed", "1")
        subject = bus.subjects.event(Root.EVENTS, address)
        for _ in range(5):
            event = envelope(address)
            headers = {
                "Nats-Stream": bridge.settings["BRIDGE_STREAM"],
                "Nats-Subject": subject,
                "Nats-Sequence": "999999",
                "Nats-Last-Sequence": "999998",
            }
            sequence = await bus.store(subject, json.dumps(event).encode(), headers)
            message = await client.expect_event(event["id"])
            assert Cursor.parse(message["cursor"]).position == sequence
        await client.ping()


async def test_answers_that_are_sent_to_the_streams_subjects(bridge: BridgeProcess) -> None:
    """The server writes an answer to any reply subject: neither an acknowledgement nor a stored
    event that is read there counts as the stream's.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        victim = await clients.join()
        address = to_user(victim.user, "upload.completed", "1")
        first = await bus.publish(address, root=Root.EVENTS)
        await victim.expect_event(first)
        other = to_user("someone", "upload.completed", "2")
        await bus.publish(other, root=Root.EVENTS)
        live = bus.subjects.event(Root.STREAM, address)
        name = bridge.settings["BRIDGE_STREAM"]
        before = await rejected(bridge, "NOT_FROM_STREAM")
        stored = bus.subjects.event(Root.EVENTS, other)
        for subject, payload in (
            (stored, json.dumps(envelope(other)).encode()),
            (f"$JS.API.DIRECT.GET.{name}.{stored}", b""),
            (f"$JS.API.DIRECT.GET.{name}.{bus.subjects.event(Root.EVENTS, address)}", b""),
            (f"$JS.API.DIRECT.GET.{name}", json.dumps({"seq": 1, "batch": 5}).encode()),
            (f"$JS.API.STREAM.MSG.GET.{name}", json.dumps({"seq": 1}).encode()),
            (f"$JS.API.STREAM.INFO.{name}", b""),
        ):
            await bus.connection.publish(subject, payload, reply=live)
        await bus.settle()
        second = await bus.publish(address, root=Root.EVENTS)
        assert await victim.until(second) == []
        async with asyncio.timeout(10):
            while await rejected(bridge, "NOT_FROM_STREAM") < before + 6:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_a_place_that_the_stream_does_not_have(bridge: BridgeProcess) -> None:
    """Whoever could write to the stream's own subjects, all headers in order, gets nobody to go on
    from beyond its end: the event waits until JetStream has said how far it reaches, and goes.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "upload.completed", "1")
        subject = bus.subjects.event(Root.STREAM, address).encode()
        ids = [await bus.publish(address, root=Root.EVENTS)]
        for sequence in (10**7, 10**15, 2**64 - 1):
            headers = forged(bus, bridge, address, sequence, 0)
            payload = json.dumps(envelope(address, id="forged")).encode()
            await protocol(bridge.nats_url, with_header(subject, headers, payload))
            ids += [await bus.publish(address, root=Root.EVENTS) for _ in range(5)]
        end = await bus.publish(address, root=Root.EVENTS)
        events = await client.until(end)
        assert [each.get("id") for each in events] == ids
        reach = await last(bus, bridge)
        assert all(Cursor.parse(each["cursor"]).position <= reach for each in events)
        again = await clients.join(client.user)
        assert Cursor.parse(again.established["data"]["cursor"]).position <= reach
