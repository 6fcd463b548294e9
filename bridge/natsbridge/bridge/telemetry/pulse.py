"""How the process is: how late its event loop runs, how long the cycle collector holds it up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from time import perf_counter
from typing import Any, Final

from natsbridge.bridge.telemetry.histograms import Histogram

BEAT: Final = 0.5
"""Seconds between two looks at the loop."""


class Pulse:
    """Measures one loop from :meth:`start` to :meth:`stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._began = 0.0
        self.lag: Final = Histogram()
        """By how much a timer came late."""
        self.collections: Final = [0, 0, 0]
        """Collections by generation."""
        self.paused = 0.0
        """Seconds that they took together."""

    def start(self) -> None:
        """Look from now on."""
        gc.callbacks.append(self._collected)
        self._next()

    def stop(self) -> None:
        """Look no more; safe to call twice."""
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._collected)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._due = self._loop.time() + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        self.lag.add(max(0.0, self._loop.time() - self._due))
        self._next()

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = perf_counter()
        else:
            self.collections[info["generation"]] += 1
            self.paused += perf_counter() - self._began
