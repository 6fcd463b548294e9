"""How a client comes in: five ways to bring a token, tickets, origins, a full server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from datetime import datetime

import jwt
import pytest

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, everyone, to_user, topic
from tests.support.clients import WAYS, Clients, Way, allow, http, mint, new_user, ticket


@pytest.mark.parametrize("way", WAYS)
async def test_five_ways(bridge: BridgeProcess, way: Way) -> None:
    """A token is good in each of the five ways, and the connection is its user's."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        token = mint(new_user(), lifetime=300)
        user = jwt.decode(token, options={"verify_signature": False})["sub"]
        client = await clients.join(user, token=token, way=way)
        expires = datetime.fromisoformat(client.established["data"]["expires_at"])
        assert abs(expires.timestamp() - time.time() - 300) < 5
        event = await bus.publish(to_user(user, "upload.progress", "1"))
        await client.expect_event(event)
        await client.ping()


async def test_subprotocol_is_selected(bridge: BridgeProcess) -> None:
    """Of the subprotocols offered, the answer selects ``bridge.v1``, never the token's."""
    async with Clients(bridge.url) as clients:
        client = await clients.join(way="subprotocol")
        assert client.socket.subprotocol == "bridge.v1"


async def test_no_compression(bridge: BridgeProcess) -> None:
    """An offer of compression is declined: frames are the same bytes for everybody."""
    async with Clients(bridge.url) as clients:
        client = await clients.open(f"/ws/{mint(new_user())}", compression="deflate")
        await client.expect("connection.established")
        assert client.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in client.socket.response.headers


async def test_authenticate_is_answered(bridge: BridgeProcess) -> None:
    """``connection.established`` carries the id of the ``authenticate`` that it answers."""
    async with Clients(bridge.url) as clients:
        client = await clients.open()
        answer = await client.ask("authenticate", {"token": mint(new_user())})
        assert answer["type"] == "connection.established"


async def test_ticket_is_good_once(bridge: BridgeProcess) -> None:
    """A ticket is its user's, lives 30 s and opens one connection."""
    user = new_user()
    async with http(bridge.url, mint(user)) as client:
        answer = await client.post("/ws/tickets")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "success"
    assert set(body["data"]) == {"ticket", "expires_in"}
    assert body["data"]["expires_in"] == 30
    assert isinstance(body["data"]["expires_in"], int)
    query = {"ticket": body["data"]["ticket"]}
    async with Clients(bridge.url) as clients:
        first = await clients.open(query=query)
        established = await first.expect("connection.established")
        assert established["data"]["user_id"] == user
        second = await clients.open(query=query)
        await second.expect_close(codes.TOKEN_EXPIRED)
        await first.ping()


async def test_ticket_carries_the_grants(bridge: BridgeProcess) -> None:
    """A connection by ticket may do what the token behind it may."""
    token = mint(new_user(), grants=allow("review.*"))
    async with Clients(bridge.url) as clients:
        client = await clients.open(query={"ticket": await ticket(bridge.url, token)})
        await client.expect("connection.established")
        data = await client.refused("upload.progress")
        assert data["reasons"] == {"upload.progress": "NOT_PERMITTED"}


async def test_ticket_expires(start_bridge: StartBridge) -> None:
    """A ticket that is older than its time opens nothing."""
    bridge = start_bridge(BRIDGE_TICKET_TTL="1")
    value = await ticket(bridge.url, mint(new_user()))
    await asyncio.sleep(2)  # NATS looks for what is over four times a second
    async with Clients(bridge.url) as clients:
        late = await clients.open(query={"ticket": value})
        await late.expect_close(codes.TOKEN_EXPIRED)


async def test_unknown_ticket(bridge: BridgeProcess) -> None:
    """A ticket that is not there is 4001, whatever it looks like: come back with a new one."""
    async with Clients(bridge.url) as clients:
        for word in ("no-such-ticket", "", "A" * 43, "a.b.c", "*", "x" * 5000):
            client = await clients.open(query={"ticket": word})
            await client.expect_close(codes.TOKEN_EXPIRED)


async def test_ticket_needs_a_token(bridge: BridgeProcess) -> None:
    """No ticket without a token, with a wrong one, or for an inactive user."""
    wrong = mint(new_user(), secret="x" * 40)
    for token in (None, "garbage", wrong, mint(new_user(), active=False)):
        async with http(bridge.url, token) as client:
            answer = await client.post("/ws/tickets")
            assert answer.status_code in (401, 403), answer.text


