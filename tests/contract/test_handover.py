"""The moment a socket changes hands: whatever is on its way then is neither lost nor repeated."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus
from tests.support.clients import Clients, http, mint, new_user
from tests.support.lean import CLOSE, TEXT, masked

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455 §1.3 has this pair."""


def handshake(path: str) -> bytes:
    """Return a request to upgrade."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: keep-alive, Upgrade\r\n"
        f"Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    ).encode()


def ping(number: int) -> bytes:
    """Return a message whose answer tells its number."""
    return masked(TEXT, json.dumps({"type": "ping", "data": {"pingId": number}}).encode())


class Raw:
    """A TCP connection to the bridge, read frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Return the head of an HTTP answer."""
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        async with asyncio.timeout(5):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def message(self, kind: str) -> Any:
        """Return the data of the next message, which is of this type."""
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        message = json.loads(payload)
        assert message["type"] == kind, message
        return message["data"]

    async def end(self) -> bytes:
        """Return what is left until the bridge closes the TCP connection."""
        async with asyncio.timeout(10):
            read = b""
            # A peer that sends on after it was refused is reset; what came before that counts.
            with contextlib.suppress(ConnectionResetError):
                while chunk := await self.reader.read(65536):
                    read += chunk
            return read


@contextlib.asynccontextmanager
async def tcp(bridge: BridgeProcess) -> AsyncIterator[Raw]:
    """Connect for the time of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


async def test_messages_right_behind_the_request(bridge: BridgeProcess) -> None:
    """Frames that come in one segment with the request are answered, each once, in order."""
    async with tcp(bridge) as raw:
        frames = b"".join(map(ping, range(5)))
        raw.writer.write(handshake(f"/ws/{mint(new_user())}") + frames)
        head = await raw.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert ACCEPT in head
        await raw.message("connection.established")
        for number in range(5):
            assert (await raw.message("pong"))["pingId"] == number


async def test_authenticate_right_behind_the_request(bridge: BridgeProcess) -> None:
    """The same for a token that comes as the first message, with more behind it."""
    async with tcp(bridge) as raw:
        token = {"type": "authenticate", "data": {"token": mint(new_user())}}
        message = masked(TEXT, json.dumps(token).encode())
        raw.writer.write(handshake("/ws") + message + ping(1) + ping(2))
        await raw.head()
        await raw.message("connection.established")
        assert [(await raw.message("pong"))["pingId"] for _ in range(2)] == [1, 2]


async def test_byte_by_byte(bridge: BridgeProcess) -> None:
    """A client that sends single bytes is served like any other."""
    async with tcp(bridge) as raw:

        async def drip(data: bytes) -> None:
            for byte in data:
                raw.writer.write(bytes((byte,)))
                await raw.writer.drain()
                await asyncio.sleep(0)

        await drip(handshake(f"/ws/{mint(new_user())}"))
        await raw.head()
        await raw.message("connection.established")
        await drip(ping(7))
        assert (await raw.message("pong"))["pingId"] == 7


async def test_upgrade_on_a_used_connection(bridge: BridgeProcess) -> None:
    """An upgrade may follow plain requests on one TCP connection."""
    async with tcp(bridge) as raw:
        raw.writer.write(b"GET /livez HTTP/1.1\r\nHost: bridge\r\n\r\n")
        head = (await raw.head()).lower()
        assert head.startswith(b"http/1.1 200 ")
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        async with asyncio.timeout(5):
            await raw.reader.readexactly(size)
        raw.writer.write(handshake(f"/ws/{mint(new_user())}"))
        assert (await raw.head()).startswith(b"HTTP/1.1 101 ")
        await raw.message("connection.established")


async def test_upgrade_behind_a_request(bridge: BridgeProcess) -> None:
    """An upgrade that does not wait for the answer before it never gets that into its stream."""
    async with tcp(bridge) as raw:
        plain = b"GET /livez HTTP/1.1\r\nHost: bridge\r\n\r\n"
        close = masked(CLOSE, (1000).to_bytes(2, "big"))
        raw.writer.write(plain + handshake(f"/ws/{mint(new_user())}"))
        raw.writer.write(close)
        answer = await raw.end()
        upgraded = answer.find(b"HTTP/1.1 101 ")
        assert b"HTTP/1.1 200 " not in answer[upgraded:] or upgraded == -1


