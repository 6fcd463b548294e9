"""What carries a connection's bytes: asyncio's own transport, and a way past it.

A delivery is one write to one of many connections, whose memory is seldom in a cache. So little of
it is touched in the common case: while nothing waits in the transport, whoever borrowed its
socket sends to the kernel itself.
"""

from __future__ import annotations

import asyncio
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]
from collections.abc import Callable
from typing import Protocol


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
    looks at what is old (see :mod:`bridge.process`). Here it ends with the connection.
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


def lend(transport: asyncio.Transport, sender: Sender | None) -> None:
    """Let somebody send past a transport, where it can be: not where what is sent is encrypted."""
    if isinstance(transport, Transport):
        transport.lend(sender)


def unsent(transport: asyncio.Transport) -> int:
    """Return the bytes that the kernel has not taken yet, also of what is encrypted already."""
    size = transport.get_write_buffer_size()
    inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return size if inner is None else size + int(inner.get_write_buffer_size())
