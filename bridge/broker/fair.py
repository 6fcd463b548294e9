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

    def take(self) -> asyncio.Future[None]:
        key = next(iter(self._waiting))
        queue = self._waiting.pop(key)
        given = queue.popleft()
        if queue:
            self._waiting[key] = queue  # behind all others
        return given

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
        for little so far.
        """
        self._free = most
        self._room = most - kept
        """Slots that those may have yet who ask for much."""
        self._is_light: Final = is_light
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
        light = self._is_light(key)
        await self._acquire(key, light)
        try:
            yield
        finally:
            self._release(light)

    async def _acquire(self, key: str, light: bool) -> None:
        line = self._light if light else self._heavy
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.put(key, given)
        self._give()
        if given.done():
            return
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._release(light)  # it was given and is not used
            else:
                line.forget(key, given)
            raise

    def _release(self, light: bool) -> None:
        self._free += 1
        if not light:
            self._room += 1
        self._give()

    def _give(self) -> None:
        while self._free:
            heavy = bool(self._heavy) and self._room > 0
            if not (self._light or heavy):
                return
            light = bool(self._light) and not (heavy and self._turn % HEAVY_TURN == 0)
            given = (self._light if light else self._heavy).take()
            if given.done():
                continue
            if self._light or self._heavy:
                self._turn += 1
            self._free -= 1
            if not light:
                self._room -= 1
            given.set_result(None)
