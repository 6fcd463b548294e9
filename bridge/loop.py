"""The event loop of a bridge: asyncio's own, with turns that are bounded, and NATS in each of them.

asyncio handles every socket that is ready before it looks again. When thousands of clients come, go
or speak at once, an event from NATS would wait for all of them. Here one iteration handles at most
:data:`TURN` sockets, and NATS's is among them whenever it is ready. What is left over is found by
the next look, before what came later: the kernel hands ready sockets out in turns.
"""

from __future__ import annotations

import asyncio
import math
import select
import selectors
import sys
from typing import Final

TURN: Final = 16
"""Sockets that one iteration handles: one or two milliseconds of handshakes."""

if sys.platform == "linux":
    # typeshed does not tell of the epoll object and the keys, which are there since Python 3.4.
    _WRITE: Final = ~select.EPOLLIN
    _READ: Final = ~select.EPOLLOUT

    class FairSelector(selectors.EpollSelector):
        """epoll that tells of a few ready sockets at a time, a preferred one first."""

        _selector: select.epoll
        _fd_to_key: dict[int, selectors.SelectorKey]

        def __init__(self) -> None:
            super().__init__()
            self._preferred = -1
            self._look = select.poll()

        def prefer(self, fd: int) -> None:
            """Tell of this socket first, and in each turn in which it can be read."""
            self._preferred = fd
            self._look = select.poll()
            self._look.register(fd, select.POLLIN)

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait for sockets that are ready, at most ``timeout`` seconds."""
            if timeout is None:
                timeout = -1
            elif timeout <= 0:
                timeout = 0
            else:
                # epoll counts whole milliseconds: rounded up, so as not to wake too early.
                timeout = math.ceil(timeout * 1e3) * 1e-3
            try:
                found = self._selector.poll(timeout, TURN)
            except InterruptedError:
                return []
            keys, preferred = self._fd_to_key, self._preferred
            ready: list[tuple[selectors.SelectorKey, int]] = []
            missing = len(found) == TURN
            for fd, event in found:
                key = keys.get(fd)
                if key is None:
                    continue
                told = (event & _WRITE and selectors.EVENT_WRITE) | (
                    event & _READ and selectors.EVENT_READ
                )
                if fd == preferred:
                    missing = False
                    ready.insert(0, (key, told & key.events))
                else:
                    ready.append((key, told & key.events))
            if missing and self._look.poll(0):
                key = keys.get(preferred)
                if key is not None and key.events & selectors.EVENT_READ:
                    ready.insert(0, (key, selectors.EVENT_READ))
            return ready


class FairLoop(asyncio.SelectorEventLoop):
    """asyncio's loop; bounded turns where there is epoll."""

    def __init__(self) -> None:
        self._fair: Final = FairSelector() if sys.platform == "linux" else None
        super().__init__(self._fair)

    def prefer(self, fd: int) -> None:
        """Read this socket in each turn in which it is ready; it takes the place of another."""
        if self._fair is not None:
            self._fair.prefer(fd)
