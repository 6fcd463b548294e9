"""A token's life on an open connection: refreshed, about to end, at its end."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, to_user, topic
from tests.support.clients import Client, Clients, allow, mint, new_user


async def refresh(client: Client, token: str) -> list[str]:
    """Refresh and return the patterns that are gone."""
    answer = await client.ask("auth.refresh", {"token": token})
    assert answer["type"] == "auth.refreshed", answer
    removed: list[str] = answer["data"]["removed"]
    return removed


async def test_refresh(bridge: BridgeProcess) -> None:
    """A new token of the same user is taken; what was subscribed to stays."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(lifetime=100)
        await client.subscribe("review.updated")
        answer = await client.ask("auth.refresh", {"token": mint(client.user, lifetime=1000)})
        assert answer["type"] == "auth.refreshed"
        assert set(answer["data"]) == {"expires_at", "removed"}
        expires = datetime.fromisoformat(answer["data"]["expires_at"]).timestamp()
        assert abs(expires - time.time() - 1000) < 5
        assert answer["data"]["removed"] == []
        event = await bus.publish(topic("review.updated", "1"))
        await client.expect_event(event)


async def test_refresh_with_fewer_grants(bridge: BridgeProcess) -> None:
    """Patterns outside of the new grants are named, and nothing more of them is delivered."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        watcher = await clients.join()
        for each in (client, watcher):
            await each.subscribe("upload.*", "file.ready", "review.updated")
        removed = await refresh(client, mint(client.user, grants=allow("review.*")))
        assert sorted(removed) == ["file.ready", "upload.*"]
        for address in (
            topic("upload.completed", "1"),
            topic("file.ready", "1"),
            to_user(client.user, "upload.progress", "1"),
        ):
            await bus.publish(address)
        marker = await bus.publish(topic("review.updated", "1"))
        assert len(await watcher.until(marker)) == 2
        assert await client.until(marker) == []
        await client.ping()


async def test_refresh_narrows_a_pattern(bridge: BridgeProcess) -> None:
    """A pattern that is granted in part stays for that part."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe(">")
        new = mint(client.user, grants=allow(">", deny=["review.updated.77", "upload.>"]))
        assert await refresh(client, new) == []
        await bus.publish(topic("review.updated", "77"))
        await bus.publish(topic("upload.progress", "1"))
        event = await bus.publish(topic("review.updated", "78"))
        assert await client.until(event) == []


async def test_refresh_with_more_grants(bridge: BridgeProcess) -> None:
    """A pattern is a wish: with a wider token the same one comes to more."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(grants=allow("review.updated", "system.notification"))
        await client.subscribe("review.*")
        await bus.publish(topic("review.created", "1"))
        assert await client.until(await bus.marker(client.user)) == []
        assert await refresh(client, mint(client.user)) == []
        event = await bus.publish(topic("review.created", "2"))
        assert await client.until(event) == []
        await client.subscribe("upload.*")


async def test_refresh_is_one_connection_s(bridge: BridgeProcess) -> None:
    """A refresh changes the connection it came by, and no other of the user."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        first = await clients.join()
        second = await clients.join(first.user)
        for each in (first, second):
            await each.subscribe("review.updated")
        new = mint(first.user, grants=allow("system.*"))
        assert await refresh(first, new) == ["review.updated"]
        event = await bus.publish(topic("review.updated", "1"))
        await second.expect_event(event)
        await first.ping()


@pytest.mark.parametrize("wrong", ["other user", "foreign key", "expired", "garbage"])
async def test_refresh_with_a_bad_token(bridge: BridgeProcess, wrong: str) -> None:
    """A token that is no good is refused, and the connection lives with what it had."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe("review.updated")
        token = {
            "other user": mint(new_user(), grants=allow()),
            "foreign key": mint(client.user, secret="another-secret-of-more-than-32-bytes-00"),
            "expired": mint(client.user, lifetime=-10),
            "garbage": "garbage",
        }[wrong]
        await client.send("auth.refresh", {"token": token}, "r1")
        error = await client.expect_error("TOKEN_INVALID", "r1")
        assert token not in error["data"]["message"]
        event = await bus.publish(topic("review.updated", "1"))
        await client.expect_event(event)
        own = await bus.marker(client.user)
        await client.expect_event(own)


async def test_expiry(start_bridge: StartBridge) -> None:
    """``auth.expiring`` comes first, then 4001 at ``exp``; a refreshed connection stays."""
    bridge = start_bridge(BRIDGE_AUTH_EXPIRING_NOTICE="1")
    async with Clients(bridge.url) as clients:
        token = mint(new_user(), lifetime=3)
        ends = int(time.time() + 3)
        going = await clients.connect(token)
        await going.expect("connection.established")
        staying = await clients.join(lifetime=3)
        warning = await going.expect("auth.expiring")
        assert ends - 1.5 < time.time() < ends + 0.1
        assert datetime.fromisoformat(warning["data"]["expires_at"]).timestamp() in (ends, ends - 1)
        await staying.expect("auth.expiring")
        assert await refresh(staying, mint(staying.user)) == []
        await going.expect_close(codes.TOKEN_EXPIRED)
        assert ends - 1.1 < time.time() < ends + 2
        await staying.ping()


async def test_notice_for_a_short_token(bridge: BridgeProcess) -> None:
    """A token that ends within the notice is told so at once, and again only when refreshed."""
    async with Clients(bridge.url) as clients:
        client = await clients.join(lifetime=20)
        await client.expect("auth.expiring")
        await client.ping()
        new = mint(client.user, lifetime=25)
        assert await refresh(client, new) == []
        await client.expect("auth.expiring")