async def test_token_in_path_can_be_turned_off(start_bridge: StartBridge) -> None:
    """With the setting off ``/ws/{token}`` is no door, and the other ways stay."""
    bridge = start_bridge(BRIDGE_TOKEN_IN_PATH="false")
    async with Clients(bridge.url) as clients:
        refusal = await clients.rejected(f"/ws/{mint(new_user())}")
        assert refusal.status_code in (403, 404)
        await clients.join(way="header")


async def test_direct_off(bridge: BridgeProcess) -> None:
    """``?direct=off``: of the user's and everybody's events only those subscribed to come."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        on = await clients.join(user)
        off = await clients.join(user, query={"direct": "off"})
        await off.subscribe("review.*", "file.ready")
        published = [
            await bus.publish(to_user(user, "upload.progress", "1")),
            await bus.publish(everyone("system.notification")),
            await bus.publish(to_user(user, "file.ready", "1")),
            await bus.publish(everyone("review.created", "1")),
            await bus.publish(topic("review.updated", "1")),
        ]
        progress, notification, ready, created, updated = published
        for event in (progress, notification, ready, created):
            await on.expect_event(event)
        for event in (ready, created, updated):
            await off.expect_event(event)
        await on.ping()
        await off.ping()


@pytest.mark.parametrize("value", ["OFF", "false", "0", ""])
async def test_direct_is_on_or_off(bridge: BridgeProcess, value: str) -> None:
    """Another value is refused with what may stand there, and not taken for ``on``."""
    async with Clients(bridge.url) as clients:
        refusal = await clients.rejected(f"/ws?direct={value}")
        assert refusal.status_code == 400
        assert json.loads(refusal.body or b"")["message"] == "direct is on or off"
        await clients.join(query={"direct": "on"})


async def test_direct_off_follows_subscriptions(bridge: BridgeProcess) -> None:
    """With ``?direct=off``, unsubscribing turns the user's events off again."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(query={"direct": "off"})
        await client.subscribe("review.created", "upload.*")
        event = await bus.publish(to_user(client.user, "upload.progress", "1"))
        await client.expect_event(event)
        await client.unsubscribe("upload.*")
        await bus.publish(to_user(client.user, "upload.progress", "1"))
        marker = await bus.publish(to_user(client.user, "review.created", "1"))
        assert await client.until(marker) == []


async def test_foreign_origin_is_refused(bridge: BridgeProcess) -> None:
    """A page of another site gets 403 before the upgrade; the bridge's own page does not."""
    async with Clients(bridge.url) as clients:
        path = f"/ws/{mint(new_user())}"
        for origin in ("https://evil.example", "null", f"{bridge.url}.evil.example"):
            refusal = await clients.rejected(path, origin=origin)
            assert refusal.status_code == 403
        own = await clients.open(path, origin=bridge.url)
        await own.expect("connection.established")


async def test_allowed_origins(start_bridge: StartBridge) -> None:
    """Origins are matched whole against the list."""
    bridge = start_bridge(BRIDGE_ALLOWED_ORIGINS="https://app.example.com, http://localhost:3000")
    async with Clients(bridge.url) as clients:
        path = f"/ws/{mint(new_user())}"
        for origin in ("https://app.example.com", "http://localhost:3000"):
            client = await clients.open(path, origin=origin)
            await client.expect("connection.established")
        for origin in (
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://www.app.example.com",
            "http://localhost:3001",
        ):
            refusal = await clients.rejected(path, origin=origin)
            assert refusal.status_code == 403, origin
        await clients.join()


async def test_allowed_hosts(start_bridge: StartBridge) -> None:
    """With a list, a request for another host is answered with 421, and one for a listed host as
    ever, whatever port it names.
    """
    bridge = start_bridge(BRIDGE_ALLOWED_HOSTS="127.0.0.1,bridge.example")
    async with Clients(bridge.url) as clients, http(bridge.url) as web:
        await clients.join()
        handshake = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        for headers in ({}, handshake):
            for path in ("/livez", "/ws", "/nowhere"):
                told = await web.get(path, headers={**headers, "Host": "evil.example"})
                assert told.status_code == 421, path
                assert told.json()["code"] == "HOST_NOT_ALLOWED"
        for host in ("Bridge.Example", "bridge.example:9", f"127.0.0.1:{bridge.port}"):
            assert (await web.get("/livez", headers={"Host": host})).status_code == 200


async def test_full_server(start_bridge: StartBridge) -> None:
    """One connection too many gets 503 with ``Retry-After``; a place that frees up is given."""
    bridge = start_bridge(BRIDGE_MAX_CONNECTIONS="2")
    async with Clients(bridge.url) as clients:
        first, second = await clients.join(), await clients.join()
        refusal = await clients.rejected(f"/ws/{mint(new_user())}")
        assert refusal.status_code == 503
        assert int(refusal.headers["Retry-After"]) >= 1
        await first.ping()
        await second.ping()
        await first.socket.close()
        third = await clients.join()
        await third.ping()


