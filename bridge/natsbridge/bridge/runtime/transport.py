"""What carries a connection's bytes: asyncio's own transport, and a way past it.

A delivery is one write to one of many connections, whose memory is seldom in a cache. So little of
it is touched in the common case: while nothing waits in the transport, whoever borrowed its
socket sends to the kernel itself.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]
from asyncio.sslproto import AppProtocolState, SSLProtocol
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

READ: Final = 16 * 1024
"""Most bytes that are read of a peer at a time; a TLS record is as long."""


class Sender(Protocol):
    """Somebody who may hand whole frames to the kernel past the transport."""

    send: Callable[[bytes], int] | None
    """The socket's own ``send`` while the connection is open and nothing waits in the transport,
    which it would overtake; else None. What it does not take, or refuses with :class:`OSError`, is
    the transport's.
    """


class Transport(_SelectorSocketTransport):  # type: ignore[misc]  # typeshed does not tell of it
    """asyncio's, which lends its socket.

    asyncio's also holds a method of itself after its end: a cycle for the collector, which seldom
    looks at what is old (see :mod:`natsbridge.bridge.runtime.process`). Here it ends with the
    connection.
    """

    _sender: Sender | None = None

    def lend(self, sender: Sender | None) -> None:
        """Let this one, in place of another, send past the transport while nothing waits in it."""
        if self._sender is not None:
            self._sender.send = None
        self._sender = sender
        self._offer()

    def _offer(self) -> None:
        if self._sender is not None:
            free = not (self._buffer or self._closing or self._conn_lost or self._eof)
            self._sender.send = self._sock.send if free else None

    def write(self, data: bytes | memoryview) -> None:
        """asyncio's own, after which nobody sends past what is left of it."""
        super().write(data)
        if self._buffer:
            self._offer()

    def writelines(self, list_of_data: Iterable[bytes]) -> None:
        """As one :meth:`write`: asyncio's own takes no notice of the high-water mark up to Python
        3.12.8 and 3.13.1 (CVE-2024-12254).
        """
        self.write(b"".join(list_of_data))

    def _maybe_resume_protocol(self) -> None:
        """asyncio calls this when it has written some of what waited."""
        super()._maybe_resume_protocol()
        self._offer()

    def close(self) -> None:
        """asyncio's own, which also ends what was lent."""
        super().close()
        self._offer()

    def _force_close(self, exc: Exception | None) -> None:
        """asyncio calls this for what is aborted or has failed: what waited is dropped."""
        super()._force_close(exc)
        self._offer()

    def _call_connection_lost(self, exc: Exception | None) -> None:
        super()._call_connection_lost(exc)
        self._read_ready_cb = None
        self.__dict__.pop("_write_ready", None)  # a bound method, from Python 3.12 on


class PeerTransport(Transport):
    """One of a peer that came to the port: few bytes are read at a time.

    What is read in one go is kept by whoever has to wait before it can use it, and asyncio's
    256 KiB are asked of the allocator for each read.
    """

    max_size = READ


class SecuredByPeer(SSLProtocol):
    """asyncio's TLS for a peer that came to the port, with little memory, and none left behind.

    asyncio's has a buffer of 256 KiB for each connection, and what failed in a handshake holds
    itself by its traceback, and with it everything of the connection.
    """

    max_size = READ

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        asyncios: Any = self
        asyncios._set_read_buffer_limits(high=2 * READ)

    def _on_handshake_complete(self, handshake_exc: BaseException | type | None) -> None:
        super()._on_handshake_complete(handshake_exc)  # type: ignore[arg-type]
        if isinstance(handshake_exc, BaseException):
            handshake_exc.__traceback__ = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the protocol also when the handshake did not come to an end."""
        asyncios: Any = self
        protocol = asyncios._app_protocol
        began = asyncios._app_state is not AppProtocolState.STATE_INIT
        super().connection_lost(exc)
        if not began:
            protocol.never_made()


def lend(transport: asyncio.Transport, sender: Sender | None) -> None:
    """Let somebody send past a transport, where it can be: not where what is sent is encrypted."""
    if isinstance(transport, Transport):
        transport.lend(sender)


def unsent(transport: asyncio.Transport) -> int:
    """Return the bytes that the kernel has not taken yet, also of what is encrypted already."""
    size = transport.get_write_buffer_size()
    inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return size if inner is None else size + int(inner.get_write_buffer_size())


def accepted(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    peer: Any,
    protocol: asyncio.Protocol,
    tls: ssl.SSLContext | None,
    timeouts: tuple[float, float],
) -> asyncio.Transport:
    """Begin the transport of a peer that was accepted, as asyncio does, but without a task for it.

    ``timeouts`` are the seconds for the handshake of TLS and for its end. Where a handshake fails,
    ``protocol.never_made()`` is called.
    """
    extra = {"peername": peer}
    if tls is None:
        return PeerTransport(loop, sock, protocol, None, extra)
    secured = SecuredByPeer(
        loop,
        protocol,
        tls,
        None,
        server_side=True,
        ssl_handshake_timeout=timeouts[0],
        ssl_shutdown_timeout=timeouts[1],
    )
    PeerTransport(loop, sock, secured, None, extra)
    transport: asyncio.Transport = secured._app_transport
    return transport
