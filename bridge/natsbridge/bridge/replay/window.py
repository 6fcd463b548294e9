"""A stretch of the stream in memory: what a crowd of replays reads, by whom it may be for.

It lies in pages outside Python's heap, which the system gets back, and so does their index but for
the page that is being filled: a hundred thousand messages as Python objects leave a heap full of
holes, which the process keeps.
What is read is made of it, a batch at a time.
"""

from __future__ import annotations

import asyncio
import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import MAX_BATCH_BYTES, Batch, Stored
from natsbridge.schemas.patterns import ANY

PAGE: Final = 256 * 1024
"""Bytes of a page; one that begins with a longer message is as long as that."""
SMALL: Final = PAGE // 8
"""Bytes up to which a page is put into the one before it; more would be much to do at once."""
OVERHEAD: Final = 100
"""Bytes that a kept message costs beside subject and payload, about."""
MAX_SHARED: Final = 1024 * 1024
"""Bytes of what many read, with its frames, that are kept as it was read, at the most."""

Source = tuple[int, str]
"""On which connection it was read, see ``History.breaks``, and of which stream: another connection
may lead to another replica, and in the last answers of the one before something may be missing."""
NOWHERE: Final[Source] = (0, "")

_UNSIGNED: Final = (1 << 64) - 1


def _mapped(size: int) -> mmap.mmap:
    # The system gives memory to it as it is filled.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class _Page:
    """Messages one behind the other, each its subject and then its payload.

    While it is filled, where they are is kept in Python's heap; once it is closed, beside them.
    Names are known by their hashes.
    """

    __slots__ = ("_data", "_ends", "_hashes", "_marks", "_members", "_open", "sequences")

    def __init__(self, size: int) -> None:
        self._data = _mapped(size)
        self.sequences: Sequence[int] = array("Q")
        self._marks: Sequence[int] = array("Q", [0])
        """Where a subject begins, where its payload does, where that ends and the next begins."""
        self._open: dict[int, array[int]] | None = {}
        self._hashes: Sequence[int] = ()
        self._ends: Sequence[int] = ()
        self._members: Sequence[int] = ()

    @property
    def bytes(self) -> int:
        return self._marks[-1] + OVERHEAD * len(self.sequences)

    @property
    def is_small(self) -> bool:
        return self._marks[-1] <= SMALL

    def put(self, stored: Stored, names: list[str]) -> bool:
        """Append a message that is read by these names; False where there is no room for it."""
        assert isinstance(self.sequences, array)
        assert isinstance(self._marks, array)
        assert self._open is not None
        start = self._marks[-1]
        middle = start + len(stored.subject)
        end = middle + len(stored.payload)
        if end > len(self._data):
            return False
        self._data[start:middle] = stored.subject
        self._data[middle:end] = stored.payload
        self._marks.extend((middle, end))
        self.sequences.append(stored.sequence)
        for name in names:
            number = hash(name) & _UNSIGNED
            members = self._open.get(number)
            if members is None:
                members = self._open[number] = array("Q")
            members.append(stored.sequence)
        return True

    def close(self) -> None:
        """Nothing more will be put into it."""
        if self._open is None:
            return
        hashes = sorted(self._open)
        members = array("Q")
        for number in hashes:
            members.extend(self._open[number])
        lengths = (len(self._open[number]) for number in hashes)
        ends = array("Q", accumulate(lengths, initial=0))
        columns: list[Any] = [self.sequences, self._marks, array("Q", hashes), ends, members]
        rest = memoryview(_mapped(8 * sum(map(len, columns)))).cast("Q")
        views: list[memoryview[int]] = []
        for column in columns:
            views.append(rest[: len(column)])
            views[-1][:] = column
            rest = rest[len(column) :]
        self.sequences, self._marks, self._hashes, self._ends, self._members = views
        self._open = None

    def read_by(self, name: str) -> Sequence[int]:
        """Return the sequences of a name's messages, and hardly ever one of another name."""
        number = hash(name) & _UNSIGNED
        if self._open is not None:
            return self._open.get(number, ())
        at = bisect_left(self._hashes, number)
        if at == len(self._hashes) or self._hashes[at] != number:
            return ()
        return self._members[self._ends[at] : self._ends[at + 1]]

    def get(self, sequence: int) -> Stored:
        """Return a message that is here."""
        return self._at(bisect_left(self.sequences, sequence))

    def __iter__(self) -> Iterator[Stored]:
        return map(self._at, range(len(self.sequences)))

    def _at(self, number: int) -> Stored:
        start, middle, end = self._marks[2 * number : 2 * number + 3]
        return Stored(self.sequences[number], self._data[start:middle], self._data[middle:end])