@pytest.mark.parametrize("abrupt", [True, False])
async def test_client_that_vanishes(bridge: BridgeProcess, abrupt: bool) -> None:
    """A connection that is reset, or ended without a close frame, is forgotten at once."""
    user = new_user()
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        other = await clients.join(user)
        async with tcp(bridge) as raw:
            raw.writer.write(handshake(f"/ws/{mint(user)}"))
            await raw.head()
            name = (await raw.message("connection.established"))["connection_id"]
            path = f"/ws/connections/{name}"
            assert (await client.get(path)).status_code == 200
            if abrupt:
                raw.writer.transport.abort()
            else:
                raw.writer.write_eof()
                await raw.end()
        async with asyncio.timeout(5):
            while (await client.get(path)).status_code != 404:
                await other.ping()
        await other.ping()


def admin() -> str:
    """Return an admin's token."""
    return mint(new_user("admin"), role="admin")


async def test_client_that_vanishes_before_authenticating(bridge: BridgeProcess) -> None:
    """Whoever goes away without a word leaves nothing behind."""
    for data in (b"", b"GET /ws HT", handshake("/ws"), handshake(f"/ws/{mint(new_user())}")):
        async with tcp(bridge) as raw:
            raw.writer.write(data)
            await raw.writer.drain()
    async with http(bridge.url) as client:
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /ws HTTP/1.1\r\nHost: bridge\r\nX-Slow: "])
async def test_request_that_does_not_end(start_bridge: StartBridge, sent: bytes) -> None:
    """A request that is not whole in time ends the TCP connection, however it drips in."""
    bridge = start_bridge(BRIDGE_HANDSHAKE_TIMEOUT="0.5")
    async with Clients(bridge.url) as clients, tcp(bridge) as raw:
        friend = await clients.join()
        raw.writer.write(sent)

        async def drip() -> None:
            while sent:
                raw.writer.write(b"x")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        try:
            with contextlib.suppress(ConnectionError):
                assert b" 101 " not in await raw.end()
        finally:
            dripping.cancel()
        await friend.ping()


async def test_close_right_behind_the_request(bridge: BridgeProcess) -> None:
    """A close frame that comes with the request is answered, and the connection ends."""
    async with tcp(bridge) as raw:
        close = masked(CLOSE, (1000).to_bytes(2, "big"))
        raw.writer.write(handshake(f"/ws/{mint(new_user())}") + close)
        await raw.head()
        frames = [await raw.frame()]
        if frames[-1][0] == TEXT:
            frames.append(await raw.frame())
        assert frames[-1][0] == CLOSE
        assert frames[-1][1][:2] == (1000).to_bytes(2, "big")
        assert await raw.end() == b""


async def test_unmasked_frame(bridge: BridgeProcess) -> None:
    """A frame without a mask is a protocol error: 1002."""
    async with tcp(bridge) as raw:
        raw.writer.write(handshake(f"/ws/{mint(new_user())}"))
        await raw.head()
        await raw.message("connection.established")
        raw.writer.write(b"\x81\x02{}")
        opcode, payload = await raw.frame()
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") == codes.PROTOCOL_ERROR.code


async def test_events_while_clients_come(bridge: BridgeProcess) -> None:
    """From ``connection.established`` on every event of the user is there, in order."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        user = new_user()
        steady = await clients.join(user)
        done = asyncio.Event()

        async def publish() -> list[str]:
            ids = []
            while not done.is_set():
                ids.append(await bus.marker(user))
            return ids

        publishing = asyncio.create_task(publish())
        newcomers = [await clients.join(user) for _ in range(2)]
        done.set()
        ids = [*await publishing, await bus.marker(user)]
        for client in newcomers:
            received = [message["id"] for message in await client.until(ids[-1])]
            assert received == ids[len(ids) - 1 - len(received) : -1]
        assert [message["id"] for message in await steady.until(ids[-1])] == ids[:-1]


@pytest.mark.parametrize("path", ["/nothing", "/"])
async def test_upgrade_elsewhere(bridge: BridgeProcess, path: str) -> None:
    """An upgrade on a path that is no WebSocket is refused as HTTP."""
    async with Clients(bridge.url) as clients:
        refusal = await clients.rejected(path)
        assert 400 <= refusal.status_code < 500
