"""Places that a peer takes: sockets on their way out, and connections of nobody."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import socket
from pathlib import Path

import pytest

from natsbridge.schemas import codes
from tests.support.blocking_peer import upgraded
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.clients import Clients, http, mint, new_user
from tests.support.faulty import eventually
from tests.support.lean import TEXT, masked

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


def descriptors(bridge: BridgeProcess) -> int:
    """How many descriptors the process has open."""
    return len(os.listdir(f"/proc/{bridge.pid}/fd"))


async def test_sockets_told_to_go_are_few(bridge: BridgeProcess) -> None:
    """A user that comes again and again, and never answers a close, takes no more than a few."""
    before = descriptors(bridge)
    user, token = new_user(), mint(new_user())
    peers = []
    try:
        for _ in range(150):
            peers.append(await asyncio.to_thread(upgraded, bridge.url, user, "", token))
            peers[-1].until("connection.established")
        assert descriptors(bridge) - before < 40
        async with Clients(bridge.url) as clients:
            await (await clients.join()).ping()
    finally:
        for peer in peers:
            peer.reset()
    await eventually(lambda: descriptors(bridge) <= before + 2, "all are gone", 10)


def knock(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Upgrade from this address without a token."""
    found = socket.create_connection(("127.0.0.1", port), 5, (address, 0))
    key = base64.b64encode(os.urandom(16)).decode()
    found.sendall(
        f"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    assert b" 101 " in found.recv(4096)
    return found


def is_over(peer: socket.socket) -> bool:
    """Whether the other side has ended a connection; waits for it."""
    try:
        return peer.recv(4096) == b""
    except ConnectionError:
        return True


async def test_an_address_leaves_room_for_the_first_messages_of_others(
    start_bridge: StartBridge,
) -> None:
    """It may have half of the places of those that have not said who they are: its oldest goes."""
    bridge = start_bridge(BRIDGE_MAX_CONNECTIONS="80", BRIDGE_AUTH_TIMEOUT="30")
    held = [await asyncio.to_thread(knock, bridge.port, "127.0.0.2") for _ in range(25)]
    try:
        async with Clients(bridge.url) as clients:
            client = await clients.open()
            await client.send("authenticate", {"token": mint(new_user())})
            await client.expect("connection.established")
        held[0].settimeout(5)
        assert is_over(held[0])
    finally:
        for each in held:
            each.close()


async def test_a_message_of_nobody_is_small(bridge: BridgeProcess) -> None:
    """Who has not said who it is needs no more room than a token does."""

    def send() -> bytes:
        with knock(bridge.port) as found:
            found.settimeout(5)
            found.sendall(masked(TEXT, bytes(100_000))[:50_000])
            return found.recv(4096)

    answer = await asyncio.to_thread(send)
    assert answer[2:4] == codes.MESSAGE_TOO_BIG.code.to_bytes(2, "big")


async def test_a_large_body_needs_a_token(bridge: BridgeProcess) -> None:
    """The token is looked at before the body is kept; a small one is answered as without it."""
    for size, status in ((100, 401), (60_000, 413)):
        async with http(bridge.url) as client:
            answer = await client.post("/ws/broadcast", content=bytes(size))
            assert answer.status_code == status
    async with http(bridge.url, mint(new_user(), role="admin")) as client:
        answer = await client.post("/ws/broadcast", content=bytes(60_000))
        assert answer.status_code == 422


async def test_descriptors_that_run_out_are_told_once(start_bridge: StartBridge) -> None:
    """Peers get none of the last; the log says so in a line, and the bridge goes on."""
    bridge = start_bridge()
    limit = descriptors(bridge) + 60
    resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE, (limit, limit))
    place = ("127.0.0.1", bridge.port)
    peers = [socket.create_connection(place, 5) for _ in range(200)]
    try:
        await eventually(lambda: is_over(peers[0]), "the oldest made room", 5)
        async with http(bridge.url) as client:
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
        async with Clients(bridge.url) as clients:
            await (await clients.join()).ping()
    finally:
        for each in peers:
            each.close()
    assert bridge.output.count("connections are turned away") <= 1
