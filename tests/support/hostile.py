"""A peer without a token that does harm, in a process of its own, from an address of its own.

``python -m tests.support.hostile PORT SECONDS ATTACK…`` does so against ``127.0.0.1:PORT`` from
127.0.0.2, all attacks at once, and ends; what it holds open then breaks. It prints how many
connections it made.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.support.lean import TEXT, masked

ADDRESS: Final = "127.0.0.2"
HELD: Final = 1500
"""Connections that are held open, over all attacks at once."""
BUSY: Final = 40
"""Connections that are made again as soon as they are cut."""

GET: Final = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED: Final = b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Line:
    """One connection, made anew for each round of an attack."""

    made = 0

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def flood(self, data: bytes) -> None:
        """Send this without end."""
        while True:
            await self.send(data)

    async def trickle(self, data: bytes) -> None:
        """Send this now and then, without end."""
        while True:
            await self.send(data)
            await asyncio.sleep(0.3)

    async def read(self) -> None:
        """Read until it is cut."""
        while await self._reader.read(65536):
            pass

    async def head(self) -> None:
        await self._reader.readuntil(b"\r\n\r\n")

    def deaf(self) -> None:
        """Read nothing from here on."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        found = self._writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


def upgrade(path: str = "/ws") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


async def half_frames(line: Line) -> None:
    await line.send(upgrade())
    await line.head()
    await line.send(masked(TEXT, bytes(250_000))[:-1])
    line.reset()


async def half_frames_held(line: Line) -> None:
    await line.send(upgrade())
    await line.send(masked(TEXT, bytes(250_000))[:-1])
    await line.read()


async def endless_headers(line: Line) -> None:
    await line.send(GET[:-2])
    await line.flood(b"X-Y: %b\r\n" % (b"x" * 50) * 100)


async def endless_trailers(line: Line) -> None:
    await line.send(CHUNKED + b"0\r\n")
    await line.flood(b"X-Y: %b\r\n" % (b"x" * 50) * 100)


async def endless_extensions(line: Line) -> None:
    await line.send(CHUNKED + b"1;")
    await line.flood(b"x" * 5000)


async def slow_heads(line: Line) -> None:
    await line.send(GET[:-2] + b"X: " + b"x" * 20_000)
    await line.trickle(b"x")


async def open_and_idle(line: Line) -> None:
    await line.read()


async def blank_lines(line: Line) -> None:
    await line.send(GET)
    await line.head()
    await line.trickle(b"\r\n")


async def unread_answers(line: Line) -> None:
    line.deaf()
    await line.flood(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 8)


async def unread_metrics(line: Line) -> None:
    line.deaf()
    await line.flood(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 3)


async def big_bodies(line: Line) -> None:
    head = "POST /ws/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 131072\r\n\r\n"
    await line.send(head.encode() + bytes(131_071))
    await line.read()


async def silent_upgrades(line: Line) -> None:
    await line.send(upgrade())
    await line.read()


async def bad_tokens(line: Line) -> None:
    await line.send(upgrade(f"/ws/eyJ{random.random()}.x.y"))
    await line.read()


async def upgrades_behind_answers(line: Line) -> None:
    line.deaf()
    await line.send(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 8 + upgrade())
    await line.flood(masked(0x9, b"x" * 100))


async def churn(line: Line) -> None:
    line.reset()


async def unknown_paths(line: Line) -> None:
    for number in range(1000):
        await line.send(b"GET /x%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        await line.head()


async def garbage(line: Line) -> None:
    await line.flood(os.urandom(5000))


async def half_handshakes(line: Line) -> None:
    """Of TLS: the beginning of a ClientHello, and no more."""
    await line.send(b"\x16\x03\x01\x3f\xfc\x01\x00\x3f\xf8\x03\x03" + os.urandom(15_000))
    await line.read()


ATTACKS: Final[dict[str, tuple[Callable[[Line], Awaitable[None]], int]]] = {
    each.__name__.replace("_", "-"): (each, lines)
    for each, lines in (
        (half_frames, BUSY),
        (half_frames_held, HELD),
        (endless_headers, BUSY),
        (endless_trailers, BUSY),
        (endless_extensions, BUSY),
        (slow_heads, HELD),
        (open_and_idle, HELD),
        (blank_lines, HELD),
        (unread_answers, HELD),
        (unread_metrics, HELD),
        (big_bodies, HELD),
        (silent_upgrades, HELD),
        (bad_tokens, BUSY),
        (upgrades_behind_answers, BUSY),
        (churn, BUSY),
        (unknown_paths, BUSY),
        (garbage, BUSY),
        (half_handshakes, HELD),
    )
}
"""Each by its name, with the number of connections that do it at once."""


async def again(attack: Callable[[Line], Awaitable[None]], port: int, end: float) -> None:
    """Attack again and again until the end."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + end - time.monotonic()
            ):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(ADDRESS, 0)
                )
                Line.made += 1
                try:
                    await attack(Line(reader, writer))
                finally:
                    writer.transport.abort()
        await asyncio.sleep(0)


async def main(port: int, seconds: float, names: list[str]) -> None:
    """Do it."""
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for name in names:
            attack, lines = ATTACKS[name]
            for _ in range(max(1, lines // len(names))):
                group.create_task(again(attack, port, end))
    print(Line.made)  # noqa: T201  # what it is for


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
