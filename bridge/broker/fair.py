"""Slots that many want, given out in turn to whoever they are for, not to who asks most often."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final


class FairSlots:
    """So many slots; those who wait get them by turns, each key (a user) once in a round."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: Final[dict[str, deque[asyncio.Future[None]]]] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Hold a slot during the block; waits for one."""
        await self._acquire(key)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, key: str) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._release()  # it was given and is not used
            else:
                self._forget(key, given)
            raise

    def _release(self) -> None:
        while self._waiting:
            key = next(iter(self._waiting))
            queue = self._waiting.pop(key)
            given = queue.popleft()
            if queue:
                self._waiting[key] = queue  # behind all others
            if not given.done():
                given.set_result(None)
                return
        self._free += 1

    def _forget(self, key: str, given: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None and given in queue:
            queue.remove(given)
            if not queue:
                del self._waiting[key]
