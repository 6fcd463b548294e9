"""The listening socket: accepts peers, few at a time, and keeps descriptors for the rest.

asyncio's own makes a task for each connection, does not say when descriptors run out but in a
traceback a second, and leaves none for a new connection to NATS.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Final

from natsbridge.bridge.http.protocol import CLOSE_TIMEOUT, HttpConnection
from natsbridge.bridge.runtime.transport import accepted
from natsbridge.bridge.websocket.pending import Pending

log = logging.getLogger(__name__)

BACKLOG: Final = 2048
"""Connections that the kernel completes while the loop is busy."""
ACCEPTS: Final = 4
"""Connections that one loop iteration accepts: a storm of them must not hold up deliveries."""
RESERVE: Final = 32
"""Descriptors that no peer gets: NATS, its name look-up, keys and files need some."""
REST: Final = 0.1
"""Seconds without accepting, when the system has no descriptor left."""
SAY_AGAIN: Final = 60.0
"""Seconds between two lines about that."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts on a bound socket between :meth:`start` and :meth:`stop`."""

    def __init__(
        self,
        sock: socket.socket,
        connection: Callable[[], HttpConnection],
        pending: Pending,
        make_room: Callable[[], bool],
        tls: ssl.SSLContext | None,
        handshake_timeout: float,
    ) -> None:
        """``make_room`` ends a connection that matters less than a new one, if there is any."""
        self._socket: Final = sock
        self._connection: Final = connection
        self._pending: Final = pending
        self._make_room: Final = make_room
        self._tls: Final = tls
        self._timeouts: Final = (handshake_timeout, CLOSE_TIMEOUT)
        self._loop: Final = asyncio.get_running_loop()
        self._said = float("-inf")
        self._turned_away = 0
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen."""
        self._socket.listen(BACKLOG)
        self._loop.add_reader(self._socket, self._accept)

    def stop(self) -> None:
        """Listen no more; safe to call twice."""
        if self._resting is not None:
            self._resting.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _accept(self) -> None:
        most = most_descriptors()  # it may be changed while the process runs
        for _ in range(ACCEPTS):
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as problem:
                if problem.errno not in _EXHAUSTED:
                    raise
                self._turned_away += 1
                self._make_room()
                self._say(problem.strerror or "out of resources")
                self._rest()
                return
            # The system gives the lowest number that is free, so a high one says that few are left.
            number = sock.fileno()
            if number >= most - RESERVE:
                self._make_room()
                if number >= most - RESERVE // 2:
                    sock.close()
                    self._turned_away += 1
                    self._say("few descriptors are left")
                    continue
            sock.setblocking(False)
            connection = self._connection()
            transport = accepted(self._loop, sock, peer, connection, self._tls, self._timeouts)
            connection.accepted(peer[0], transport)

    def _rest(self) -> None:
        # The listening socket stays readable; looking again at once would be all the loop did.
        self._loop.remove_reader(self._socket)
        self._resting = self._loop.call_later(REST, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        self._loop.add_reader(self._socket, self._accept)

    def _say(self, why: str) -> None:
        now = self._loop.time()
        if now - self._said >= SAY_AGAIN:
            self._said = now
            log.error(
                "connections are turned away: %s (%d allowed, %d connections pending, %d turned "
                "away so far); raise the limit of open files (ulimit -n)",
                why,
                most_descriptors(),
                len(self._pending),
                self._turned_away,
            )


def most_descriptors() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def raise_descriptors() -> None:
    """Let this process have as many descriptors as it may give itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # pragma: no cover  # macOS allows less than it tells
            log.warning("the limit of open files stays at %d", soft)
