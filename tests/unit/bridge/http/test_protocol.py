"""The bounds of a connection before its upgrade: requests that are slow, too large, or odd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from natsbridge.bridge.http.protocol import MAX_FRAMING
from tests.support import port
from tests.support.port import MAX_BODY

Scope = dict[str, Any]


class App:
    """An ASGI application that answers with the length of the body it got, or before it came."""

    def __init__(self, *, early: bool = False) -> None:
        self.bodies: list[int] = []
        self._early = early

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Scope]],
        send: Callable[[Scope], Awaitable[None]],
    ) -> None:
        size, more = 0, not self._early
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.bodies.append(size)
        body = str(size).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(timeout: float, *, early: bool = False) -> AsyncIterator[tuple[int, App]]:
    """Listen on a free port, before an application that answers with the size of what it got."""
    app = App(early=early)
    async with port.serving(app, timeout=timeout) as number:
        yield number, app


async def exchange(number: int, *pieces: bytes) -> bytes:
    """Send a request in these pieces and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    answer = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(5):
            while chunk := await reader.read(65_536):
                answer += chunk
                if not answer.startswith(b"HTTP/1.1 4") and answer.count(b"\r\n\r\n"):
                    break
    except ConnectionError:
        pass
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return answer


def post(size: int, *, sent: int | None = None) -> bytes:
    """A POST that announces a body of this size, and holds so much of it."""
    body = b"x" * (size if sent is None else sent)
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


@pytest.mark.parametrize(
    "piece",
    [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", post(100, sent=50)],
    ids=["nothing", "a byte", "half its headers", "half its body"],
)
async def test_a_request_that_does_not_become_whole_is_408(piece: bytes) -> None:
    """Headers or body: after the time allowed the connection is told so, and closed."""
    async with serving(timeout=0.1) as (number, app):
        answer = await exchange(number, piece)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"Connection: close" in answer
    assert app.bodies == []


async def test_headers_have_a_bound() -> None:
    """More bytes of headers than anybody needs: 431, before they are whole."""
    async with serving(timeout=5) as (number, _):
        big = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        answer = await exchange(number, big + b"x" * (2 * MAX_FRAMING))
        assert answer.startswith(b"HTTP/1.1 431 ")
        token = b"x" * 8192
        assert (await exchange(number, big + token + b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_body_has_a_bound() -> None:
    """The largest body passes; one byte more is 413, announced or in chunks."""
    async with serving(timeout=5) as (number, app):
        assert (await exchange(number, post(MAX_BODY))).startswith(b"HTTP/1.1 200 ")
        assert (await exchange(number, post(MAX_BODY + 1))).startswith(b"HTTP/1.1 413 ")
        chunks = b"%x\r\n%b\r\n" % (500, b"x" * 500)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await exchange(number, head, *[chunks] * 5)).startswith(b"HTTP/1.1 413 ")
    assert app.bodies == [MAX_BODY]


async def test_the_time_is_for_each_request() -> None:
    """A connection that is kept alive has its bounds anew for every request."""
    async with serving(timeout=0.2) as (number, app):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        for _ in range(3):
            writer.write(post(MAX_BODY))
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(str(MAX_BODY)))
            assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET / HT")
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
    assert app.bodies == [MAX_BODY] * 3


async def test_an_answer_does_not_end_the_next_requests_time() -> None:
    """A request that began while the one before was answered has to become whole in time, too."""
    async with serving(timeout=0.2) as (number, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(post(10) + b"GET / HT")
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n10")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"T")
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


async def test_an_early_answer_does_not_end_the_bodys_time() -> None:
    """Who was answered before its body came, and sends it for ever, is cut without another word."""
    async with serving(timeout=0.2, early=True) as (number, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(post(1000, sent=10))
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200 ")
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"x")
                    with contextlib.suppress(TimeoutError):
                        assert await asyncio.wait_for(reader.read(100), 0.02) == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
