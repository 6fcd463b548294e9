"""A fetch from sources that never end: whatever they do, it is over at its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from natsbridge.bridge.identity.fetching import Fetch, JwksError
from natsbridge.bridge.identity.keys import JwksKeys

pytestmark = pytest.mark.anyio

TIMEOUT = 0.5
HEAD = b"HTTP/1.1 200 OK\r\n"


class Dripping:
    """A server that says something, and then a byte every twentieth of a second, without end."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.served = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.served += 1
                thread = threading.Thread(target=self._drip, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(self._first)
            while not self._over.wait(0.05):
                connection.sendall(b" ")

    def close(self) -> None:
        """End it, threads and all."""
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture(params=["head", "status", "body", "chunks", "tls"])
def source(request: pytest.FixtureRequest) -> Iterator[tuple[Dripping, str]]:
    """A source that drips at one place of its answer, and its URL."""
    first = {
        "head": HEAD + b"X: ",
        "status": b"HTTP/1.1",
        "body": HEAD + b"Content-Length: 100000\r\n\r\n{",
        "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        # The head of a record that a handshake waits for; the rest of it comes byte by byte.
        "tls": b"\x16\x03\x03\x3f\xff",
    }[request.param]
    server = Dripping(first)
    scheme = "https" if request.param == "tls" else "http"
    yield server, f"{scheme}://127.0.0.1:{server.port}/jwks"
    server.close()


def test_a_fetch_ends_at_its_deadline(source: tuple[Dripping, str]) -> None:
    """Each byte is in time for urllib; the whole is not, and is cut wherever it waits."""
    fetch = Fetch(source[1], TIMEOUT)
    timer = threading.Timer(TIMEOUT, fetch.cut)
    timer.start()
    began = time.monotonic()
    with pytest.raises((JwksError, OSError)):
        fetch.read()
    assert time.monotonic() - began < TIMEOUT + 2
    timer.join()


def test_what_is_cut_before_it_begins_connects_to_nobody(source: tuple[Dripping, str]) -> None:
    """A name may resolve after the deadline; nothing is asked then."""
    fetch = Fetch(source[1], TIMEOUT)
    fetch.cut()
    with pytest.raises((JwksError, OSError)):
        fetch.read()


async def test_another_fetch_begins_after_it(source: tuple[Dripping, str]) -> None:
    """One that never ends does not stand in the way of the next."""
    keys = JwksKeys(source[1], ("ES256",), timeout=TIMEOUT, pause=0)
    for number in (1, 2):
        assert not await keys.refresh()
        async with asyncio.timeout(5):
            await keys.landed()
        assert keys.fetches == keys.failures == number
