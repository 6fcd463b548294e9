"""When the cycle collector of this process looks at what is old.

A full collection walks every object and holds everything up meanwhile: 135 ms for 10,000
connections. Connections, replays and requests are taken apart by reference counting, so there is
next to nothing for it to find; what a fault or a library leaves behind must not stay for good.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

TICK: Final = 1.0
"""Seconds between two looks at what is going on."""
SOONEST: Final = 600.0
"""Seconds after which a full collection waits for a quiet second."""
LATEST: Final = 3600.0
"""Seconds after which it waits no more."""


class Collector:
    """Collects the old generation in a quiet second."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], int],
        collect: Callable[[], int] = gc.collect,
    ) -> None:
        """``work`` is a number that does not change while nothing is to be done."""
        self._loop: Final = loop
        self._work: Final = work
        self._collect: Final = collect
        self._done = 0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Put full collections off from now on.

        What the start made stays for good, so it is taken out of the collector's sight. The young
        are still collected: 20,000 of them take 5 ms, and 2,000 at a time as much, in small bits.
        """
        self._collect()
        gc.freeze()
        # Those that have survived are looked at once more when they are 100,000, for some 25 ms: a
        # million subscriptions at a time would take a quarter of a second.
        gc.set_threshold(2_000, 50, 10_000)
        self._since = self._loop.time()
        self._timer = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        before, self._done = self._done, self._work()
        began = self._loop.time()
        waited = began - self._since
        if waited >= LATEST or (waited >= SOONEST and before == self._done):
            found = self._collect()
            self._since = self._loop.time()
            took = (self._since - began) * 1000
            log.info("collected %d objects that held each other, in %.0f ms", found, took)
