"""Histograms of durations, in plain integers: one addition an observation, read when asked."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

BOUNDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds in seconds. OpenTelemetry's own begin at 5 ms, where most of this has ended."""

Trace = tuple[str, str]
"""The ids of a trace and of a span in it, hexadecimal."""
Exemplar = tuple[Trace, float, float]
"""A trace, what was observed, and when (Unix time)."""


class Histogram:
    """How often a duration came into each bucket."""

    __slots__ = ("_wall", "counts", "exemplars", "sum")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall: Final = wall
        self.counts: Final = [0] * (len(BOUNDS) + 1)
        """Of each bucket alone; the last has no upper bound."""
        self.sum = 0.0
        self.exemplars: Final[dict[int, Exemplar]] = {}
        """The last one of each bucket."""

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, seconds: float, times: int = 1, trace: Trace | None = None) -> None:
        """Count an observation, or so many of the same."""
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.sum += seconds * times
        if trace is not None:
            self.show(seconds, trace)

    def show(self, seconds: float, trace: Trace) -> None:
        """Keep the trace of one that is counted already, to be shown with its bucket."""
        self.exemplars[bisect_left(BOUNDS, seconds)] = trace, seconds, self._wall()
