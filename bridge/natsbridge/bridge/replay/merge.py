"""Several subjects of one stream, read beside each other and given in the stream's order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from natsbridge.bridge.nats.history import BATCH, MAX_BATCH_BYTES, Batch, Stored
from natsbridge.bridge.replay.shared_reader import Reader

LEAST: Final = 8
"""Messages of one subject that are read at a time, at the least."""

Wanted = Callable[[bytes], bool]
"""Whether messages stored under this subject are taken."""


class _Source:
    """One subject: what was read of it and not taken yet, the newest first."""

    __slots__ = ("buffer", "over", "position", "subject")

    def __init__(self, subject: str, position: int) -> None:
        self.subject: Final = subject
        self.position = position
        self.buffer: list[Stored] = []
        self.over = False

    def fill(self, batch: Batch, upto: int, wanted: Wanted | None) -> None:
        messages = batch.messages
        self.over = not batch.pending or (bool(messages) and messages[-1].sequence >= upto)
        if messages:
            self.position = messages[-1].sequence
        self.buffer = [
            each
            for each in reversed(messages)
            if each.sequence <= upto and (wanted is None or wanted(each.subject))
        ]


class Merge:
    """The messages of some subjects, each after a sequence of its own, up to one for all."""

    def __init__(
        self,
        reader: Reader,
        subjects: Mapping[str, int],
        upto: int,
        lowest: int = 0,
        *,
        batch: int = BATCH,
        wanted: Wanted | None = None,
    ) -> None:
        """``batch`` messages are read at a time, of all subjects together; those that are not
        ``wanted`` are passed by.
        """
        self._reader: Final = reader
        self._subjects: Final = {name: at for name, at in subjects.items() if at < upto}
        self._upto: Final = upto
        self._wanted: Final = wanted
        count = max(1, len(self._subjects))
        self._most: Final = max(LEAST, batch // count)
        self._most_bytes: Final = MAX_BATCH_BYTES // count
        self.matched = 0
        """How many messages there were to read when :meth:`fill` looked first, or more."""
        self._sources: list[_Source] = []
        self.restart(lowest)

    def restart(self, lowest: int) -> None:
        """Forget what was read and not taken; read anew, from behind ``lowest`` at the least."""
        self._sources = [_Source(name, max(at, lowest)) for name, at in self._subjects.items()]

    @property
    def is_through(self) -> bool:
        """Whether everything was taken."""
        return all(each.over and not each.buffer for each in self._sources)

    @property
    def is_dry(self) -> bool:
        """Whether the next message is not known before :meth:`fill`."""
        return any(not each.buffer and not each.over for each in self._sources)

    @property
    def reached(self) -> int:
        """The sequence up to which everything was taken."""
        return min(
            (
                each.buffer[-1].sequence - 1 if each.buffer else each.position
                for each in self._sources
                if each.buffer or not each.over
            ),
            default=self._upto,
        )

    async def fill(self) -> None:
        """Read on once where nothing is left; it may still be dry then, of what passed by.

        Raises :class:`BrokerUnavailable`.
        """
        empty = [each for each in self._sources if not each.buffer and not each.over]
        batches = await asyncio.gather(
            *(
                self._reader.read(each.subject, each.position, self._most, self._most_bytes)
                for each in empty
            )
        )
        for source, batch in zip(empty, batches, strict=True):
            self.matched += len(batch.messages) + batch.pending
            source.fill(batch, self._upto, self._wanted)

    def take(self) -> Stored | None:
        """Return the next message; None when there is none, or :meth:`fill` has to come first."""
        first: list[Stored] | None = None
        for each in self._sources:
            buffer = each.buffer
            if buffer:
                if first is None or buffer[-1].sequence < first[-1].sequence:
                    first = buffer
            elif not each.over:
                return None
        return None if first is None else first.pop()
