"""Grants: what is delivered is the wish within what the token permits, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, everyone, to_user, topic
from tests.support.clients import Clients, allow, mint, new_user

ID = "{user_id}"

# grants, wish, effective types, what arrives of EVENTS; ME stands for the token's subject
ME = "me.and@myself"
EVENTS = [
    ("review.updated", "77"),
    ("review.updated", "78"),
    ("review.created", "77"),
    ("upload.progress", "77"),
    ("user.status_changed", ME),
    ("user.status_changed", "somebody"),
]
GRANTED: list[tuple[dict[str, Any], str, list[str] | None, list[int]]] = [
    (allow("review.updated"), "review.*", ["review.updated"], [0, 1]),
    (allow("review.updated.77"), "review.updated", ["review.updated"], [0]),
    (allow("review.*.77", "upload.>"), "*.*.77", None, [0, 2, 3]),
    (allow(">", deny=["review.updated.77"]), "review.updated", ["review.updated"], [1]),
    (allow(">", deny=["review.updated"]), "review.*.77", ["review.created", "review.deleted"], [2]),
    (allow("review.*", deny=["*.*.77"]), ">", None, [1]),
    (allow(f"user.status_changed.{ID}"), "user.*", ["user.status_changed"], [4]),
    (allow(">", deny=[f"user.*.{ID}"]), "user.>", ["user.status_changed"], [5]),
]


@pytest.mark.parametrize(("grants", "wish", "effective", "arriving"), GRANTED)
async def test_wish_within_the_grants(
    bridge: BridgeProcess,
    grants: dict[str, Any],
    wish: str,
    effective: list[str] | None,
    arriving: list[int],
) -> None:
    """A wide wish is accepted and comes to the part that is granted; deny wins over allow."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        # Everybody else may see everything, so that the bridge does get these events.
        other = await clients.join()
        await other.subscribe(">")
        client = await clients.join(ME, grants=grants)
        data = await client.subscribe(wish)
        if effective is not None:
            assert data["effective"] == effective
        ids = [await bus.publish(topic(kind, resource)) for kind, resource in EVENTS]
        end = await bus.marker(other.user)
        assert [message["id"] for message in await other.until(end)] == ids
        for number in arriving:
            await client.expect_event(ids[number])
        await client.ping()
        await client.socket.close()


NOT_PERMITTED = [
    (allow("review.updated"), "upload.progress"),
    (allow("review.updated"), "review.created.77"),
    (allow("review.updated.77"), "review.updated.78"),
    (allow(">", deny=["review.*"]), "review.updated.77"),
    (allow(">", deny=[">"]), ">"),
    (allow(), ">"),
    (allow(f"user.status_changed.{ID}"), "user.status_changed.somebody"),
]


@pytest.mark.parametrize(("grants", "wish"), NOT_PERMITTED)
async def test_wish_outside_the_grants(
    bridge: BridgeProcess, grants: dict[str, Any], wish: str
) -> None:
    """A wish that comes to nothing within the grants is refused as not permitted."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        watcher = await clients.join()
        await watcher.subscribe(">")
        client = await clients.join(grants=grants)
        assert (await client.refused(wish))["reasons"] == {wish: "NOT_PERMITTED"}
        for kind, resource in EVENTS:
            await bus.publish(topic(kind, resource))
        end = await bus.marker(watcher.user)
        assert len(await watcher.until(end)) == len(EVENTS)
        await client.ping()


async def test_direct_events_that_are_denied(bridge: BridgeProcess) -> None:
    """The user's own and everybody's events pass the grants too."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        grants = allow(">", deny=["upload.completed", "review.*.77", "system.maintenance"])
        client = await clients.join(grants=grants)
        free = await clients.join(client.user)
        addresses = [
            to_user(client.user, "upload.completed", "1"),
            to_user(client.user, "review.updated", "77"),
            to_user(client.user, "review.updated", "78"),
            everyone("system.maintenance"),
            to_user(client.user, "upload.progress", "1"),
        ]
        ids = [await bus.publish(address) for address in addresses]
        for event in ids:
            await free.expect_event(event)
        assert [(await client.receive())["id"] for _ in range(2)] == [ids[2], ids[4]]
        await client.ping()


async def test_grants_of_one_connection(bridge: BridgeProcess) -> None:
    """Two connections of one user with different tokens get what each token permits."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        wide = await clients.join(user)
        narrow = await clients.join(user, grants=allow("review.updated"))
        for client in (wide, narrow):
            answer = await client.ask("subscribe", {"events": ["review.*"]})
            assert answer["data"]["events"] == ["review.*"]
        created = await bus.publish(topic("review.created", "1"))
        updated = await bus.publish(topic("review.updated", "1"))
        await wide.expect_event(created)
        await wide.expect_event(updated)
        await narrow.expect_event(updated)


async def test_part_of_the_claim(bridge: BridgeProcess) -> None:
    """A claim that speaks of commands alone leaves the default for subscriptions."""
    async with Clients(bridge.url) as clients:
        client = await clients.join(grants={"command": {"deny": [">"]}})
        await client.subscribe(">")


async def test_grants_per_role(start_bridge: StartBridge) -> None:
    """Without the claim the settings' grants of the token's role hold, else the default's."""
    grants = {"viewer": allow("review.*", deny=["review.deleted"]), "default": allow("file.ready")}
    bridge = start_bridge(BRIDGE_GRANTS=json.dumps(grants))
    async with Clients(bridge.url) as clients:
        viewer = await clients.join(role="viewer")
        data = await viewer.subscribe(">")
        assert data["effective"] == ["review.created", "review.updated"]
        listed = await clients.join(roles=["viewer"])
        assert (await listed.subscribe(">"))["effective"] == ["review.created", "review.updated"]
        for role in ("editor", None):
            client = await clients.join(role=role)
            assert (await client.subscribe(">"))["effective"] == ["file.ready"]
        own = await clients.join(role="viewer", grants=allow("upload.*"))
        await own.subscribe("upload.progress")
        await own.refused("review.updated")


@pytest.mark.parametrize(
    "claim",
    [
        "all",
        [],
        {"subscribe": "all"},
        {"subscribe": {"allow": "review.*"}},
        {"subscribe": {"allow": [1]}},
        {"subscribe": {"allow": [">"], "deny": ["not a pattern"]}},
    ],
)
async def test_malformed_claim_opens_nothing(bridge: BridgeProcess, claim: object) -> None:
    """Grants that can't be read never widen a token: it is refused, and the error says why."""
    async with Clients(bridge.url) as clients:
        client = await clients.connect(mint(new_user(), grants=claim))
        error = await client.expect_error("TOKEN_INVALID")
        assert "grants" in error["data"]["message"]
        assert await client.closed() == (codes.INVALID_TOKEN.code, codes.INVALID_TOKEN.name)


async def test_a_claim_that_only_denies(bridge: BridgeProcess) -> None:
    """Without ``allow`` everything of the default comes but what is denied."""
    async with Clients(bridge.url) as clients:
        client = await clients.join(grants={"subscribe": {"deny": ["review.deleted"]}})
        data = await client.subscribe(">")
        assert "review.updated" in data["effective"]
        assert "review.deleted" not in data["effective"]
