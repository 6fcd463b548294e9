"""A stretch of the stream in memory: what a crowd of replays reads, by whom it may be for.

It lies in pages of its own outside Python's heap, which the system gets back: a hundred thousand
messages as Python objects would leave a heap full of holes, which the process keeps. What is read
is made of it, a batch at a time.
"""

from __future__ import annotations

import asyncio
import mmap
from array import array
from bisect import bisect_right
from typing import Final

from bridge.broker.history import MAX_BATCH_BYTES, Batch, Stored
from bridge.errors import BrokerUnavailable
from schemas.patterns import ANY

PAGE: Final = 1024 * 1024
"""Bytes of a page; one that begins with a longer message is as long as that."""
OVERHEAD: Final = 300
"""Bytes that a kept message costs beside subject and payload, where each is for another user."""
MAX_SHARED: Final = 1024 * 1024
"""Bytes of what many read, with its frames, that are kept as it was read, at the most."""
FREED: Final = 500
"""Names that are let go of in one loop iteration."""

Source = tuple[int, str]
"""On which connection it was read, see ``History.breaks``, and of which stream: another connection
may lead to another replica, and in the last answers of the one before something may be missing."""
NOWHERE: Final[Source] = (0, "")


class _Page:
    """Messages one behind the other, each its subject and then its payload."""

    __slots__ = ("_data", "_middles", "_starts", "sequences")

    def __init__(self, size: int) -> None:
        # The system gives memory to it as it is filled.
        self._data = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._starts = array("Q", [0])
        self._middles = array("Q")
        self.sequences = array("Q")

    @property
    def bytes(self) -> int:
        return self._starts[-1] + OVERHEAD * len(self.sequences)

    def put(self, stored: Stored) -> bool:
        """Append a message; False where there is no room for it."""
        start = self._starts[-1]
        middle = start + len(stored.subject)
        end = middle + len(stored.payload)
        if end > len(self._data):
            return False
        self._data[start:middle] = stored.subject
        self._data[middle:end] = stored.payload
        self._middles.append(middle)
        self._starts.append(end)
        self.sequences.append(stored.sequence)
        return True

    def join(self, later: _Page) -> bool:
        """Append all of a page; False where there is no room for it."""
        start, size = self._starts[-1], later._starts[-1]
        if start + size > len(self._data):
            return False
        self._data[start : start + size] = later._data[:size]
        self._middles.extend(start + each for each in later._middles)
        self._starts.extend(start + each for each in later._starts[1:])
        self.sequences.extend(later.sequences)
        return True

    def get(self, sequence: int) -> Stored:
        """Return a message that is here."""
        at = bisect_right(self.sequences, sequence) - 1
        start, middle, end = self._starts[at], self._middles[at], self._starts[at + 1]
        return Stored(sequence, self._data[start:middle], self._data[middle:end])


class Stretch:
    """Everything that is stored after one sequence, ``low``, up to another, ``high``."""

    def __init__(self, root: str, source: Source, after: int) -> None:
        """``root`` is that of stored subjects, with a dot behind it."""
        self._root: Final = root
        self.source: Final = source
        self.low = self.high = after
        self._pages: Final[list[_Page]] = []
        self._names: Final[dict[str, array[int]]] = {}
        """The sequences of what a name stands for: a user, an audience, a type, a resource."""
        self._shared: Final[dict[int, Stored]] = {}
        self._shared_bytes = 0

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return sum(page.bytes for page in self._pages)

    def has(self, source: Source, after: int, upto: int) -> bool:
        """Whether all of this is here."""
        return source == self.source and self.low <= after and upto <= self.high

    async def read(self, subject: str, after: int, most: int) -> Batch:
        """Return the next messages of a subject after a sequence, a megabyte of them at the most.

        Raises :class:`BrokerUnavailable` where some may have been let go of.
        """
        if after < self.low:
            raise BrokerUnavailable("what is to be read was let go of")
        name = subject.removeprefix(self._root)
        if name.endswith((".>", f".{ANY}")):
            name = name[:-2]
        kept = self._names.get(name, ())
        at = bisect_right(kept, after)
        batch, size = Batch(), 0
        for sequence in kept[at : at + most]:
            stored = self._get(sequence)
            batch.messages.append(stored)
            size += len(stored.payload)
            if size > MAX_BATCH_BYTES:
                break
        batch.pending = len(kept) - at - len(batch.messages)
        return batch

    def add(self, batch: Batch, upto: int) -> None:
        """Take in what was read of the whole stream after ``high``, up to a sequence."""
        for stored in batch.messages:
            if stored.sequence <= upto:
                self._put(stored)
        goes_on = batch.messages and batch.pending
        self.high = min(upto, batch.messages[-1].sequence) if goes_on else upto

    def put_before(self, earlier: Stretch) -> None:
        """Take in the stretch that ends where this one begins."""
        pages = earlier._pages
        # However small the steps in which it is read, there are few pages.
        joined = bool(pages and self._pages) and pages[-1].join(self._pages[0])
        self._pages[: int(joined)] = pages
        for name, sequences in earlier._names.items():
            sequences.extend(self._names.get(name, ()))
            self._names[name] = sequences
        self.low = earlier.low

    async def let_go(self, upto: int) -> None:
        """Forget what is stored up to a sequence, some at a time: at once it would hold up all."""
        self.low = low = max(self.low, min(upto, self.high))
        while self._pages and self._pages[0].sequences[-1] <= low:
            del self._pages[0]
            await asyncio.sleep(0)
        for number, name in enumerate(list(self._names)):
            sequences = self._names[name]
            del sequences[: bisect_right(sequences, low)]
            if not sequences:
                del self._names[name]
            if number % FREED == 0:
                await asyncio.sleep(0)
        self._forget_shared()

    def _put(self, stored: Stored) -> None:
        if not self._pages or not self._pages[-1].put(stored):
            page = _Page(max(PAGE, len(stored.subject) + len(stored.payload)))
            page.put(stored)
            self._pages.append(page)
        name = stored.subject.decode("utf-8", "replace").removeprefix(self._root)
        audience, _, rest = name.partition(".")
        if audience == "user":
            names = [f"user.{rest.partition('.')[0]}"]
        elif audience == "topic":
            names = [audience, name.rpartition(".")[0], name]
        else:
            names = [audience]
        for each in names:
            sequences = self._names.get(each)
            if sequences is None:
                sequences = self._names[each] = array("Q")
            sequences.append(stored.sequence)

    def _get(self, sequence: int) -> Stored:
        found = self._shared.get(sequence)
        if found is None:
            at = bisect_right(self._pages, sequence, key=_first) - 1
            found = self._pages[at].get(sequence)
            if not found.subject.startswith(f"{self._root}user.".encode()):
                # Whoever reads it first keeps its frame there for the others.
                if self._shared_bytes > MAX_SHARED:
                    self._forget_shared()
                self._shared[sequence] = found
                self._shared_bytes += 2 * len(found.payload) + OVERHEAD
        return found

    def _forget_shared(self) -> None:
        self._shared.clear()
        self._shared_bytes = 0


def _first(page: _Page) -> int:
    return page.sequences[0]
