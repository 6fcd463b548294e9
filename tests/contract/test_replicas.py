"""Two bridges on one NATS: clients may come to either."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from natsbridge.schemas import codes
from natsbridge.schemas.subjects import Root
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, everyone, next_message, to_user, topic
from tests.support.clients import Clients, http, mint, new_user, ticket

StartPair = Callable[[], tuple[BridgeProcess, BridgeProcess]]


@pytest.fixture
def start_pair(start_bridge: StartBridge) -> StartPair:
    """Start two bridges with the same subjects and the same stream."""

    def start() -> tuple[BridgeProcess, BridgeProcess]:
        name = uuid4().hex[:12]
        settings = {"BRIDGE_SUBJECT_PREFIX": f"t{name}", "BRIDGE_STREAM": f"T{name}"}
        return start_bridge(**settings), start_bridge(**settings)

    return start


async def test_ticket_is_good_at_either(start_pair: StartPair) -> None:
    """A ticket from one replica opens a connection at the other, once, and then nowhere."""
    first, second = start_pair()
    user = new_user()
    value = await ticket(first.url, mint(user))
    async with Clients(first.url) as here, Clients(second.url) as there:
        client = await there.open(query={"ticket": value})
        established = await client.expect("connection.established")
        assert established["data"]["user_id"] == user
        for clients in (here, there):
            again = await clients.open(query={"ticket": value})
            await again.expect_close(codes.TOKEN_EXPIRED)
        await client.ping()


async def test_events_reach_both(start_pair: StartPair) -> None:
    """A user's connections at both replicas get the user's events, and subscribers theirs, once."""
    first, second = start_pair()
    user = new_user()
    async with Clients(first.url) as here, Clients(second.url) as there, Bus(first) as bus:
        crowd = [await here.join(user), await there.join(user)]
        for client in crowd:
            await client.subscribe("review.updated")
        for root in (Root.SERVICE, Root.EVENTS):
            for address in (
                to_user(user, "upload.completed", "1"),
                everyone("system.notification"),
                topic("review.updated", "1"),
            ):
                event = await bus.publish(address, root=root)
                cursors = {(await each.expect_event(event)).get("cursor") for each in crowd}
                assert len(cursors) == 1
                assert (None in cursors) is (root is Root.SERVICE)
        for client in crowd:
            await client.ping()


async def test_wrong_events_at_both(start_pair: StartPair) -> None:
    """An event that is refused reaches no client of either, and its owner hears of it."""
    first, second = start_pair()
    async with Clients(first.url) as here, Clients(second.url) as there, Bus(first) as bus:
        crowd = [await here.join(), await there.join()]
        rejected = await bus.watch_rejected()
        await bus.raw(bus.subjects.event(Root.SERVICE, everyone("system.notification")), b"wrong")
        marker = await bus.publish(everyone("system.notification"))
        for client in crowd:
            assert await client.until(marker) == []
        assert (await next_message(rejected)).data == b"wrong"


async def test_one_goes_the_other_stays(start_pair: StartPair) -> None:
    """A replica that stops takes nothing from the other's clients."""
    first, second = start_pair()
    async with Clients(first.url) as here, Clients(second.url) as there, Bus(second) as bus:
        going, staying = await here.join(), await there.join()
        await staying.subscribe("review.updated")
        first.terminate()
        await going.expect("connection.draining")
        await going.expect_close(codes.GOING_AWAY)
        event = await bus.publish(topic("review.updated", "1"), root=Root.EVENTS)
        await staying.expect_event(event)
        await there.join(going.user)


async def test_admin_of_both(start_pair: StartPair) -> None:
    """An admin who comes to one replica finds, tells and sends away the clients of both."""
    first, second = start_pair()
    token = mint(new_user("admin"), role="admin")
    async with (
        Clients(first.url) as here,
        Clients(second.url) as there,
        http(first.url, token) as admin,
    ):
        near, far, other = await here.join(), await there.join(), await there.join()
        detail = await admin.get(f"/ws/connections/{far.id}")
        assert detail.json()["data"]["user_id"] == far.user
        body = {"type": "system.notification", "data": {"message": "to all"}}
        told = (await admin.post("/ws/broadcast", json=body)).json()["data"]
        assert told["connections_reached"] == 3
        for client in (near, far, other):
            assert (await client.receive())["id"] == told["message_id"]
        assert (await admin.delete(f"/ws/connections/{far.id}")).is_success
        await far.expect_close(codes.RECONNECT)
        assert (await admin.post(f"/ws/users/{other.user}/disconnect")).is_success
        await other.expect_close(codes.RECONNECT)
        await near.ping()
