"""One reading of the stream for many replays: what a crowd that comes back at once has missed.

nats-server looks for the messages of one subject by going through the others, so a thousand clients
that each read their own cost it a thousand times the way. When a crowd waits, the stretch of the
stream that they all need is read once, whole, and sifted here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import BATCH, EVERYTHING, MAX_BATCH_BYTES, Batch, History
from natsbridge.bridge.replay.window import NOWHERE, Source, Stretch

log = logging.getLogger(__name__)

CROWD: Final = 8
"""Replays from which on it pays to read together."""
MAX_SPAN: Final = 250_000
"""Sequences that are read together at the most."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes that are kept meanwhile, at the most."""
MUCH: Final = 4 * 1024 * 1024
"""Bytes from which on what no replay needs any more is let go of."""


class Reader(Protocol):
    """Reads stored events; see :meth:`History.read`."""

    async def read(
        self, subject: str, after: int, most: int, most_bytes: int = MAX_BATCH_BYTES
    ) -> Batch: ...


class Recent:
    """The stretch of the stream that a crowd of replays needs, kept for as long as they do."""

    def __init__(
        self,
        history: History,
        root: str,
        crowd: Callable[[], int],
        needed: Callable[[int], int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """``root`` is that of stored subjects; ``crowd`` tells how many replays are under way, and
        ``needed``, of those that are not behind a sequence, up to where none needs anything more.
        """
        self._history: Final = history
        self._root: Final = f"{root}."
        self._crowd: Final = crowd
        self._needed: Final = needed
        self._spawn: Final = spawn
        self._lock: Final = asyncio.Lock()
        self._stretch = Stretch(self._root, NOWHERE, 0)
        self._trims = False
        self._has_memory = True
        self._too_early = -1
        """What begins here, or before, does not fit in before the stretch."""

    async def reader(
        self, identity: str, after: int, upto: int, worth: int = MAX_SPAN
    ) -> Reader | None:
        """Return what is kept of the stream to read this from; None where that does not pay, and
        it is to be read from the stream itself.

        ``worth`` is what that costs, in messages that are read whole: what a crowd needs is read
        for it where each has to pay no more. Raises :class:`BrokerUnavailable`.
        """
        source = (self._history.breaks, identity)
        if after >= upto or not self._has_memory:
            return None
        if self._stretch.has(source, after, upto):
            return self._stretch
        crowd = self._crowd()
        if crowd < CROWD or upto - after > min(MAX_SPAN, crowd * worth):
            return None
        async with self._lock:
            if source[0] != self._history.breaks:
                raise BrokerUnavailable("the connection to NATS is another one")
            if not self._stretch.has(source, after, upto):
                try:
                    await self._cover(source, after, upto)
                except (OSError, MemoryError) as problem:
                    log.warning("there is no memory for reading together: %s", problem)
                    self._stretch = Stretch(self._root, NOWHERE, 0)
                    self._has_memory = False
            stretch = self._stretch
        return stretch if stretch.has(source, after, upto) else None

    def tick(self) -> None:
        """Let go of what nobody needs any more."""
        self._has_memory = True  # or so it is tried
        stretch = self._stretch
        if self._trims or not stretch.bytes:
            return
        if not self._crowd():
            self._stretch = Stretch(self._root, NOWHERE, 0)
            self._spawn(stretch.let_go(stretch.high))
        elif stretch.bytes > MUCH and self._needed(stretch.low) > stretch.low:
            # While clients come and go there is always one that reads: it would only grow.
            self._trims = True
            self._spawn(self._trim())

    async def _trim(self) -> None:
        try:
            async with self._lock:
                stretch = self._stretch
                # Whoever needs what goes now finds it below the stretch, and reads it anew.
                await stretch.let_go(self._needed(stretch.low))
        finally:
            self._trims = False

    async def _cover(self, source: Source, after: int, upto: int) -> None:
        stretch = self._stretch
        if (
            source != stretch.source
            or after > stretch.high
            or upto - min(after, stretch.low) > MAX_SPAN
        ):
            # Whoever reads from the other one goes on with it.
            stretch = self._stretch = Stretch(self._root, source, after)
            self._too_early = -1
        if after <= self._too_early:
            return
        if after < stretch.low:
            earlier = Stretch(self._root, source, after)
            await self._read_on(earlier, stretch.low, MAX_BYTES - stretch.bytes)
            if earlier.high < stretch.low:
                self._too_early = after
                return
            stretch.put_before(earlier)
        await self._read_on(stretch, upto, MAX_BYTES)

    async def _read_on(self, stretch: Stretch, upto: int, most: int) -> None:
        """Have it reach up to a sequence, or to so many bytes.

        Whoever reads may be gone, or NATS, with any of the batches: what it has then is whole.
        """
        while stretch.high < upto and stretch.bytes < most:
            stretch.add(await self._history.read(EVERYTHING, stretch.high, BATCH), upto)
