"""One reading of the stream for many replays: what a crowd that comes back at once has missed.

nats-server looks for the messages of one subject by going through the others, so a thousand clients
that each read their own cost it a thousand times the way. When a crowd waits, the stretch of the
stream that they all need is read once, whole, and sifted here.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from bridge.broker.history import BATCH, EVERYTHING, Batch, History, Stored
from bridge.errors import BrokerUnavailable
from schemas.patterns import ANY

CROWD: Final = 8
"""Replays from which on it pays to read together."""
MAX_SPAN: Final = 250_000
"""Sequences that are read together at the most."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of subjects and payloads that are kept meanwhile, at the most."""
MUCH: Final = 4 * 1024 * 1024
"""Bytes from which on what no replay needs any more is let go of."""
OVERHEAD: Final = 200
"""Bytes of memory that a kept message costs beside them."""
FREED: Final = 500
"""Messages that are let go of in one loop iteration."""

_Messages = dict[str, list[Stored]]

Source = tuple[int, str]
"""On which connection it was read, see ``History.breaks``, and of which stream: another connection
may lead to another replica, and in the last answers of the one before something may be missing."""
NOWHERE: Final[Source] = (0, "")


class Reader(Protocol):
    """Reads stored events; see :meth:`History.read`."""

    async def read(self, subject: str, after: int, most: int) -> Batch: ...


class Stretch:
    """Everything that is stored after one sequence, up to another, by whom it may be for."""

    def __init__(self, root: str, source: Source, after: int) -> None:
        self._root: Final = root
        self.source: Final = source
        self.low = self.high = after
        self.bytes = 0
        self.messages: _Messages = {}

    def has(self, source: Source, after: int, upto: int) -> bool:
        """Whether all of this is here."""
        return source == self.source and self.low <= after and upto <= self.high

    async def read(self, subject: str, after: int, most: int) -> Batch:
        """Return the next messages of a subject after a sequence, of those that are kept."""
        name = subject.removeprefix(self._root)
        if name.endswith((".>", f".{ANY}")):
            name = name[:-2]
        kept = self.messages.get(name, [])
        at = bisect_right(kept, after, key=_sequence)
        found = kept[at : at + most]
        return Batch(found, len(kept) - at - len(found))

    def keep(self, messages: _Messages, stored: Stored) -> None:
        """Sort a message in; it comes after those that are there."""
        self.bytes += _size(stored)
        name = stored.subject.decode("utf-8", "replace").removeprefix(self._root)
        audience, _, rest = name.partition(".")
        if audience == "topic":
            messages.setdefault(audience, []).append(stored)
            messages.setdefault(name.rpartition(".")[0], []).append(stored)
            messages.setdefault(name, []).append(stored)
        elif audience == "user":
            messages.setdefault(f"user.{rest.partition('.')[0]}", []).append(stored)
        else:
            messages.setdefault(audience, []).append(stored)

    def put_before(self, messages: _Messages, after: int) -> None:
        """Take in what comes before all that is here."""
        for name, some in messages.items():
            self.messages[name] = some + self.messages.get(name, [])
        self.low = after


class Recent:
    """The stretch of the stream that a crowd of replays needs, kept for as long as they do."""

    def __init__(
        self,
        history: History,
        root: str,
        crowd: Callable[[], int],
        needed: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """``root`` is that of stored subjects; ``crowd`` tells how many replays are under way, and
        ``needed`` up to which sequence none of them needs anything any more.
        """
        self._history: Final = history
        self._root: Final = f"{root}."
        self._crowd: Final = crowd
        self._needed: Final = needed
        self._spawn: Final = spawn
        self._lock: Final = asyncio.Lock()
        self._stretch = Stretch(self._root, NOWHERE, 0)

    async def reader(self, identity: str, after: int, upto: int) -> Reader:
        """Return what to read this from: what is kept, where that pays, else the stream itself.

        Raises :class:`BrokerUnavailable`.
        """
        source = (self._history.breaks, identity)
        if self._stretch.has(source, after, upto):
            return self._stretch
        if self._crowd() < CROWD or upto - after > MAX_SPAN:
            return self._history
        async with self._lock:
            if source[0] != self._history.breaks:
                raise BrokerUnavailable("the connection to NATS is another one")
            if not self._stretch.has(source, after, upto):
                await self._cover(source, after, upto)
            stretch = self._stretch
        return stretch if stretch.has(source, after, upto) else self._history

    def tick(self) -> None:
        """Let go of what nobody needs any more."""
        stretch = self._stretch
        if not stretch.messages or self._lock.locked():
            return
        if not self._crowd():
            self._stretch = Stretch(self._root, NOWHERE, 0)
            self._spawn(_discard(stretch.messages))
        elif stretch.bytes > MUCH and self._needed() > stretch.low:
            # While clients come and go there is always one that reads: it would only grow.
            self._spawn(self._trim())

    async def _trim(self) -> None:
        async with self._lock:
            stretch = self._stretch
            # Whoever needs what goes now finds it below the stretch, and reads it from the stream.
            stretch.low = max(stretch.low, min(self._needed(), stretch.high))
            for name in list(stretch.messages):
                some = stretch.messages[name]
                while gone := bisect_right(
                    some, stretch.low, hi=min(FREED, len(some)), key=_sequence
                ):
                    if not name.startswith("topic."):  # these are among those of all topics
                        stretch.bytes -= sum(map(_size, some[:gone]))
                    del some[:gone]
                    await asyncio.sleep(0)
                if not some:
                    del stretch.messages[name]

    async def _cover(self, source: Source, after: int, upto: int) -> None:
        stretch = self._stretch
        if (
            source != stretch.source
            or after > stretch.high
            or upto - min(after, stretch.low) > MAX_SPAN
        ):
            # Whoever reads from the other one goes on with it.
            stretch = self._stretch = Stretch(self._root, source, after)
        if after < stretch.low:
            before: _Messages = {}
            kept = stretch.bytes
            if await self._read_on(stretch, before, after, stretch.low) < stretch.low:
                stretch.bytes = kept
                return
            stretch.put_before(before, after)
        while stretch.high < upto and stretch.bytes < MAX_BYTES:
            # A batch at a time: whoever reads may be gone, or NATS, with any of them.
            high = min(upto, stretch.high + BATCH)
            more: _Messages = {}
            high = await self._read_on(stretch, more, stretch.high, high)
            for name, some in more.items():
                stretch.messages.setdefault(name, []).extend(some)
            stretch.high = high

    async def _read_on(self, stretch: Stretch, messages: _Messages, after: int, upto: int) -> int:
        """Keep what is stored after a sequence, up to another; return how far that went."""
        while after < upto and stretch.bytes < MAX_BYTES:
            batch = await self._history.read(EVERYTHING, after, BATCH)
            for stored in batch.messages:
                if stored.sequence <= upto:
                    stretch.keep(messages, stored)
            if not batch.messages or not batch.pending:
                return upto
            after = min(upto, batch.messages[-1].sequence)
        return after


async def _discard(messages: _Messages) -> None:
    """Free messages a few at a time: a hundred thousand at once hold up everything."""
    while messages:
        _, some = messages.popitem()
        while some:
            del some[-FREED:]
            await asyncio.sleep(0)


def _size(stored: Stored) -> int:
    size = len(stored.subject) + len(stored.payload) + OVERHEAD
    # The frame of what many may read is kept beside it.
    return size if b".user." in stored.subject else size + len(stored.payload)


def _sequence(stored: Stored) -> int:
    return stored.sequence