class Stretch:
    """Everything that is stored after one sequence, ``low``, up to another, ``high``."""

    def __init__(self, root: str, source: Source, after: int) -> None:
        """``root`` is that of stored subjects, with a dot behind it."""
        self._root: Final = root
        self._users: Final = f"{root}user.".encode()
        self.source: Final = source
        self.low = self.high = after
        self.bytes = 0
        """About how much memory it takes."""
        self._pages: list[_Page] = []
        """In the stream's order; all but the last are closed."""
        self._shared: Final[dict[int, Stored]] = {}
        self._shared_bytes = 0

    def has(self, source: Source, after: int, upto: int) -> bool:
        """Whether all of this is here."""
        return source == self.source and self.low <= after and upto <= self.high

    async def read(
        self, subject: str, after: int, most: int, most_bytes: int = MAX_BATCH_BYTES
    ) -> Batch:
        """Return the next messages of a subject after a sequence, with so many bytes it is enough.

        ``pending`` is 1 where there are more. Raises :class:`BrokerUnavailable` where some may have
        been let go of.
        """
        if after < self.low:
            raise BrokerUnavailable("what is to be read was let go of")
        name = subject.removeprefix(self._root)
        if name.endswith((".>", f".{ANY}")):
            name = name[:-2]
        whole = f"{self._root}{name}".encode()
        batch, size = Batch(), 0
        for number in range(bisect_right(self._pages, after, key=_last), len(self._pages)):
            page = self._pages[number]
            for sequence in _behind(page.read_by(name), after):
                stored = self._get(page, sequence)
                if stored.subject != whole and not stored.subject.startswith(whole + b"."):
                    continue  # another name with the same hash
                if len(batch.messages) == most or size > most_bytes:
                    batch.pending = 1
                    return batch
                batch.messages.append(stored)
                size += len(stored.payload)
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
        pages = self._pages
        if pages and pages[0].is_small:
            # However small the steps in which it is read backwards, there are few pages.
            for stored in pages[0]:
                earlier._put(stored)
            self.bytes -= pages[0].bytes
            pages = pages[1:]
        if pages and earlier._pages:
            earlier._pages[-1].close()
        self._pages = earlier._pages + pages
        self.bytes += earlier.bytes
        self.low = earlier.low

    async def let_go(self, upto: int) -> None:
        """Forget the pages that hold nothing behind a sequence.

        One at a time: at once it would hold up all.
        """
        number = bisect_right(self._pages, upto, key=_last)
        if number == len(self._pages):
            self.low = max(self.low, min(upto, self.high))
        elif number:
            self.low = _last(self._pages[number - 1])
        if number:
            self._shared.clear()
            self._shared_bytes = 0
        for _ in range(number):
            self.bytes -= self._pages.pop(0).bytes
            await asyncio.sleep(0)

    def _put(self, stored: Stored) -> None:
        self.bytes += len(stored.subject) + len(stored.payload) + OVERHEAD
        names = self._names(stored.subject.decode("utf-8", "replace"))
        if self._pages and self._pages[-1].put(stored, names):
            return
        page = _Page(max(PAGE, len(stored.subject) + len(stored.payload)))
        page.put(stored, names)
        if self._pages:
            self._pages[-1].close()
        self._pages.append(page)

    def _names(self, subject: str) -> list[str]:
        name = subject.removeprefix(self._root)
        audience, _, rest = name.partition(".")
        if audience == "user":
            return [f"user.{rest.partition('.')[0]}"]
        if audience == "topic":
            return [audience, name.rpartition(".")[0], name]
        return [audience]

    def _get(self, page: _Page, sequence: int) -> Stored:
        found = self._shared.get(sequence)
        if found is None:
            found = page.get(sequence)
            if not found.subject.startswith(self._users):
                # Whoever reads it first keeps its frame there for the others.
                if self._shared_bytes > MAX_SHARED:
                    self._shared.clear()
                    self._shared_bytes = 0
                self._shared[sequence] = found
                self._shared_bytes += 2 * len(found.payload) + OVERHEAD
        return found


def _last(page: _Page) -> int:
    return page.sequences[-1]


def _behind(sequences: Sequence[int], after: int) -> Sequence[int]:
    return sequences[bisect_right(sequences, after) :]
