"""Clients that mean harm: whatever one does, the others are served as before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, everyone
from tests.support.clients import Client, Clients, mint, new_user
from tests.support.lean import CLOSE, TEXT, LeanClient, masked


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """No rate limit to speak of, so that who measures is not stopped by it."""
    return {"BRIDGE_RATE_LIMIT_MESSAGES": "1000000"}


BAD_FRAMES = {
    "reserved bit": b"\xc1\x80" + bytes(4),
    "unknown opcode": b"\x83\x80" + bytes(4),
    "unmasked": b"\x81\x02{}",
    "fragmented ping": b"\x09\x80" + bytes(4),
    "long ping": b"\x89\xfe\x00\x7e" + bytes(4 + 126),
    "nothing to continue": masked(0, b"x"),
    "not UTF-8": masked(TEXT, b"\xff"),
    "too big": b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4),
    "close with half a code": masked(CLOSE, b"\x03"),
    "close with a wrong code": masked(CLOSE, (999).to_bytes(2, "big")),
    "close, then more": masked(CLOSE, (1000).to_bytes(2, "big")) + masked(TEXT, b"{}") * 3,
}


async def rude(bridge: BridgeProcess) -> tuple[LeanClient, asyncio.Event]:
    """Return a client that never answers, and whether it was sent a close frame."""
    opened, closed = asyncio.Event(), asyncio.Event()

    def on_frame(opcode: int, payload: bytes) -> None:
        opened.set()
        if opcode == CLOSE:
            closed.set()

    client = await LeanClient.connect(bridge.url, f"/ws/{mint(new_user())}", on_frame)
    async with asyncio.timeout(5):
        await opened.wait()
    return client, closed


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_bad_frame(bridge: BridgeProcess, name: str) -> None:
    """A frame against the protocol closes its own connection; events go on for all others.

    The one who sent it leaves its TCP connection open, and does not answer the close.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        before = await clients.join()
        client, closed = await rude(bridge)
        after = [await clients.join() for _ in range(3)]
        try:
            client.transport.write(BAD_FRAMES[name])
            async with asyncio.timeout(5):
                await closed.wait()
            for _ in range(5):
                event = await bus.publish(everyone("system.notification"))
                for each in (before, *after):
                    await each.expect_event(event)
                    await each.ping()
        finally:
            client.transport.abort()


QUICK = 0.2
"""What another client may wait for its pong, in seconds; with nobody about it is 0.0005."""


async def expect_quick(client: Client, harm: Callable[[], Awaitable[None]]) -> None:
    """See that a client is served as a rule within ``QUICK`` while somebody does harm.

    Three attempts, since the machine itself may be busy for a while.
    """
    medians = []
    for _ in range(3):
        medians.append(await median_latency(client, harm))
        if medians[-1] < QUICK:
            return
    raise AssertionError(medians)


async def median_latency(client: Client, harm: Callable[[], Awaitable[None]]) -> float:
    """Return how long a pong takes while somebody does harm."""
    doing = asyncio.ensure_future(harm())
    times: list[float] = []
    while not doing.done() or not times:
        before = time.perf_counter()
        await client.ping()
        times.append(time.perf_counter() - before)
        await asyncio.wait([doing], timeout=0.01)
    await doing
    return statistics.median(times)


FLOODS = {
    "pings": masked(0x9, b""),
    "pongs": masked(0xA, b""),
    "empty fragments": b"\x00\x80" + bytes(4),
    "messages": masked(TEXT, b"{}"),
}


def flood(port: int, path: str, start: bytes, frame: bytes, seconds: float) -> None:
    """Send a frame as often as it goes, and read whatever comes back; blocks."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert b" 101 " in connection.recv(1 << 16)
        piece = frame * 2_000
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            connection.sendall(start)
            while time.monotonic() < end:
                connection.sendall(piece)
                while select.select([connection], [], [], 0)[0]:
                    if not connection.recv(1 << 20):
                        return


@pytest.mark.parametrize(
    ("path", "name"),
    [("/ws", "pings"), ("/ws", "empty fragments"), *(("/ws/{token}", name) for name in FLOODS)],
)
async def test_flood_of_frames(bridge: BridgeProcess, path: str, name: str) -> None:
    """A client that sends the smallest frames as fast as it can holds up no other client."""
    lines = bridge.output.count("\n")
    async with Clients(bridge.url) as clients:
        friend = await clients.join()
        path = path.format(token=mint(new_user()))
        start = b"\x01\x80" + bytes(4) if name == "empty fragments" else b""
        await expect_quick(
            friend, lambda: asyncio.to_thread(flood, bridge.port, path, start, FLOODS[name], 0.4)
        )
        await friend.ping()
    logged = bridge.output.count("\n") - lines
    assert logged < 1_000, "a flood of frames must not become one of log lines"


WIDE = {
    "wide": [f"*.*.r{number}" for number in range(1000)],
    "narrower": [f"upload.*.r{number}" for number in range(1000)],
    "unknown": [f"zz.y{number}" for number in range(1000)],
    "malformed": [f"{'x' * 40}..{number}" for number in range(1000)],
}


@pytest.mark.parametrize("name", WIDE)
async def test_many_patterns(bridge: BridgeProcess, name: str) -> None:
    """A client that asks for a thousand patterns again and again holds up no other client."""
    async with Clients(bridge.url) as clients:
        friend = await clients.join()
        client = await clients.join()
        message = json.dumps({"type": "subscribe", "data": {"events": WIDE[name]}})

        async def ask() -> None:
            for _ in range(10):
                await client.send_raw(message)
                await client.send("ping", id="done")
                while (await client.receive(20)).get("reply_to") != "done":
                    pass

        await expect_quick(friend, ask)
        await friend.ping()
