"""What waits to be written to one connection, and the flush that writes it once a loop iteration.

``offer`` appends; the first offer of an iteration marks the outbox dirty; the flush writes each
dirty outbox in one call. A connection that can't be written to keeps a bounded outbox; over the
bound its owner is told, and nothing is dropped in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

MAX_PUT_OFF: Final = 7
"""Reads in a row that leave their writes to the next one."""

log = logging.getLogger(__name__)

Permits = Callable[[str, str], bool]
"""Whether an event (type, resource token) may go to this receiver."""


class Outbox:
    """The frames that wait for one connection.

    ``frames`` is appended to by :class:`Flush` and by the hub's loops, which inline ``offer``.
    ``permits`` is None where every event of a user or all audience may go out.
    """

    __slots__ = (
        "closed",
        "frames",
        "overflowed",
        "paused",
        "permits",
        "waiting",
        "weighed",
        "write",
    )

    def __init__(self, write: Callable[[bytes], None], overflowed: Callable[[], None]) -> None:
        self.write = write
        self.overflowed = overflowed
        self.frames: list[bytes] = []
        self.permits: Permits | None = None
        self.paused = False
        self.closed = False
        self.weighed = 0
        """How many of ``frames`` are in ``waiting``, their bytes; kept while it is paused."""
        self.waiting = 0

    def drain(self) -> None:
        """Write what waits, in one call, unless the connection can't take it."""
        frames = self.frames
        if frames and not self.paused:
            self.frames = []
            self.write(frames[0] if len(frames) == 1 else b"".join(frames))


def _drop(_: bytes) -> None:
    """Stand in for the write of a connection that is over."""


def _ignore() -> None:
    """Stand in for the owner of a connection that is over."""


class Flush:
    """Writes all dirty outboxes once a loop iteration."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        max_frames: int,
        max_bytes: int,
    ) -> None:
        self._call_soon: Final = call_soon
        self._max_frames: Final = max_frames
        self._max_bytes: Final = max_bytes
        self._scheduled = False
        self._put_off = 0
        self._paused: Final[set[Outbox]] = set()
        self.dirty: list[Outbox] = []
        self._crowd: Collection[Outbox] | None = None
        self._gathered: list[bytes] = []

    def gather(self, crowd: Collection[Outbox], frame: bytes) -> None:
        """Let a frame wait for many connections, which must not change until :meth:`settle`.

        One event after the other for the same crowd costs one append each, not one a connection.
        """
        if self._crowd is not crowd:
            self.settle()
            self._crowd = crowd
        self._gathered.append(frame)

    def settle(self) -> None:
        """Give what was gathered to each connection; before anything else is offered to one, and
        before a crowd changes.
        """
        crowd = self._crowd
        if crowd is None:
            return
        frames, self._crowd, self._gathered = self._gathered, None, []
        chunk = frames[0] if len(frames) == 1 else b"".join(frames)
        dirty = self.dirty
        for outbox in crowd:
            if not outbox.frames:
                dirty.append(outbox)
            if outbox.paused:
                outbox.frames += frames  # its bound counts messages
            else:
                outbox.frames.append(chunk)

    def offer(self, outbox: Outbox, frame: bytes) -> None:
        """Let a frame wait for this connection; it is written at the end of the iteration."""
        if outbox.closed:
            return
        self.settle()
        if not outbox.frames:
            self.dirty.append(outbox)
        outbox.frames.append(frame)
        self.schedule()

    def schedule(self) -> None:
        """Have the flush run in this loop iteration's end; calling it again costs nothing."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.run)

    def begin(self) -> None:
        """A read that may bring many events begins: what is offered waits for its end."""
        self._scheduled = True

    def end(self, more: bool) -> None:
        """The read is over: write all that it brought, or with what the next ones bring.

        When ``more`` is waiting, what it brings for the same connections goes into the same writes,
        which are most of what an event costs; at most :data:`MAX_PUT_OFF` reads long.
        """
        if more and self._put_off < MAX_PUT_OFF:
            self._put_off += 1
            # Two iterations later the next read has had its turn; it may have brought nothing.
            self._call_soon(partial(self._next_but_one, self._put_off))
        else:
            self.run()

    def _next_but_one(self, put_off: int) -> None:
        self._call_soon(partial(self._end_late, put_off))

    def _end_late(self, put_off: int) -> None:
        if self._put_off == put_off:
            self.run()

    def run(self) -> None:
        """Write each dirty outbox, and check the bounds of those that can't be written to."""
        self._scheduled = False
        self._put_off = 0
        self.settle()
        dirty, self.dirty = self.dirty, []
        last: list[bytes] = []
        joined = b""
        for outbox in dirty:
            if not outbox.paused:
                frames = outbox.frames
                if frames:
                    outbox.frames = []
                    # Connections with the same subscriptions got the same frames: they share the
                    # joined bytes. Lists compare by identity first, so this costs far less.
                    if not last or frames[0] is not last[0] or frames != last:
                        last = frames
                        joined = frames[0] if len(frames) == 1 else b"".join(frames)
                    try:
                        outbox.write(joined)
                    except Exception:
                        # A fault of ours with one connection must not cost the others their flush.
                        log.exception("a connection could not be written to")
                        self._call_soon(outbox.overflowed)
        if self._paused:
            self._check_bounds()

    def pause(self, outbox: Outbox) -> None:
        """The connection can't be written to: what is offered waits."""
        outbox.paused = True
        outbox.weighed = outbox.waiting = 0
        self._paused.add(outbox)

    def resume(self, outbox: Outbox) -> None:
        """The connection can be written to again: write what waited."""
        outbox.paused = False
        self._paused.discard(outbox)
        outbox.drain()

    def forget(self, outbox: Outbox) -> None:
        """The connection is over: take nothing more and let go of what waits."""
        outbox.closed = True
        outbox.frames = []
        self._paused.discard(outbox)
        # The owner's methods hold the owner, which holds this: a cycle that nobody collects soon.
        outbox.write = _drop
        outbox.overflowed = _ignore
        outbox.permits = None

    def _check_bounds(self) -> None:
        over = []
        for outbox in self._paused:
            frames = outbox.frames
            if len(frames) != outbox.weighed:
                # Only what is new: many stalled clients must not make each flush dear.
                outbox.waiting += sum(map(len, frames[outbox.weighed :]))
                outbox.weighed = len(frames)
                if outbox.weighed > self._max_frames or outbox.waiting > self._max_bytes:
                    over.append(outbox)
        for outbox in over:
            outbox.overflowed()
