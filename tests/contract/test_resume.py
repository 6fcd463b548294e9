"""Coming back: what a client missed comes by its cursor, in whichever way it says who it is."""

from __future__ import annotations

from typing import Any

import pytest

from natsbridge.schemas.subjects import Address, Root
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, everyone, to_user, topic
from tests.support.clients import WAYS, Client, Clients, Way, http, new_user
from tests.support.nats_server import NatsServer

REVIEW, OTHER = topic("review.updated", "77"), topic("review.updated", "78")


async def until_completed(client: Client) -> tuple[list[str], dict[str, Any]]:
    """Return the ids of the events that come before ``resume.completed``, and its data."""
    came: list[str] = []
    while (message := await client.receive())["type"] != "resume.completed":
        assert "cursor" in message, message
        came.append(message["id"])
    return came, message["data"]


async def store(bus: Bus, *addresses: Address) -> list[str]:
    """Publish durable events through the stream; return their ids."""
    return [await bus.publish(address, root=Root.EVENTS) for address in addresses]


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_comes_back_with_its_cursor(bridge: BridgeProcess, way: Way) -> None:
    """Events of the user and of everybody since then, once and in order, and then live ones."""
    user = new_user()
    mine, other = to_user(user, "upload.completed", "1"), to_user(new_user(), "file.ready", "1")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(user)
        (first,) = await store(bus, mine)
        cursor = (await client.expect_event(first))["cursor"]
        await client.socket.close()
        missed = await store(bus, mine, other, everyone("system.notification"), REVIEW, mine)
        again = await clients.join(user, way=way, query={"cursor": cursor})
        established = again.established["data"]
        assert established["cursor"] == cursor
        assert established["resume"] == {"replaying": True}
        came, data = await until_completed(again)
        assert came == [missed[0], missed[2], missed[4]]
        assert data["recovered"]
        assert data["replayed"] == 3
        (event,) = await store(bus, mine)
        await again.expect_event(event)
        await again.ping()


async def test_a_client_comes_back_with_its_patterns(bridge: BridgeProcess) -> None:
    """One cursor for its connection and for one subscribe: nothing is missing, nothing doubled."""
    user = new_user()
    mine = to_user(user, "upload.completed", "1")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(user)
        await client.subscribe("review.updated")
        (first,) = await store(bus, REVIEW)
        cursor = (await client.expect_event(first))["cursor"]
        await client.socket.close()
        missed = await store(bus, mine, REVIEW, topic("review.created", "1"), OTHER, mine)
        again = await clients.connect(client.token, query={"cursor": cursor})
        await again.send("subscribe", {"events": ["review.updated"], "cursor": cursor}, "s")
        messages = await again.until_closed_or("resume.completed")
        if messages[-1].get("reply_to") != "s":
            messages += await again.until_closed_or("resume.completed")
        came = [each["id"] for each in messages if each["type"] not in BRIDGE]
        assert sorted(came) == sorted(missed[:2] + missed[3:])
        assert [each for each in came if each in missed[0::4]] == missed[0::4]
        assert [each for each in came if each in missed[1::2]] == missed[1::2]
        ends = [each["data"] for each in messages if each["type"] == "resume.completed"]
        assert all(each["recovered"] for each in ends)
        live = await store(bus, REVIEW, mine)
        for event in live:
            await again.expect_event(event)


BRIDGE = ("connection.established", "subscription.acknowledged", "resume.completed")


async def test_the_last_events_of_a_pattern(bridge: BridgeProcess) -> None:
    """So many of those that match, oldest first, and what comes after them."""
    resource = new_user()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        events = await store(bus, *[topic("file.ready", resource), OTHER] * 5)
        client = await clients.join()
        answer = await client.ask("subscribe", {"events": [f"file.*.{resource}"], "history": 3})
        assert answer["type"] == "subscription.acknowledged", answer
        assert "cursor" not in answer["data"]
        came, data = await until_completed(client)
        assert came == events[4::2]
        assert (data["recovered"], data["replayed"]) == (True, 3)
        await client.expect_event((await store(bus, topic("file.ready", resource)))[0])


async def test_a_cursor_that_leads_nowhere_is_told(bridge: BridgeProcess) -> None:
    """Why, with a cursor to go on from; live delivery goes on."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        now = (await clients.join()).established["data"]["cursor"]
        stream = now.partition("-")[0]
        for cursor, reason in (
            ("nonsense", "CURSOR_MALFORMED"),
            (f"{stream}0-1", "STREAM_REPLACED"),
            (f"{stream}-999999999", "CURSOR_AHEAD"),
        ):
            client = await clients.join(query={"cursor": cursor})
            came, data = await until_completed(client)
            assert came == []
            assert (data["recovered"], data["reason"]) == (False, reason)
            assert data["cursor"].partition("-")[0] == stream
            event = await store(bus, to_user(client.user, "upload.completed", "1"))
            await client.expect_event(event[0])


async def test_events_that_are_gone_are_named(start_bridge: StartBridge) -> None:
    """A stream that keeps one event a subject: the range that may lack some, and the rest."""
    bridge = start_bridge(BRIDGE_STREAM_MAX_PER_SUBJECT="1")
    user = new_user()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(user)
        events = await store(bus, *[to_user(user, "upload.completed", each) for each in "11121"])
        cursors = [(await client.expect_event(event))["cursor"] for event in events]
        again = await clients.join(user, query={"cursor": cursors[0]})
        came, data = await until_completed(again)
        assert came == events[3:]
        assert (data["recovered"], data["reason"]) == (False, "CURSOR_TOO_OLD")
        assert data["missing"]["from"] == cursors[0]


async def test_without_jetstream_it_is_unavailable(
    start_bridge: StartBridge, plain_nats_server: NatsServer
) -> None:
    """The connection says so beforehand; a cursor is answered, and live delivery goes on."""
    bridge = start_bridge(plain_nats_server.url)
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(query={"cursor": "5f-1"})
        established = client.established["data"]
        assert "resume" not in established["features"]
        end = await client.expect("resume.completed", 15)
        assert (end["data"]["recovered"], end["data"]["reason"]) == (False, "UNAVAILABLE")
        event = await bus.publish(to_user(client.user, "upload.completed", "1"))
        assert "cursor" not in await client.expect_event(event)
        async with http(bridge.url) as caller:
            checks = (await caller.get("/readyz")).json()["checks"]
        assert checks["nats"] == "ok"
        assert checks["stream"] != "ok"


async def test_with_it_the_connection_says_so(bridge: BridgeProcess) -> None:
    """``resume`` and ``policy`` are among the features, and ``/readyz`` has nothing to tell."""
    async with Clients(bridge.url) as clients, http(bridge.url) as caller:
        client = await clients.join()
        assert {"resume", "policy"} <= set(client.established["data"]["features"])
        checks = (await caller.get("/readyz")).json()["checks"]
        assert checks["stream"] == "ok"
        assert checks["catch_up"] == "ok"
