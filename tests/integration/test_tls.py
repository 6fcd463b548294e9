"""A bridge that speaks TLS itself: ``wss`` without a proxy, with the same hand-over."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from natsbridge.schemas.codes import GOING_AWAY, INVALID_UTF8, MESSAGE_TOO_BIG
from tests.support.bridge import BridgeProcess, finish
from tests.support.bus import Bus, to_user
from tests.support.certificates import self_signed
from tests.support.clients import Client, mint, new_user
from tests.support.nats_server import NatsServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(nats_server: NatsServer, certificate: tuple[Path, Path]) -> Iterator[BridgeProcess]:
    """A bridge with that certificate."""
    cert, key = map(str, certificate)
    bridge = BridgeProcess(nats_server.url, {"BRIDGE_TLS_CERT": cert, "BRIDGE_TLS_KEY": key})
    bridge.wait_ready()
    yield bridge
    finish([bridge])


@pytest.fixture
async def client(secure: BridgeProcess, certificate: tuple[Path, Path]) -> AsyncIterator[Client]:
    """A connection over TLS, established."""
    user = new_user("tls")
    async with connect(
        f"{secure.ws_url}/ws",
        ssl=ssl.create_default_context(cafile=certificate[0]),
        additional_headers={"Authorization": f"Bearer {mint(user)}"},
        compression=None,
        proxy=None,
        ping_interval=None,
        max_size=None,
        close_timeout=5,
    ) as socket:
        found = Client(socket, user)
        found.established = await found.expect("connection.established")
        yield found


async def test_a_client_gets_its_events(secure: BridgeProcess, client: Client) -> None:
    """The bridge says that it speaks https; answers and events come as without TLS."""
    assert secure.url.startswith("https://127.0.0.1:")
    await client.ping()
    await client.subscribe("review.updated")
    async with Bus(secure) as bus:
        event_id = await bus.publish(to_user(client.user, "upload.progress", "7"))
    await client.expect_event(event_id)


async def test_large_messages_go_both_ways(secure: BridgeProcess, client: Client) -> None:
    """Messages over many TLS records, alone and in a burst, arrive whole and in order."""
    for size in (16_384, 60_000):
        message = {"type": "ping", "id": f"{size}", "padding": "x" * size}
        await client.send_raw(json.dumps(message))
        pong = await client.expect("pong")
        assert pong["reply_to"] == f"{size}"
    async with Bus(secure) as bus:
        published = [
            await bus.publish(
                to_user(client.user, "system.notification"),
                {"message": f"{number}" + "x" * 50_000, "level": "info"},
            )
            for number in range(20)
        ]
    for number, event_id in enumerate(published):
        event = await client.expect_event(event_id)
        assert event["data"]["message"] == f"{number}" + "x" * 50_000
    await client.ping()


async def test_a_message_that_is_too_large_is_an_error_and_far_too_large_a_close(
    client: Client,
) -> None:
    """The two bounds hold over TLS too."""
    await client.send_raw("x" * 70_000)
    await client.expect_error("MESSAGE_TOO_LARGE")
    await client.ping()
    await client.send_raw("x" * 300_000)
    await client.expect_close(MESSAGE_TOO_BIG)


async def test_the_clients_close_is_answered(client: Client) -> None:
    """Its code comes back, and the connection ends without a timeout on either side."""
    async with asyncio.timeout(3):
        await client.socket.close(4123, "enough")
    assert client.socket.close_code == 4123
    assert client.socket.protocol.close_rcvd is not None
    assert client.socket.protocol.close_rcvd.code == 4123


async def test_a_broken_message_is_answered_with_its_code(client: Client) -> None:
    """Where one side can't be ended alone the close code arrives all the same."""
    await client.socket.send(b"\xff", text=True)
    await client.expect_close(INVALID_UTF8)


async def test_the_bridges_close_arrives_when_it_drains(
    nats_server: NatsServer, certificate: tuple[Path, Path]
) -> None:
    """At the stop: ``connection.draining``, 1001, and an exit in time."""
    cert, key = map(str, certificate)
    bridge = BridgeProcess(nats_server.url, {"BRIDGE_TLS_CERT": cert, "BRIDGE_TLS_KEY": key})
    bridge.wait_ready()
    try:
        user = new_user("tls")
        async with connect(
            f"{bridge.ws_url}/ws/{mint(user)}",
            ssl=ssl.create_default_context(cafile=certificate[0]),
            proxy=None,
        ) as socket:
            client = Client(socket, user)
            await client.expect("connection.established")
            bridge.terminate()
            await client.expect("connection.draining", 10)
            await client.expect_close(GOING_AWAY)
    finally:
        await asyncio.to_thread(finish, [bridge])
