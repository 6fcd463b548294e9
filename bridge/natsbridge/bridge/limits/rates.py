"""Rates: at most so many hits of one key in a sliding window, counted exactly.

Two limits use it: a user's messages (every message is a hit, and a refused one is not recorded) and
an address's failed handshakes (only failures are hits). Pure and synchronous, one look-up a call.

``now`` is Unix seconds, since ``reset_time`` goes to clients, and must not go back, since hits are
kept in order: callers pass the time of one :func:`steady_clock`, which is both.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

MAX_KEYS: Final = 100_000


def steady_clock(
    wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a clock of Unix seconds that never jumps: the wall's time now, and what passes since.

    It does not follow when the wall clock is set later; a window is too short for that to matter.
    """
    start = wall() - monotonic()
    return lambda: start + monotonic()


class SlidingWindow:
    """The hits of each key within the window before now.

    Hits are the moments themselves, at most ``limit`` a key, 8 bytes each: the log is exact, with
    no burst at the border of two windows. A hit is over when it is ``window`` old.

    At most ``max_keys`` keys are held. One more makes the key forgotten whose last hit is the
    oldest. Refusing it instead would let whoever has many addresses lock out everybody else, and
    somebody who has more than ``max_keys`` is not held by a limit per address anyway.
    """

    __slots__ = ("_hits", "_limit", "_max_keys", "_window", "forgotten")

    def __init__(self, limit: int, window: float, max_keys: int = MAX_KEYS) -> None:
        """Allow ``limit`` hits (one or more) in ``window`` seconds."""
        self._limit: Final = limit
        self._window: Final = window
        self._max_keys: Final = max_keys
        # In the order of each key's last hit: the idlest first.
        self._hits: Final[dict[str, array[float]]] = {}
        self.forgotten = 0
        """How many keys with hits in their window were forgotten for want of room."""

    def __len__(self) -> int:
        return len(self._hits)

    def allow(self, key: str, now: float) -> bool:
        """Record a hit and return True, or record nothing and return False at the limit."""
        if self.exceeded(key, now):
            return False
        self.record(key, now)
        return True

    def exceeded(self, key: str, now: float) -> bool:
        """Whether the window before now holds as many hits as are allowed."""
        hits = self._hits.get(key)
        # Never more than the limit are kept, so the oldest one decides.
        return hits is not None and len(hits) >= self._limit and hits[0] > now - self._window

    def record(self, key: str, now: float) -> None:
        """Record a hit, whether or not the limit is reached."""
        hits = self._hits.pop(key, None)
        if hits is None:
            if len(self._hits) >= self._max_keys:
                self._forget(now)
            hits = array("d")
        elif len(hits) >= self._limit:
            # All that are over go at once, and one at the least: the newest count.
            del hits[: max(1, bisect_right(hits, now - self._window))]
        hits.append(now)
        self._hits[key] = hits

    def take_back(self, key: str) -> None:
        """Undo the newest hit of this key, if it has one."""
        hits = self._hits.get(key)
        if hits is not None:
            hits.pop()
            if not hits:
                del self._hits[key]

    def reset_time(self, key: str) -> float | None:
        """Return when the key's oldest hit is over (Unix seconds): at the limit, the next is free.

        None for a key without hits.
        """
        hits = self._hits.get(key)
        return None if hits is None else hits[0] + self._window

    def sweep(self, now: float) -> int:
        """Forget the keys without a hit in the window; returns how many."""
        horizon = now - self._window
        idle = []
        for key, hits in self._hits.items():
            if hits[-1] > horizon:
                break
            idle.append(key)
        for key in idle:
            del self._hits[key]
        return len(idle)

    def _forget(self, now: float) -> None:
        idlest = next(iter(self._hits))
        if self._hits.pop(idlest)[-1] > now - self._window:
            self.forgotten += 1
