"""Giving memory back to the system after many connections have gone.

glibc keeps what was freed below anything that is still in use. Beside a few long-lived objects that
is all that a crowd, or a hostile address, has taken for a while.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Final

MANY: Final = 64
"""Connections that have to be gone before it is worth while."""
PAUSE: Final = 5.0
"""Seconds between two times: it takes some milliseconds of the loop, for 100 MB."""


class Trimmer:
    """Watches how many connections there are; ``tick`` is called about once a second."""

    def __init__(
        self,
        connections: Callable[[], int],
        clock: Callable[[], float],
        trim: Callable[[], None] | None = None,
    ) -> None:
        self._connections: Final = connections
        self._clock: Final = clock
        self._trim: Final = trim or _system_trim()
        self._most = 0
        self._due = 0.0

    def tick(self) -> None:
        """Give memory back if half of them, and many, have gone since it last was."""
        now = self._connections()
        self._most = max(self._most, now)
        if now <= self._most // 2 and self._most - now >= MANY and self._clock() >= self._due:
            self._most = now
            self._due = self._clock() + PAUSE
            self._trim()


def _system_trim() -> Callable[[], None]:
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's, not musl's
        if trim is not None:
            return lambda: trim(0)
    return lambda: None
