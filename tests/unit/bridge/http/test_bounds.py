"""What a peer may send before it has said who it is, and how long it may take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from natsbridge.bridge.http.protocol import MAX_FRAMING, MAX_HEADERS
from natsbridge.bridge.websocket.pending import Pending
from tests.support import port
from tests.support.faulty import eventually

Scope = dict[str, Any]
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(
    scope: Scope,
    receive: Callable[[], Awaitable[Scope]],
    send: Callable[[Scope], Awaitable[None]],
) -> None:
    """Answer with the names of the headers, once the body has come; ``/big`` with a megabyte."""
    while (await receive()).get("more_body"):
        pass
    body = b",".join(name for name, _ in scope["headers"])
    if scope["path"] == "/big":
        body = bytes(1 << 20)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Peer:
    """One connection to the port."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()

    async def answer(self) -> bytes:
        """Read one answer, whose body has a length."""
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            return head + await self.reader.readexactly(length)

    async def is_cut(self, within: float = 5) -> bool:
        """Whether the connection ends in this time, whatever is said before."""
        try:
            async with asyncio.timeout(within):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


@contextlib.asynccontextmanager
async def knocking(number: int) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


FLOODS = {
    "headers": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-%d: %b\r\n" % (1, b"x" * 1000)),
    "one header": (b"GET / HTTP/1.1\r\nX: ", b"x" * 1000),
    "a target": (b"GET /", b"x" * 1000),
    "blank lines": (GET, b"\r\n" * 500),
    "trailers": (HEAD + b"\r\n0\r\n", b"X: %b\r\n" % (b"x" * 1000)),
    "one trailer": (HEAD + b"\r\n0\r\nX: ", b"x" * 1000),
    "chunk extensions": (HEAD + b"\r\n", b"1;%b\r\nx\r\n" % (b"x" * 1000)),
    "one chunk extension": (HEAD + b"\r\n1;", b"x" * 1000),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_what_is_no_body_has_a_bound(name: str) -> None:
    """In whatever part of a request a peer goes on and on: it is cut, and no more is read."""
    begin, more = FLOODS[name]
    async with port.serving(app) as number, knocking(number) as peer:
        await peer.send(begin, *[more] * (2 * MAX_FRAMING // len(more)))
        assert await peer.is_cut()


async def test_headers_have_a_number() -> None:
    """A short header takes more memory than bytes."""
    async with port.serving(app) as number:
        for count, status in ((MAX_HEADERS - 1, b"200"), (MAX_HEADERS, b"431")):
            async with knocking(number) as peer:
                await peer.send(GET[:-2] + b"a:\r\n" * count + b"\r\n")
                assert (await peer.answer()).startswith(b"HTTP/1.1 " + status)


async def test_trailers_are_no_headers() -> None:
    """Neither an application nor the next request on the connection sees one."""
    async with port.serving(app) as number, knocking(number) as peer:
        await peer.send(HEAD + b"\r\n1\r\nx\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        assert (await peer.answer()).endswith(b"host,transfer-encoding")
        await peer.send(GET)
        assert (await peer.answer()).endswith(b"\r\n\r\nhost")


async def test_a_body_where_none_is_taken() -> None:
    """The first byte of it is one too many."""
    async with port.serving(app, max_body=0) as number, knocking(number) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", b"x")
        assert (await peer.answer()).startswith(b"HTTP/1.1 413 ")


async def slowly(peer: Peer, byte: bytes) -> None:
    """Send a byte again and again."""
    while not peer.writer.is_closing():
        await peer.send(byte)
        await asyncio.sleep(0.02)


SLOW = {
    "nothing": (b"", b""),
    "a head": (b"GET / HTTP/1.1\r\nX: ", b"x"),
    "blank lines at first": (b"", b"\r\n"),
    "blank lines after an answer": (GET, b"\r\n"),
    "half a head after an answer": (GET + b"GE", b""),
    "trailers": (HEAD + b"\r\n0\r\nX: ", b"x"),
    "a body": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n", b"x"),
    "after an upgrade to what is not known": (
        GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"\r\n",
    ),
}


@pytest.mark.parametrize("name", SLOW)
async def test_a_byte_now_and_then_keeps_nothing_open(name: str) -> None:
    """A deadline runs at any time, and no byte that completes nothing begins it again."""
    begin, byte = SLOW[name]
    counts = port.pending()
    async with port.serving(app, timeout=0.3, idle=0.3, end=0.3, counts=counts) as number:
        async with knocking(number) as peer:
            await peer.send(begin)
            trickle = asyncio.create_task(slowly(peer, byte))
            assert await peer.is_cut(3)
            trickle.cancel()
        await eventually(lambda: not counts, "nothing is counted any more", 5)


BIG = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("sent", [BIG * 6, BIG * 6 + b"\x00"], ids=["asked", "cut"])
async def test_answers_that_are_not_read_end_the_connection(sent: bytes) -> None:
    """Asked for in one breath, or cut for what came behind them: they wait for a while only."""
    counts = port.pending()
    async with (
        port.serving(app, answer=0.3, idle=0.3, end=0.3, counts=counts) as number,
        knocking(number) as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(sent)
        await eventually(lambda: bool(counts), "it is there", 5)
        await eventually(lambda: not counts, "it is gone", 5)


async def test_the_oldest_of_an_address_goes() -> None:
    """Whoever holds all places keeps nobody out: one that comes is served at once."""
    counts = port.pending(per_address=20)
    async with port.serving(app, counts=counts) as number, contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(knocking(number)) for _ in range(20)]
        for peer in held:
            await peer.send(b"GET / HT")
        await eventually(lambda: len(counts) == 20, "all are there", 5)
        async with knocking(number) as late:
            await late.send(GET)
            assert (await late.answer()).startswith(b"HTTP/1.1 200 ")
        assert await held[0].is_cut()
        await held[-1].send(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert (await held[-1].answer()).startswith(b"HTTP/1.1 200 ")
        assert counts.evicted == 1


async def test_a_proxys_connections_count_under_whom_they_are_for() -> None:
    """None of them counts before it asks; then one client of the proxy can't end another's."""

    def address(peer: str, forwarded: str | None) -> str | None:
        return forwarded or None

    counts = port.pending(per_address=2)
    async with (
        port.serving(app, counts=counts, address=address) as number,
        contextlib.AsyncExitStack() as stack,
    ):
        ask = b"POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %b\r\nContent-Length: 1\r\n\r\n"
        peers = [await stack.enter_async_context(knocking(number)) for _ in range(6)]
        for name, peer in zip((b"good", *[b"bad"] * 5), peers, strict=True):
            await peer.send(ask % name)
        await eventually(lambda: counts.evicted == 3, "the bad one's oldest are gone", 5)
        assert (counts.of("good"), counts.of("bad")) == (1, 2)
        await peers[0].send(b"x")
        assert (await peers[0].answer()).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: counts.of("good") == 0, "answered, it counts for nobody", 5)


async def test_bytes_of_an_address_have_a_bound() -> None:
    """Half requests of one address together: the oldest of them goes."""
    counts = Pending(per_address=100, most=100, held_per_address=100_000, most_held=1 << 30)
    async with port.serving(app, counts=counts) as number, contextlib.AsyncExitStack() as stack:
        idle = await stack.enter_async_context(knocking(number))
        peers = [await stack.enter_async_context(knocking(number)) for _ in range(5)]
        for peer in peers:
            await peer.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 30_000)
        await eventually(lambda: counts.evicted == 2, "two had to go", 5)
        assert 60_000 < counts.held < 100_000
        assert await peers[0].is_cut()
        await idle.send(GET)
        assert (await idle.answer()).startswith(b"HTTP/1.1 200 ")
