"""Two bridges of one deployment of which one knows an event type that the other does not."""

from __future__ import annotations

from typing import Any

import pytest

from natsbridge.schemas.subjects import Address, Root
from tests.support.bridge import ROOT, StartBridge
from tests.support.bus import Bus, everyone, to_user, topic
from tests.support.clients import Client, Clients, allow, new_user

NEWER = {"BRIDGE_CATALOGUE": "tests.support.own_events", "PYTHONPATH": str(ROOT)}
PAID = {"invoice_id": "F/1", "amount_cents": 1999}


async def read_until(client: Client, kind: str, times: int) -> list[dict[str, Any]]:
    """Return the messages up to the last of so many of this type."""
    messages: list[dict[str, Any]] = []
    while times:
        messages.append(await client.receive())
        times -= messages[-1]["type"] == kind
    return messages


@pytest.mark.parametrize(
    ("pattern", "grants", "told"),
    [
        (">", allow(">"), ["user", "topic", "all"]),
        ("*.*.F=2F1", allow(">"), ["user", "topic", "all"]),
        ("*.*.F=2F2", allow(">"), ["user", "all"]),
        ("review.*", allow(">"), ["user", "all"]),
        (">", allow(">", deny=["invoice.*"]), []),
        (">", allow("invoice.paid.F=2F2", "review.*"), []),
        (">", allow("invoice.paid.F=2F1", "review.*"), ["user", "topic", "all"]),
    ],
)
async def test_what_a_bridge_does_not_know_is_a_gap_in_its_place(
    start_bridge: StartBridge, pattern: str, grants: dict[str, Any], told: list[str]
) -> None:
    """A resume tells of each stored event whose type is another bridge's, if its patterns and
    grants cover it, and nobody else.
    """
    old = start_bridge()
    same = {name: old.settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")}
    start_bridge(**NEWER, **same)
    user = new_user()
    addresses: dict[str, Address] = {
        "user": to_user(user, "invoice.paid", "F/1"),
        "topic": topic("invoice.paid", "F/1"),
        "all": everyone("invoice.paid", "F/1"),
    }
    async with Clients(old.url) as clients, Bus(old) as bus:
        first = await clients.join(user, grants=grants)
        cursor = (await first.subscribe("review.*"))["cursor"]
        places = {}
        for name, address in addresses.items():
            await bus.publish(topic("review.updated", "F/1"), root=Root.EVENTS)
            await bus.publish(address, PAID, root=Root.EVENTS)
            places[name] = 2 * len(places) + 1
        last = await bus.publish(topic("review.updated", "F/1"), root=Root.EVENTS)
        again = await clients.join(user, query={"cursor": cursor}, grants=grants)
        await again.send("subscribe", {"events": [pattern, "review.*"], "cursor": cursor}, "s")
        messages = await read_until(again, "resume.completed", 2)
        gaps = [each["data"] for each in messages if each["type"] == "gap"]
        assert all(gap["reason"] == "UNKNOWN_EVENT" for gap in gaps)
        begun = int(cursor.split("-")[1])
        for name in told:
            # The place of topics, or that of the user's own events, where they differ.
            place = str(begun + places[name] + 1)
            assert any(place in gap["to"].split("-")[1:] for gap in gaps), (name, gaps)
        assert len(gaps) == len(told)
        assert [each["id"] for each in messages if each["type"] == "review.updated"][-1] == last
