"""A WebSocket client on a bare asyncio protocol: cheap enough for a thousand, and able to be rude.

It reads unfragmented frames, which is what the bridge sends, and never answers anything by itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import Callable
from typing import Final, Self
from urllib.parse import urlsplit

TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9

OnFrame = Callable[[int, bytes], None]
"""Called with the opcode and the payload of each frame, in order."""


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a final frame as clients send it; the mask is zero, which changes nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


class LeanClient(asyncio.Protocol):
    """One connection; frames go to a callable as they come."""

    def __init__(self, request: bytes, on_frame: OnFrame) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._on_frame = on_frame
        self._buffer = b""
        self._open = False
        self.upgraded: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport

    @classmethod
    async def connect(cls, url: str, path: str, on_frame: OnFrame, *, buffer: int = 0) -> Self:
        """Connect and upgrade; the kernel holds ``buffer`` bytes of what is not read, if given."""
        place = urlsplit(url)
        assert place.hostname is not None
        assert place.port is not None
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        await loop.sock_connect(sock, (place.hostname, place.port))
        _, client = await loop.create_connection(lambda: cls(request, on_frame), sock=sock)
        async with asyncio.timeout(20):
            await client.upgraded
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.upgraded.done():
            self.upgraded.set_exception(ConnectionError("closed before the upgrade"))
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        if not self._open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            if not buffer.startswith(b"HTTP/1.1 101 "):
                self.upgraded.set_exception(ConnectionError(buffer[:end].decode()))
                self.transport.close()
                return
            self._open = True
            self.upgraded.set_result(None)
            at = end + 4
        size = len(buffer)
        while size - at >= 2:
            length, start = buffer[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if start > size or start + length > size:
                break
            self._on_frame(buffer[at] & 0x0F, buffer[start : start + length])
            at = start + length
        self._buffer = buffer[at:]

    def send(self, message: object) -> None:
        """Send a message as JSON text."""
        self.transport.write(masked(TEXT, json.dumps(message).encode()))
