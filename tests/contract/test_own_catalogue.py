"""Event types of one's own, named by ``BRIDGE_CATALOGUE``, are as good as the project's."""

from __future__ import annotations

import json

import pytest

from natsbridge.schemas.subjects import Root
from tests.support.bridge import ROOT, BridgeProcess
from tests.support.bus import Bus, envelope, everyone, next_message, to_user, topic
from tests.support.clients import Clients, allow, new_user

PAID = {"invoice_id": "F/1", "amount_cents": 1999}
AUDIT = {"what": "login"}


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """The module with the event types; the bridge starts where Python finds it."""
    return {"BRIDGE_CATALOGUE": "tests.support.own_events", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("pattern", ["invoice.*", "invoice.paid.F=2F1", "*.paid", ">"])
async def test_own_type_is_delivered(bridge: BridgeProcess, pattern: str) -> None:
    """Patterns cover it, the stream carries it, and its model checks it."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        data = await client.subscribe(pattern)
        assert "invoice.paid" in data["effective"]
        event = await bus.publish(topic("invoice.paid", "F/1"), PAID, root=Root.EVENTS)
        message = await client.expect_event(event)
        assert message["data"] == PAID
        assert message["cursor"]


async def test_own_type_is_checked(bridge: BridgeProcess) -> None:
    """What its model refuses goes back with the reason."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        rejected = await bus.watch_rejected()
        await bus.publish(to_user(client.user, "invoice.paid", "1"), {"invoice_id": "1"})
        marker = await bus.publish(to_user(client.user, "invoice.paid", "F/1"), PAID)
        assert await client.until(marker) == []
        headers = (await next_message(rejected)).headers
        assert headers is not None
        assert headers["Bridge-Reject-Reason"] == "INVALID_DATA"


async def test_audience_that_is_not_allowed(bridge: BridgeProcess) -> None:
    """A type that is for single users reaches its user, and never everybody."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe("invoice.draft", "system.notification")
        rejected = await bus.watch_rejected()
        for address in (everyone("invoice.draft"), topic("invoice.draft")):
            event = json.dumps(envelope(address, {"text": "secret"})).encode()
            await bus.raw(bus.subjects.event(Root.SERVICE, address), event)
        for address in (everyone("system.notification"), topic("system.notification")):
            marker = await bus.publish(address)
            assert await client.until(marker) == []
        headers = (await next_message(rejected)).headers
        assert headers is not None
        assert headers["Bridge-Reject-Reason"] == "AUDIENCE_NOT_ALLOWED"
        own = await bus.publish(to_user(client.user, "invoice.draft"), {"text": "mine"})
        await client.expect_event(own)


async def test_admin_only_type(bridge: BridgeProcess) -> None:
    """A type marked for admins is outside of everybody else's default grants, however it comes."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        admin = await clients.join(role="admin")
        plain = await clients.join(user)
        listed = await clients.join(roles=["editor", "admin"])
        assert (await plain.refused("audit.*"))["reasons"] == {"audit.*": "NOT_PERMITTED"}
        assert "audit.recorded" not in (await plain.subscribe(">"))["effective"]
        for client in (admin, listed):
            assert (await client.subscribe("audit.*"))["effective"] == ["audit.recorded"]
        for_topic = await bus.publish(topic("audit.recorded"), AUDIT)
        for_all = await bus.publish(everyone("audit.recorded"), AUDIT)
        await bus.publish(to_user(user, "audit.recorded"), AUDIT)
        for client in (admin, listed):
            await client.expect_event(for_topic)
            await client.expect_event(for_all)
        marker = await bus.marker(user)
        assert await plain.until(marker) == []


async def test_admin_only_type_by_grant(bridge: BridgeProcess) -> None:
    """A token that is granted such a type by name may see it."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(grants=allow("audit.*"))
        await client.subscribe("audit.recorded")
        event = await bus.publish(topic("audit.recorded"), AUDIT)
        await client.expect_event(event)
