"""Slots that many want, given out in turn to whoever they are for, not to who asks most often.

Who has asked for little so far does not wait behind those who ask for much: some slots are kept for
such, and of four that become free three go to them first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

HEAVY_TURN: Final = 4
"""One in so many goes to those who ask for much, also where others wait."""


class _Line:
    """Those who wait, by key; each key is next once in a round."""

    def __init__(self) -> None:
        self._waiting: Final[dict[str, deque[asyncio.Future[None]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, key: str, given: asyncio.Future[None]) -> None:
        self._waiting.setdefault(key, deque()).append(given)

    def take(self) -> tuple[str, asyncio.Future[None]]:
        key = next(iter(self._waiting))
        queue = self._waiting.pop(key)
        given = queue.popleft()
        if queue:
            self._waiting[key] = queue  # behind all others
        return key, given

    def forget(self, key: str, given: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None and given in queue:
            queue.remove(given)
            if not queue:
                del self._waiting[key]


class FairSlots:
    """So many slots; those who wait get them by turns, each key (a user) once in a round."""

    def __init__(
        self, most: int, *, kept: int = 0, is_light: Callable[[str], bool] = lambda _: True
    ) -> None:
        """``kept`` of the slots are only for keys of which ``is_light`` says that they have asked
        for little so far. So many more are given to those where all are held by others.
        """
        self._most: Final = most
        self._kept: Final = kept
        self._is_light: Final = is_light
        self._held: Final[list[str]] = []
        self._light: Final = _Line()
        self._heavy: Final = _Line()
        self._turn = 0

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._light or self._heavy)

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Hold a slot during the block; waits for one."""
        line = self._light if self._is_light(key) else self._heavy
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.put(key, given)
        self.give()
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._release(key)  # it was given and is not used
            else:
                line.forget(key, given)
            raise
        try:
            yield
        finally:
            self._release(key)

    def give(self) -> None:
        """Give out what is free, also by what those who hold slots have asked for meanwhile."""
        while self._light or self._heavy:
            held = len(self._held)
            light = sum(map(self._is_light, self._held))
            to_light = bool(self._light) and (
                held < self._most or (held < self._most + self._kept and light < self._kept)
            )
            to_heavy = (
                bool(self._heavy) and held < self._most and held - light < self._most - self._kept
            )
            if not (to_light or to_heavy):
                return
            if to_light and to_heavy:
                self._turn += 1
                to_light = self._turn % HEAVY_TURN != 0
            key, given = (self._light if to_light else self._heavy).take()
            if not given.done():
                self._held.append(key)
                given.set_result(None)

    def _release(self, key: str) -> None:
        self._held.remove(key)
        self.give()
