"""What the kernel knows of a connection's bytes, and what it is to keep of them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
from typing import Final

from natsbridge.bridge.runtime.transport import unsent

MAX_UNSENT: Final = 128 * 1024
"""Bytes that wait in the kernel to be sent to a slow peer, about."""
NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
TCP_INFO: Final[int | None] = socket.TCP_INFO if sys.platform == "linux" else None
"""Its ``tcpi_bytes_acked`` is the eight bytes at 120 (linux/tcp.h, since 4.1)."""


def limit_unsent(transport: asyncio.Transport) -> None:
    """Let the kernel keep little that it has not sent.

    What waits is better kept in the backlog, where it can be conflated, than growing old in a
    buffer of megabytes. Only for a peer that is slow: in a burst it would split the writes, which
    cost the most.
    """
    found = transport.get_extra_info("socket")
    if found is not None and NOTSENT_LOWAT is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, MAX_UNSENT)


def acknowledged(transport: asyncio.Transport) -> int | None:
    """Return the bytes that the peer's system has acknowledged; None where that is not known."""
    found = transport.get_extra_info("socket")
    if found is None or TCP_INFO is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        told = found.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 128)
        if len(told) == 128:
            return int.from_bytes(told[120:], sys.byteorder)
    return None


def untaken(transport: asyncio.Transport) -> int:
    """Return the bytes that were written and not taken by the peer, as far as the system tells."""
    found = transport.get_extra_info("socket")
    queued = bytes(4)
    if found is not None:
        # On Linux what the peer has not acknowledged, tcp(7): megabytes may wait in the kernel.
        with contextlib.suppress(OSError, ValueError):
            queued = fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, queued)
    return unsent(transport) + int.from_bytes(queued, sys.byteorder)
