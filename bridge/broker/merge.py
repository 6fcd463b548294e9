"""Several subjects of one stream, read beside each other and given in the stream's order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from bridge.broker.history import BATCH, Batch, Stored
from bridge.broker.recent import Reader

LEAST: Final = 8
"""Messages of one subject that are read at a time, at the least."""


class _Source:
    """One subject: what was read of it and not taken yet, the newest first."""

    __slots__ = ("buffer", "over", "position", "subject")

    def __init__(self, subject: str, position: int) -> None:
        self.subject: Final = subject
        self.position = position
        self.buffer: list[Stored] = []
        self.over = False

    def fill(self, batch: Batch, upto: int) -> None:
        self.buffer = [each for each in reversed(batch.messages) if each.sequence <= upto]
        self.over = not batch.pending or len(self.buffer) < len(batch.messages)
        if batch.messages:
            self.position = batch.messages[-1].sequence


class Merge:
    """The messages of some subjects, each after a sequence of its own, up to one for all."""

    def __init__(
        self, reader: Reader, subjects: Mapping[str, int], upto: int, lowest: int = 0
    ) -> None:
        self._reader: Final = reader
        self._subjects: Final = {name: at for name, at in subjects.items() if at < upto}
        self._upto: Final = upto
        self._most: Final = max(LEAST, BATCH // max(1, len(self._subjects)))
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

    async def fill(self) -> None:
        """Read on where nothing is left; raises :class:`BrokerUnavailable`."""
        while empty := [each for each in self._sources if not each.buffer and not each.over]:
            batches = await asyncio.gather(
                *(self._reader.read(each.subject, each.position, self._most) for each in empty)
            )
            for source, batch in zip(empty, batches, strict=True):
                source.fill(batch, self._upto)

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
