"""The proxy that other tests trust: each kind of bad network is what its name says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """Run a server that sends back what comes; yield its address."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_ones:
            writer.close()


@contextlib.asynccontextmanager
async def dial(proxy: Proxy) -> AsyncIterator[Pair]:
    """Connect through the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def says(pair: Pair, text: bytes, deadline: float = 5) -> bytes:
    """Send, and return what comes back."""
    pair[1].write(text)
    async with asyncio.timeout(deadline):
        return await pair[0].readexactly(len(text))


async def test_forwards_both_ways_and_the_end() -> None:
    """Bytes and a half-close pass; many connections are kept apart."""
    async with echo() as target, contextlib.AsyncExitStack() as stack:
        proxy = stack.enter_context(Proxy(target))
        pairs = [await stack.enter_async_context(dial(proxy)) for _ in range(5)]
        answers = await asyncio.gather(
            *(says(pair, b"%d" % at * 100_000) for at, pair in enumerate(pairs))
        )
        assert [answer[:1] for answer in answers] == [b"0", b"1", b"2", b"3", b"4"]
        assert proxy.connections == proxy.accepted == 5
        pairs[0][1].write_eof()
        assert await pairs[0][0].read() == b""


@pytest.mark.parametrize("reset", [True, False])
async def test_cut(reset: bool) -> None:
    """A cut ends what is open, with RST or FIN as asked, and serves new connections."""
    async with echo() as target:
        with Proxy(target) as proxy:
            async with dial(proxy) as pair:
                await says(pair, b"before")
                assert proxy.cut(reset=reset) == 1
                with pytest.raises(ConnectionResetError) if reset else contextlib.nullcontext():
                    assert await pair[0].read(1) == b""
            async with dial(proxy) as pair:
                await says(pair, b"after")


async def test_refuse_and_heal() -> None:
    """While it refuses, nobody listens on the port; after the healing it is the same port."""
    async with echo() as target:
        with Proxy(target) as proxy:
            async with dial(proxy) as pair:
                await says(pair, b"before")
                assert proxy.refuse() == 1
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", proxy.port)
            proxy.heal()
            async with dial(proxy) as pair:
                await says(pair, b"after")


async def test_black_hole() -> None:
    """In a black hole connections stay and come about, and nothing passes until it heals."""
    async with echo() as target:
        with Proxy(target) as proxy:
            async with dial(proxy) as old:
                await says(old, b"before")
                proxy.swallow()
                async with dial(proxy) as new:
                    for pair in (old, new):
                        with pytest.raises(TimeoutError):
                            await says(pair, b"lost", deadline=0.1)
                    proxy.heal()
                    for pair in (old, new):
                        async with asyncio.timeout(5):
                            assert await pair[0].readexactly(4) == b"lost"


async def test_delay_and_throttle() -> None:
    """A delay adds to the round trip twice and takes no bandwidth; a rate limits bytes."""
    async with echo() as target:
        with Proxy(target) as proxy:
            async with dial(proxy) as pair:
                proxy.delay = 0.1
                began = time.monotonic()
                await says(pair, b"x" * 1_000_000)
                assert 0.2 <= time.monotonic() - began < 3
                proxy.delay, proxy.rate = 0.0, 100_000
                await says(pair, b"1")
                began = time.monotonic()
                await says(pair, b"x" * 50_000)
                assert 0.4 <= time.monotonic() - began < 4


async def test_goes_on_while_the_loop_is_blocked() -> None:
    """What is sent while the test's own loop stands still is answered meanwhile."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, Proxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
        near = socket.create_connection(("127.0.0.1", proxy.port), 5)
        far, _ = listener.accept()
        with near, far:
            near.sendall(b"through")
            assert far.recv(7) == b"through"
