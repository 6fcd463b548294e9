"""Where something was opened: used from elsewhere it would wait for what never comes. No I/O."""

from __future__ import annotations

import asyncio
import os

from natsbridge.publishers.errors import WrongEventLoop


class Owner:
    """The process and the event loop that opened a publisher, between :meth:`take` and
    :meth:`release`."""

    def __init__(self) -> None:
        self._process = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def take(self) -> None:
        """Make the running loop the owner; raises what :meth:`check` raises."""
        self.check()
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()

    def release(self) -> None:
        """Have no owner any more: whoever comes next may open."""
        self._loop = None

    def check(self) -> None:
        """Raise :class:`WrongEventLoop` in a forked child, or in another loop than the owner."""
        if self._loop is None:
            return
        if self._process != os.getpid():
            raise WrongEventLoop(
                f"the publisher was opened by process {self._process}, before the fork: create and "
                "open one in each process"
            )
        if self._loop is not asyncio.get_running_loop():
            closed = ", which is closed" if self._loop.is_closed() else ""
            raise WrongEventLoop(
                f"the publisher was opened in another event loop{closed}: call it from that loop "
                "(asyncio.run_coroutine_threadsafe), or create and open one in this loop"
            )