async def test_no_authenticate_in_time(start_bridge: StartBridge) -> None:
    """Whoever says nothing is closed with 4504, and nobody else is."""
    bridge = start_bridge(BRIDGE_AUTH_TIMEOUT="0.3")
    async with Clients(bridge.url) as clients:
        friend = await clients.join(way="message")
        silent = await clients.open()
        await silent.expect_close(codes.NOT_AUTHENTICATED)
        await friend.ping()


async def test_a_bridge_that_was_stopped_blames_nobody(start_bridge: StartBridge) -> None:
    """Clients that said who they are while the process could read nothing are not sent away for
    good: they come in, or are told to try again.
    """
    bridge = start_bridge(BRIDGE_AUTH_TIMEOUT="0.5")
    pid = bridge.pid
    async with Clients(bridge.url) as clients:
        crowd = [await clients.open() for _ in range(20)]
        os.kill(pid, signal.SIGSTOP)
        try:
            for client in crowd:
                await client.send("authenticate", {"token": mint(new_user())})
            # What is waited for is time itself.
            await asyncio.sleep(1.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        for client in crowd:
            await client.until_closed_or("connection.established")
            assert client.socket.close_code in (None, codes.TRY_AGAIN_LATER.code)


async def test_an_authenticate_with_a_wrong_field_is_told_which(bridge: BridgeProcess) -> None:
    """As any other token that is refused: the error names the field, then 4500."""
    async with Clients(bridge.url) as clients:
        client = await clients.open()
        await client.send("authenticate", {"toke": "x"}, "a1")
        answer = await client.expect_error("TOKEN_INVALID", "a1")
        assert answer["data"]["message"] == "authenticate: data.token: Field required"
        assert await client.closed() == (4500, "INVALID_TOKEN")


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"type": "ping", "id": "m1"}),
        json.dumps({"type": "subscribe", "data": {"events": [">"]}, "id": "m1"}),
        json.dumps({"type": "upload.cancel", "data": {"upload_id": "1"}, "id": "m1"}),
        "not json",
    ],
)
async def test_nothing_is_done_before_authenticating(bridge: BridgeProcess, message: str) -> None:
    """Before ``authenticate`` a message is refused: by an error, or by 4504 at once."""
    async with Clients(bridge.url) as clients:
        client = await clients.open()
        await client.send_raw(message)
        await client.send("authenticate", {"token": mint(new_user())})
        received = await client.until_closed_or("connection.established")
        if received and received[-1]["type"] == "connection.established":
            received.pop()
            assert [each["type"] for each in received] == ["error"], received
        else:
            assert {each["type"] for each in received} <= {"error"}, received
            assert client.socket.close_code == codes.NOT_AUTHENTICATED.code
            assert client.socket.close_reason == codes.NOT_AUTHENTICATED.name


async def test_a_token_without_the_subprotocol_is_refused(bridge: BridgeProcess) -> None:
    """Who offers ``bearer.<token>`` alone is told what is missing: nothing could be selected."""
    async with Clients(bridge.url) as clients:
        refusal = await clients.rejected("/ws", subprotocols=[f"bearer.{mint(new_user())}"])
    assert refusal.status_code == 400
    assert "bridge.v1" in json.loads(refusal.body)["message"]


async def test_no_upgrade_is_426_wherever_the_websocket_is(bridge: BridgeProcess) -> None:
    """Behind a proxy that drops ``Upgrade`` each way in says so, and shows no token."""
    token = mint(new_user())
    async with http(bridge.url) as client:
        for path in ("/ws", "/ws/", f"/ws/{token}", f"/ws/{token}/"):
            answer = await client.get(path, follow_redirects=False)
            assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket"), path
            assert answer.json()["code"] == "UPGRADE_REQUIRED"
            assert "proxy" in answer.json()["message"]
            assert token not in answer.text + str(answer.headers)


async def test_nothing_leads_to_another_host(bridge: BridgeProcess) -> None:
    """A path with a slash too many is unknown: no redirect to whatever ``Host`` says."""
    async with http(bridge.url) as client:
        for path in ("/livez/", "/metrics/", "/ws/stats/"):
            answer = await client.get(
                path, headers={"Host": "evil.example"}, follow_redirects=False
            )
            assert answer.status_code in (404, 426), path
            assert "location" not in answer.headers
