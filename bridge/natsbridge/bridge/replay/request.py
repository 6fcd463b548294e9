"""What is to be replayed to a session, where in the stream that begins, and what came of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from natsbridge.bridge.nats.history import EVERYTHING
from natsbridge.bridge.nats.stream import Head
from natsbridge.bridge.replay.positions import MAX_COUNTED, MAX_SUBJECTS, Key, Positions
from natsbridge.bridge.replay.shared_reader import Reader
from natsbridge.bridge.sessions.reading import without_absent
from natsbridge.schemas.codes import ResumeReason
from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.replies import Missing, ResumeCompleted, ResumeData

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.context import Surroundings


@dataclass(slots=True, eq=False)
class Order:
    """What is to be replayed, and what comes of it.

    ``keys`` is what is new to the session, ``DIRECT`` among them where its user's events are
    meant. It begins after ``cursor``, with the ``last`` so many, or after the sequence ``begins``.
    Without keys it is everything from where the session's delivery broke off. A ``quiet`` one is
    not answered.
    """

    keys: frozenset[Key] | None = None
    cursor: Cursor | None = None
    begins: int = 0
    last: int = 0
    reply_to: str | None = None
    quiet: bool = False
    trace: bytes = b""
    """The ``traceparent`` of whoever asked for it."""
    began: float = field(default_factory=time.monotonic)
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

    def fail(self) -> None:
        """JetStream is away for too long."""
        self.reason, self.missing = ResumeReason.UNAVAILABLE, None

    @property
    def known_begin(self) -> int:
        """After which sequence it begins at the earliest; -1 where that is to be found."""
        if self.cursor is not None:
            return self.cursor.position
        return -1 if self.last else self.begins

    @property
    def is_begun(self) -> bool:
        """Whether stored events come of it."""
        return self.reason in (None, ResumeReason.CURSOR_TOO_OLD)

    def answer(self, cursor: str | None, at: Callable[[int], str]) -> ResumeCompleted:
        """Return what the client is told in the end: how it went, and where it stands now.

        ``at`` returns the cursor of a sequence.
        """
        missing = None
        if self.missing is not None:
            after, upto = map(at, self.missing)
            missing = Missing(from_=after, to=upto)
        data = ResumeData(
            recovered=self.reason is None,
            replayed=self.replayed,
            cursor=cursor,
            reason=self.reason,
            missing=missing,
        )
        return ResumeCompleted(data=data, reply_to=self.reply_to)


async def place(
    order: Order,
    positions: Positions,
    env: Surroundings,
    user: str,
    head: Head,
    excluded: Mapping[Key, Collection[str]],
) -> None:
    """Find where an order begins, and whether the stream still holds everything from there on.

    ``user`` is for whom that is read; ``excluded`` has the resources that are left out of all of a
    type. Raises :class:`BrokerUnavailable`; then it can be done again.
    """
    order.reason = order.missing = None
    keys = order.keys or frozenset()
    fresh = positions.know(keys)
    if order.begins:
        positions.put(fresh, order.begins)  # an order before this one had the others
        return
    if order.last:
        reads = env.reads.of(user, head.last)
        counted = {key: excluded.get(key, ()) for key in keys}
        subjects, off = positions.to_count(counted, sys.maxsize)
        found = await without_absent(reads, dict.fromkeys((*subjects, *off), head.first - 1))
        subjects, off = ([each for each in some if each in found] for some in (subjects, off))
        if len(subjects) > MAX_COUNTED or len(off) > MAX_COUNTED:
            subjects, off = positions.to_count(counted)
        begins, order.skip = await begin_last(reads, subjects, off, order.last, head)
        positions.put(keys, begins)
        return
    if order.cursor is not None:
        if order.cursor.stream != head.identity:
            order.reason = ResumeReason.STREAM_REPLACED
            return
        if order.cursor.direct > head.last:
            order.reason = ResumeReason.CURSOR_AHEAD
            return
        positions.put(keys, order.cursor.position, order.cursor.direct)
    lowest = min(map(positions.after, keys), default=positions.reached)
    if head.first > lowest + 1:
        order.miss(lowest, head.first - 1)
    elif await env.stream.thinned(lowest, head.last):
        order.miss(lowest, head.last)


async def begin_last(
    reader: Reader, subjects: Sequence[str], without: Sequence[str], last: int, head: Head
) -> tuple[int, int]:
    """Return after which sequence the last so many events are, and how many to leave out.

    Those of the subjects ``without`` are among them, and don't count. By counting only: nothing but
    one message of each subject is read at a time. Raises :class:`BrokerUnavailable`.
    """

    async def number(subjects: Sequence[str], after: int) -> int:
        found = 0
        for at in range(0, len(subjects), MAX_SUBJECTS):
            some = subjects[at : at + MAX_SUBJECTS]
            batches = await asyncio.gather(*(reader.read(each, after, 1) for each in some))
            found += sum(len(batch.messages) + batch.pending for batch in batches)
        return found

    async def stored(after: int) -> int:
        return await number(subjects, after) - await number(without, after)

    async def newer() -> int:
        # Mostly there is nothing, which is one question for all subjects.
        batch = await reader.read(EVERYTHING, head.last, 1)
        return await stored(head.last) if batch.messages else 0

    async def count(after: int) -> int:
        # What was stored since the look comes live. It is counted last, and so never too little:
        # rather a few events too many than one that is missing from the last so many.
        return await stored(after) - await newer()

    if not subjects:
        return head.last, 0
    least, most, step = head.first - 1, head.last, last
    after = max(least, most - step)
    found = await count(after)
    while after > least and found < last:
        most, step = after, step * 8
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
