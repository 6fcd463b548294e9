"""Wherever a token or a ticket stood, nothing that the bridge says or prints shows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.bridge import BridgeProcess, StartBridge, finish
from tests.support.bus import Bus
from tests.support.clients import WAYS, Clients, http, mint, new_user, ticket
from tests.support.nats_server import NatsServer

FOREIGN_KEY = "another-secret-of-more-than-32-bytes-00"


class Canary:
    """Secrets that were brought, and all that was heard from the bridge."""

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.heard: list[str] = []

    def token(self, **options: object) -> str:
        """Return a token that is watched."""
        return self.watch(mint(new_user(), **options))  # type: ignore[arg-type]

    def watch(self, secret: str) -> str:
        """Watch a secret; of a token its payload and its signature, each for itself.

        Of a ticket only its end: before that it may name the replica that gave it.
        """
        parts = secret.split(".")
        self.secrets += parts[-2:] if secret.startswith("ey") else parts[-1:]
        assert all(len(each) > 8 for each in self.secrets)
        return secret

    def hear(self, *texts: object) -> None:
        """Note what the bridge said."""
        self.heard += [str(text) for text in texts]

    def check(self, output: str = "") -> None:
        """See that no secret is in what was heard so far, nor in this."""
        assert self.secrets
        for text in (*self.heard, output):
            for secret in self.secrets:
                assert secret not in text, text


@pytest.fixture(scope="module")
def canary() -> Canary:
    """The secrets of all tests here, and what was heard."""
    return Canary()


@pytest.fixture(scope="module", params=["text", "json"])
def loud(
    request: pytest.FixtureRequest, nats_server: NatsServer, canary: Canary
) -> Iterator[BridgeProcess]:
    """A bridge that logs all it can, in each of its formats; at its end its log is searched."""
    settings = {"BRIDGE_LOG_LEVEL": "debug", "BRIDGE_LOG_FORMAT": request.param}
    bridge = BridgeProcess(nats_server.url, settings)
    bridge.wait_ready()
    yield bridge
    finish([bridge])
    canary.check(bridge.output)


async def attempt(canary: Canary, clients: Clients, token: str, way: str) -> None:
    """Bring a token in one way, and hear all answers up to the close or a pong."""
    client = await clients.connect(token, way)  # type: ignore[arg-type]
    with contextlib.suppress(ConnectionClosed):
        await client.send("ping", id="last")
    messages = await client.until_closed_or("pong")
    assert client.socket.response is not None
    canary.hear(messages, client.socket.close_reason, client.socket.response.headers)


async def test_tokens_in_all_ways(loud: BridgeProcess, canary: Canary) -> None:
    """Good tokens, foreign ones, ended ones, and ones of deactivated users, in the five ways."""
    async with Clients(loud.url) as clients:
        for way in WAYS:
            await attempt(canary, clients, canary.token(), way)
            if way == "ticket":
                continue
            for options in ({"secret": FOREIGN_KEY}, {"lifetime": -10}, {"active": False}):
                await attempt(canary, clients, canary.token(**options), way)
            await attempt(canary, clients, canary.watch("garbage-canary-0123456789"), way)
    canary.check()


async def test_tickets(loud: BridgeProcess, canary: Canary) -> None:
    """Tickets: fresh, used before, and never given."""
    async with Clients(loud.url) as clients:
        fresh = canary.watch(await ticket(loud.url, canary.token()))
        for value in (fresh, fresh, canary.watch("ticket-canary-0123456789")):
            client = await clients.open(query={"ticket": value})
            with contextlib.suppress(ConnectionClosed):
                await client.send("ping")
            canary.hear(await client.until_closed_or("pong"), client.socket.close_reason)
    canary.check()


async def test_refreshed_tokens(loud: BridgeProcess, canary: Canary) -> None:
    """Tokens in ``auth.refresh`` and in messages that are malformed around them."""
    async with Clients(loud.url) as clients:
        client = await clients.join()
        good = canary.watch(mint(client.user))
        bad = canary.token(secret=FOREIGN_KEY)
        for token in (good, bad):
            for message in (
                {"type": "auth.refresh", "data": {"token": token}},
                {"type": "auth.refresh", "data": {"token": [token]}},
                {"type": "auth.refresh", "data": token},
                {"type": "ping", "data": {"token": token}},
                {"type": "subscribe", "data": {"events": token}},
                {"type": "authenticate", "data": {"token": token}},
                {"type": ["x", token]},
            ):
                await client.send_raw(json.dumps(message))
                await client.send("ping")
                canary.hear(await client.until_closed_or("pong"))
        await client.send_raw('{"type": "auth.refresh", "data": {"token": "' + good)
        canary.hear(await client.receive_text())
    canary.check()


async def test_refused_upgrades(start_bridge: StartBridge, canary: Canary) -> None:
    """Upgrades that are refused as HTTP: by origin, by path, for want of room, for failing."""
    bridge = start_bridge(BRIDGE_MAX_CONNECTIONS="1", BRIDGE_FAILED_HANDSHAKES="1")
    async with Clients(bridge.url) as clients:
        await clients.join()

        async def refused(path: str, **options: object) -> None:
            try:
                client = await clients.open(path, **options)  # type: ignore[arg-type]
            except InvalidStatus as refusal:
                body = (refusal.response.body or b"").decode(errors="replace")
                canary.hear(body, refusal.response.headers)
            else:
                canary.hear(await client.until_closed(), client.socket.close_reason)

        await refused(f"/ws/{canary.token()}", origin="https://evil.example")
        await refused(f"/ws/{canary.token()}")
        await refused(f"/ws/{canary.token()}/more")
        await refused(f"/other/{canary.token()}")
        await refused("/ws", headers={"Authorization": f"Bearer {canary.token()}"})
        await refused("/ws", headers={"Authorization": f"Basic {canary.token()}"})
        for _ in range(3):
            await refused(f"/ws/{canary.token(secret=FOREIGN_KEY)}")
    bridge.terminate()
    assert await asyncio.to_thread(bridge.wait) == 0
    canary.check(bridge.output)


async def test_http(loud: BridgeProcess, canary: Canary) -> None:
    """Plain HTTP with tokens where they belong and where they do not."""
    tokens = [canary.token(), canary.token(role="admin"), canary.token(secret=FOREIGN_KEY)]
    for token in tokens:
        async with http(loud.url, token) as client:
            for method, path in (
                ("GET", "/ws/stats"),
                ("GET", "/ws/connections"),
                ("GET", f"/ws/connections/{token}"),
                ("GET", f"/ws/{token}"),
                ("POST", f"/ws/{token}"),
                ("GET", f"/ws?ticket={token}"),
                ("GET", f"/{token}"),
                ("POST", "/ws/broadcast"),
                ("POST", f"/ws/users/{token}/disconnect"),
            ):
                answer = await client.request(method, path, follow_redirects=False)
                canary.hear(answer.status_code, answer.headers)
                if "users" not in path and "connections/" not in path:
                    canary.hear(answer.text)
    canary.check()


async def test_broken_requests(loud: BridgeProcess, canary: Canary) -> None:
    """Requests that are no HTTP, or no WebSocket, with a token in them."""
    path = f"/ws/{canary.token()}"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nHost: x\r\n"
    for request in (
        f"GET {path}\r\n\r\n",
        f"GET {path} HTTP/9.9\r\n\r\n",
        f"NONSENSE {path} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {path} HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 8\r\n\r\n",
        f"GET {path} HTTP/1.1\r\n{upgrade}Sec-WebSocket-Key: short\r\n\r\n",
        f"GET {path} HTTP/1.1\r\n{upgrade}bad header\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nAuthorization: Bearer {canary.token()}\r\nbad header\r\n\r\n",
        f"GET {path}\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", loud.port)
        writer.write(request.encode())
        writer.write_eof()
        async with asyncio.timeout(10):
            canary.hear((await reader.read()).decode(errors="replace"))
        writer.close()
        await writer.wait_closed()
    async with http(loud.url) as client:
        assert (await client.get("/livez")).status_code == 200
    canary.check()


async def test_tokens_at_the_stop(start_bridge: StartBridge, canary: Canary) -> None:
    """What is printed during a stop shows none of what is connected."""
    bridge = start_bridge()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(token=canary.watch(mint("stopping")), user="stopping")
        event = await bus.marker(client.user)
        await client.expect_event(event)
        bridge.terminate()
        canary.hear(await client.until_closed(10), client.socket.close_reason)
    assert await asyncio.to_thread(bridge.wait) == 0
    canary.check(bridge.output)
