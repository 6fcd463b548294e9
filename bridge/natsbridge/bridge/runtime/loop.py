"""The event loop of a bridge: asyncio's own, with turns that are bounded, and NATS in each of them.

asyncio handles every socket that is ready before it looks again. When thousands of clients come, go
or speak at once, an event from NATS would wait for all of them. Here one iteration handles a few,
fewer after one that took long (:data:`LONG`). What is left over is found by the next look, before
what came later: the kernel hands ready sockets out in turns. NATS's socket is read between any two
callbacks when a while has passed (:data:`GLANCE`): an event waits for one of them, not for all that
the iteration has to do. While other sockets are ready, what is done for them has as much time as
NATS has. (Timers that are due together run without a look between them; what they do has to be
short.)
"""

from __future__ import annotations

import asyncio
import math
import select
import selectors
import socket
import sys
from asyncio.sslproto import SSLProtocol
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from natsbridge.bridge.runtime.transport import Transport

FIRST: Final = 8
"""Sockets that one iteration handles before it is known how long they take."""
LEAST: Final = 4
"""Sockets that it handles however long the ones before took."""
MOST: Final = 64
"""Sockets that it handles when each is done quickly."""
LONG: Final = 0.001
"""Seconds that an iteration should take: about four handshakes."""
GLANCE: Final = 0.00025
"""Seconds that others have before the preferred socket is looked at again."""

if sys.platform == "linux":
    # typeshed does not tell of the epoll object and the keys, which are there since Python 3.4.
    _WRITE: Final = ~select.EPOLLIN
    _READ: Final = ~select.EPOLLOUT

    class FairSelector(selectors.EpollSelector):
        """epoll that tells of a few ready sockets at a time, and of a preferred one in between."""

        _selector: select.epoll
        _fd_to_key: dict[int, selectors.SelectorKey]

        def __init__(self, clock: Callable[[], float] = monotonic) -> None:
            super().__init__()
            self._clock = clock
            self._preferred = -1
            self._look = select.poll()
            self._turn = FIRST
            self._handled = 0
            self._began = clock()
            self._peeked = self._next_peek = 0.0
            self.alone = False
            """Whether the preferred socket can be read, and no other socket is ready."""
            self.waits = False
            """Whether it may be ready beside others."""

        def prefer(self, fd: int) -> None:
            """Have this socket read amid the others; -1 for none."""
            self._preferred = fd
            self._look = select.poll()
            if fd >= 0:
                self._look.register(fd, select.POLLIN)

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait for sockets that are ready, at most ``timeout`` seconds.

            Reading the preferred one is not told of: that is what :meth:`peek` is for.
            """
            turn = self._next_turn(self._clock() - self._began)
            if timeout is None:
                timeout = -1
            elif timeout <= 0:
                timeout = 0
            else:
                # epoll counts whole milliseconds: rounded up, so as not to wake too early.
                timeout = math.ceil(timeout * 1e3) * 1e-3
            self.alone = self.waits = False
            try:
                found = self._selector.poll(timeout, turn)
            except InterruptedError:
                return []
            self._began = self._clock()
            self._handled = len(found)
            keys, preferred = self._fd_to_key, self._preferred
            ready: list[tuple[selectors.SelectorKey, int]] = []
            readable = False
            for fd, event in found:
                key = keys.get(fd)
                if key is None:
                    continue
                told = (event & _WRITE and selectors.EVENT_WRITE) | (
                    event & _READ and selectors.EVENT_READ
                )
                told &= key.events
                if fd == preferred and told & selectors.EVENT_READ:
                    readable = True
                    told &= selectors.EVENT_WRITE
                if told:
                    ready.append((key, told))
            self.alone = readable and not ready
            self.waits = not self.alone and (readable or len(found) == turn)
            return ready

        def peek(self) -> selectors.SelectorKey | None:
            """Return the preferred socket's key when it is to be read now: it can be, and the
            others had their time or there are none. After the reading comes :meth:`read`.
            """
            self._peeked = self._clock()
            if self.alone:
                self.alone = False
            elif self._peeked < self._next_peek:
                return None
            elif not self._look.poll(0):
                self._next_peek = self._peeked + GLANCE
                return None
            key = self._fd_to_key.get(self._preferred)
            if key is None or not key.events & selectors.EVENT_READ:
                self._next_peek = self._peeked + GLANCE
                return None
            return key

        def read(self) -> None:
            """The preferred socket was read: the others have as long now as that took."""
            now = self._clock()
            self._next_peek = now + max(GLANCE, now - self._peeked)

        def _next_turn(self, took: float) -> int:
            """Return how many sockets the next turn has, after one that took so many seconds."""
            if took > LONG:
                self._turn = max(LEAST, int(self._handled * LONG / took))
            elif took < LONG / 2 and self._handled == self._turn:
                self._turn = min(MOST, 2 * self._turn)
            return self._turn


class _Between(asyncio.Handle):
    """A callback without asyncio's context around it, since it runs between any two others."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(call, (), loop)
        self._call = call

    def _run(self) -> None:
        self._call()


class FairLoop(asyncio.SelectorEventLoop):
    """asyncio's loop; bounded turns where there is epoll, and nothing left of a connection."""

    def __init__(self) -> None:
        self._fair: Final = FairSelector() if sys.platform == "linux" else None
        super().__init__(self._fair)
        self._between: Final = _Between(self._glance, self)

    @property
    def timers(self) -> int:
        """How many timers are still to come."""
        mine: Any = self
        return sum(not timer.cancelled() for timer in mine._scheduled)

    def prefer(self, fd: int) -> None:
        """Read this socket amid the others (-1 for none); it takes the place of another."""
        if self._fair is not None:
            self._fair.prefer(fd)

    def _process_events(self, event_list: list[tuple[selectors.SelectorKey, int]]) -> None:
        """asyncio calls this once an iteration, when it has looked for sockets that are ready."""
        mine: Any = self
        super()._process_events(event_list)  # type: ignore[misc]  # typeshed does not tell of it
        ready: deque[asyncio.Handle] = mine._ready
        if self._fair is None:
            return
        if len(ready) > 1 or self._fair.waits:
            # In place, since another thread may add to it meanwhile, at any place of this order.
            for _ in range(len(ready)):
                ready.append(self._between)
                ready.append(ready.popleft())
        elif self._fair.alone:
            ready.append(self._between)

    def _glance(self) -> None:
        assert self._fair is not None
        key = self._fair.peek()
        if key is not None and not key.data[0]._cancelled:
            key.data[0]._run()
            self._fair.read()

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
    ) -> asyncio.Transport:
        made: asyncio.Transport = Transport(self, sock, protocol, waiter, extra, server)
        return made

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        **timeouts: float | None,
    ) -> Any:
        make: Any = SSLProtocol
        secured = make(self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts)
        self._make_socket_transport(rawsock, secured, extra=extra, server=server)
        return secured._app_transport
