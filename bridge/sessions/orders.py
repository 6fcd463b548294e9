"""What is to be replayed to a session, and where the last so many events of some subjects begin."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bridge.broker.recent import Reader
from bridge.broker.streams import Head
from schemas.codes import ResumeReason

Key = tuple[str, str]
"""An event type, and a resource token or ``*``."""

DIRECT: Final[Key] = ("", "")
"""Stands for the events of the session's user and of everybody, which need no subscription."""


@dataclass(slots=True)
class Order:
    """What is to be replayed, and what comes of it.

    ``keys`` is what is new to the session, :data:`DIRECT` among them where its user's events are
    meant. It begins after ``cursor``, with the ``last`` so many, or after the sequence ``begins``.
    Without keys it is everything from where the session's delivery broke off. A ``quiet`` one is
    not answered.
    """

    keys: frozenset[Key] | None = None
    cursor: str | None = None
    begins: int = 0
    last: int = 0
    reply_to: str | None = None
    quiet: bool = False
    placed: str = ""
    """The identity of the stream in which its begin was found."""
    skip: int = 0
    """How many of its events are left out at the beginning."""
    replayed: int = 0
    reason: ResumeReason | None = None
    missing: tuple[int, int] | None = None
    """After which sequence, and up to which, the stream no longer holds everything."""

    def miss(self, after: int, upto: int) -> None:
        """Tell in the end that this range could not be had."""
        if self.reason is None:
            self.reason = ResumeReason.CURSOR_TOO_OLD
        if self.missing is not None:
            after, upto = min(after, self.missing[0]), max(upto, self.missing[1])
        self.missing = (after, upto)


async def begin_last(
    reader: Reader, subjects: Sequence[str], last: int, head: Head
) -> tuple[int, int]:
    """Return after which sequence the last so many events are, and how many to leave out.

    By counting only: nothing but one message of each subject is read at a time. Raises
    :class:`BrokerUnavailable`.
    """

    async def count(after: int) -> int:
        batches = await asyncio.gather(*(reader.read(each, after, 1) for each in subjects))
        return sum(len(batch.messages) + batch.pending for batch in batches)

    least, most, step = head.first - 1, head.last, last
    after = max(least, most - step)
    found = await count(after)
    while after > least and found < last:
        most, step = after, step * 4
        after = max(least, after - step)
        found = await count(after)
    while found > 2 * last and most - after > 1:
        middle = (after + most) // 2
        there = await count(middle)
        if there >= last:
            after, found = middle, there
        else:
            most = middle
    return after, max(0, found - last)
