"""The transport: nothing waits out of its place, and nobody sends past what waits."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import weakref
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

import pytest

from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.bridge.runtime.transport import Sender, lend, unsent
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.schemas.codes import GOING_AWAY


def test_what_is_unsent_over_tls_is_on_two_floors() -> None:
    """What waits to be encrypted, and what waits behind that; asyncio's own names are relied on."""

    class Plain(asyncio.Transport):
        def get_write_buffer_size(self) -> int:
            return 700

    assert unsent(Plain()) == 700
    with asyncio.Runner(loop_factory=FairLoop) as runner:
        loop = runner.get_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        make: Any = SSLProtocol
        secured = make(loop, asyncio.Protocol(), context, None, server_side=True)
        secured._transport = Plain()
        transport = secured._get_app_transport()
        assert unsent(transport) == 700
        secured._outgoing.write(b"x" * 30)
        assert unsent(transport) == 730
        transport._closed = True  # there is nothing below it that could be closed


class Writer(asyncio.Protocol):
    """Writes to a peer, and knows whether it may and how that ended."""

    def __init__(self) -> None:
        self.paused = False
        self.resumed = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def pause_writing(self) -> None:
        """The peer takes no more for now."""
        self.paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self.lost.set_result(exc)


async def a_writer() -> tuple[asyncio.Transport, Writer, socket.socket]:
    """Return one end of a connection, and the socket of the other, which is not read yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        connection, _ = server.accept()
    connection.setblocking(False)
    peer.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(
        Writer, sock=connection
    )
    return transport, protocol, peer


class Borrower:
    """Somebody who may send past a transport for now, or not."""

    send: Callable[[bytes], int] | None = None


def test_what_is_lent_is_taken_back_while_something_waits() -> None:
    """Whoever sends past a transport must not overtake what waits in it."""

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        borrower: Sender = Borrower()
        lend(transport, borrower)
        assert borrower.send is not None
        assert borrower.send(b"straight") == len(b"straight")
        transport.write(b", behind that")
        assert borrower.send is not None
        while transport.get_write_buffer_size() == 0:
            transport.write(bytes(1 << 16))
        assert borrower.send is None
        async with asyncio.timeout(10):
            got = b""
            while borrower.send is None:
                got += await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
        assert got.startswith(b"straight, behind that")
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await protocol.lost
        assert borrower.send is None
        peer.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())


def test_a_socket_is_lent_to_one_at_a_time() -> None:
    """The one before gets it back no more, nor does anybody on a connection that is closing."""

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        one, two, late = Borrower(), Borrower(), Borrower()
        lend(transport, one)
        lend(transport, two)
        assert one.send is None
        assert two.send is not None
        lend(transport, None)
        assert two.send is None
        transport.close()
        lend(transport, late)
        assert late.send is None
        await protocol.lost
        assert late.send is None
        peer.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_what_is_lent_ends_with_the_connection(end: str) -> None:
    """At once: what is sent past a transport that takes no more could be the half of a frame, with
    another one behind it.
    """

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        borrower = Borrower()
        lend(transport, borrower)
        assert borrower.send is not None
        getattr(transport, end)()
        assert borrower.send is None
        await protocol.lost
        peer.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())


def test_nothing_is_lent_behind_a_close_frame() -> None:
    """The borrower can't send from where a WebSocket's close begins, also when that was written."""

    async def main() -> None:
        transport, _, peer = await a_writer()
        connection = Socket(transport, Parsers(1 << 16), asyncio.get_running_loop())
        transport.set_protocol(connection)
        borrower, lost = Borrower(), asyncio.Event()
        connection.when_lost(lost.set)
        connection.lend(borrower)
        while transport.get_write_buffer_size() == 0:
            transport.write(bytes(1 << 16))
        connection.close(GOING_AWAY)
        async with asyncio.timeout(10):
            while transport.get_write_buffer_size():
                await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
            assert borrower.send is None
            peer.close()
            await lost.wait()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())


def test_nothing_is_lent_where_it_would_go_out_in_the_clear() -> None:
    """What is sent over TLS has to go through it."""
    with asyncio.Runner(loop_factory=FairLoop) as runner:
        make: Any = SSLProtocol
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secured = make(runner.get_loop(), asyncio.Protocol(), context, None, server_side=True)
        transport, borrower = secured._get_app_transport(), Borrower()
        lend(transport, borrower)
        assert borrower.send is None
        transport._closed = True  # there is nothing below it that could be closed


def test_what_the_kernel_does_not_take_waits_in_its_place() -> None:
    """Every byte arrives in order, whether it was sent at once, in part, or had to wait."""

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        loop, chunk = asyncio.get_running_loop(), bytes(range(256)) * 400
        written = 0
        while not protocol.paused:
            transport.write(chunk)
            written += len(chunk)
        transport.write(b"")
        transport.write(b"the end")
        assert transport.get_write_buffer_size() > len(b"the end")
        got = bytearray()
        async with asyncio.timeout(10):
            while len(got) < written + len(b"the end"):
                got += await loop.sock_recv(peer, 1 << 20)
            await protocol.resumed.wait()
        assert got == chunk * (written // len(chunk)) + b"the end"
        transport.close()
        transport.write(b"too late")
        assert await protocol.lost is None
        assert await loop.sock_recv(peer, 10) == b""
        peer.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())


def test_a_write_to_a_peer_that_is_gone_ends_the_connection() -> None:
    """It raises nothing, and its protocol hears of it, as with asyncio's own transport."""

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        transport.pause_reading()  # or the end would be found by reading
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        transport.write(b"x")
        async with asyncio.timeout(5):
            assert isinstance(await protocol.lost, ConnectionError)
        transport.write(b"x")

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("end", ["close", "abort", "peer"])
def test_nothing_is_left_of_a_connection(end: str) -> None:
    """Whichever side ends it, it goes without the collector: some Pythons' own transport is left
    holding a method of itself.
    """

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        transport.write(b"something")
        if end == "peer":
            peer.close()
        else:
            getattr(transport, end)()
            peer.close()
        await protocol.lost
        await asyncio.sleep(0)
        left = weakref.ref(transport)
        del transport, protocol
        assert left() is None

    gc.disable()
    try:
        with asyncio.Runner(loop_factory=FairLoop) as runner:
            runner.run(main())
    finally:
        gc.enable()


def test_many_pieces_at_once_are_bounded_too() -> None:
    """``writelines`` pauses a writer whose peer does not read, on each Python."""

    async def main() -> None:
        transport, protocol, peer = await a_writer()
        for _ in range(100):
            if protocol.paused:
                break
            transport.writelines([bytes(1 << 16)] * 4)
        assert protocol.paused
        transport.abort()
        await protocol.lost
        peer.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())
