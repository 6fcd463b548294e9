"""Deadlines of many connections at once, for little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final


class Deadlines:
    """Deadlines of equal length for many: one timer, and a dict in the order of their ends.

    Nearly all of them end before their time, and a timer of the event loop stays in its heap when
    it is cancelled.
    """

    def __init__(self, seconds: float, missed: Callable[[Any], None]) -> None:
        self._seconds: Final = seconds
        self._missed: Final = missed
        self._ends: Final[dict[Any, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, who: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Give ``who`` the whole time, from now."""
        self._ends.pop(who, None)
        self._ends[who] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)

    def __contains__(self, who: Any) -> bool:
        return who in self._ends

    def end(self, who: Any) -> None:
        """It is done, or over."""
        self._ends.pop(who, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        late = []
        for who, end in self._ends.items():
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                break
            late.append(who)
        for who in late:
            del self._ends[who]
            self._missed(who)
