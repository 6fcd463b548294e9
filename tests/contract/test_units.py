"""What subscribing costs is counted by user, also for what was just given back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.support.bridge import StartBridge
from tests.support.clients import Clients, allow, mint, new_user
from tests.support.nats_server import EmbeddedNats, NatsServer


def subscriptions(server: NatsServer) -> int:
    """Return how many subscriptions the bridge has at its NATS."""
    answer = httpx.get(f"{server.monitor_url}/connz?limit=1024", timeout=5, trust_env=False)
    found = [each for each in answer.json()["connections"] if "bridge-" in each.get("name", "")]
    return sum(each["subscriptions"] for each in found)


async def test_a_pattern_over_the_units_is_refused(start_bridge: StartBridge) -> None:
    """Over all connections of a user, and with what lingers; another user is not touched."""
    bridge = start_bridge(BRIDGE_SUBSCRIPTION_UNITS="6", BRIDGE_RATE_LIMIT_WINDOW="60")
    async with Clients(bridge.url) as clients:
        user = new_user()
        first, second = await clients.join(user), await clients.join(user)
        assert first.established["data"]["limits"]["subscription_units"] == 6
        await first.subscribe(*(f"upload.completed.{n}" for n in range(4)))
        await second.subscribe("upload.completed.8", "upload.completed.9")
        for client in (first, second):
            data = await client.refused("review.updated")
            assert data["reasons"] == {"review.updated": "TOO_MANY_SUBSCRIPTIONS"}
        await first.unsubscribe(*(f"upload.completed.{n}" for n in range(4)))
        await second.refused("review.updated")
        other = await clients.join()
        await other.subscribe("review.updated")


async def test_churn_leaves_a_bounded_number_at_nats(
    tmp_path: Path, start_bridge: StartBridge
) -> None:
    """A user that subscribes to ever other resources, as fast as its rate allows, never comes to
    more subscriptions at NATS than its units.
    """
    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    try:
        bridge = start_bridge(server.url, BRIDGE_SUBSCRIPTION_UNITS="2000")
        before = subscriptions(server)
        async with Clients(bridge.url) as clients:
            client, good = await clients.join(), await clients.join()
            answers = refused = 0
            for step in range(40):
                events = [f"*.*.r{step}-{n}" for n in range(85)]
                await client.send("subscribe", {"events": events})
                await client.send("unsubscribe", {"events": events})
            while answers < 80:
                message = await client.receive(20)
                if message["type"] == "subscription.acknowledged":
                    refused += len(message["data"]["invalid_events"])
                answers += message["type"].endswith("acknowledged")
            assert refused > 0
            assert subscriptions(server) - before <= 2000 + 4
            await good.ping()
    finally:
        server.close()


async def test_new_grants_come_to_no_more_than_a_connection_may_hold(
    start_bridge: StartBridge,
) -> None:
    """A pattern that a new token makes too many units of is taken away, and named."""
    bridge = start_bridge(BRIDGE_MAX_INTERESTS="20")
    async with Clients(bridge.url) as clients:
        user = new_user()
        client = await clients.join(user)
        await client.subscribe("upload.*", "review.updated")
        many = allow(*(f"*.*.{n}" for n in range(15)))
        await client.send("auth.refresh", {"token": mint(user, grants=many)})
        answer = await client.expect("auth.refreshed")
        assert answer["data"]["removed"] == ["upload.*"]
        await asyncio.sleep(0)
        await client.ping()
