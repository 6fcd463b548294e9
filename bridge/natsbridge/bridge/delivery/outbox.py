"""What is to be written to one connection, and the flush that writes it once a loop iteration.

``offer`` appends; the first offer of an iteration marks the outbox dirty; the flush writes each
dirty outbox in one call. A connection that can't be written to, that is being sent stored events,
or that asked for a slower pace has a :class:`Backlog`, which takes what is offered instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from time import perf_counter_ns
from typing import Final

from natsbridge.bridge.delivery.following import Followed, Timed, Watcher
from natsbridge.bridge.delivery.queue import About, Backlog
from natsbridge.schemas.catalogue import EventType

MAX_PUT_OFF: Final = 7
"""Reads in a row that leave their writes to the next one."""
LARGE: Final = 128 * 1024
"""Bytes for each of a crowd that are worth a write: with four times as much, each byte was half as
dear again (docs/decisions.md, 43).
"""

log = logging.getLogger(__name__)

Permits = Callable[[str, str], bool]
"""Whether an event (type, resource token) may go to this receiver."""


class Outbox:
    """The frames that wait for one connection.

    ``frames`` is appended to by :class:`Flush` and by the hub's loops, which inline ``offer``.
    ``permits`` is None where every event of a user or all audience may go out.
    """

    __slots__ = ("backlog", "closed", "failed", "frames", "overflowed", "permits", "send", "write")

    def __init__(
        self,
        write: Callable[[bytes | memoryview], None],
        overflowed: Callable[[], None],
        failed: Callable[[], None] | None = None,
    ) -> None:
        """``overflowed`` is called when too much waits, ``failed`` after a fault of ours."""
        self.write = write
        self.send: Callable[[bytes], int] | None = None
        """Sends past the transport, which lends it and takes it back:
        :mod:`natsbridge.bridge.runtime.transport`."""
        self.overflowed = overflowed
        self.failed = failed or overflowed
        self.frames: list[bytes] = []
        self.permits: Permits | None = None
        self.backlog: Backlog | None = None
        self.closed = False

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        kept = 0 if self.backlog is None else len(self.backlog.waiting)
        return len(self.frames) + kept

    def drain(self) -> None:
        """Write what was offered, in one call, unless the connection is off the straight way."""
        frames = self.frames
        if frames and self.backlog is None:
            self.frames = []
            self.write(frames[0] if len(frames) == 1 else b"".join(frames))


def _drop(_: bytes | memoryview) -> None:
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
        clock: Callable[[], float],
    ) -> None:
        """The bounds are those of one connection's backlog; ``clock`` gives seconds."""
        self._call_soon: Final = call_soon
        self._max_frames: Final = max_frames
        self._max_bytes: Final = max_bytes
        self._clock: Final = clock
        self.scheduled = False
        """Whether the flush runs at the end of the iteration, or of the read; the hub looks before
        it calls, as it does at ``crowd``: a call in vain is what an event would feel.
        """
        self._put_off = 0
        self._known: Final[dict[int, About]] = {}
        self.detours: Final[set[Outbox]] = set()
        """The outboxes that have a backlog."""
        self.counts: Final[dict[str, int]] = {}
        """Events that were ``conflated``, ``healed`` or ``dropped`` on their way to a client."""
        self.watcher: Watcher | None = None
        self.followed: list[Followed] = []
        """Events that the next run is to tell the watcher of."""
        self._began = 0
        """When the first read came whose events are not written yet; 0 while there is none."""
        self.writes = 0
        self.written = 0
        """Writes of what was offered, and their bytes."""
        self.dirty: list[Outbox] = []
        self.crowd: Collection[Outbox] | None = None
        """For whom frames are gathered."""
        self._gathered: list[bytes] = []
        self._shares: Final[dict[int, int]] = {}
        """Bytes for each of a crowd that :meth:`settle` has given it, by the crowd's id."""

    def gather(self, crowd: Collection[Outbox], frame: bytes) -> None:
        """Let a frame wait for many connections, which must not change until :meth:`settle`.

        One event after the other for the same crowd costs one append each, not one a connection.
        """
        if self.crowd is not crowd:
            self.settle()
            self.crowd = crowd
        self._gathered.append(frame)

    def settle(self) -> None:
        """Give what was gathered to each connection; before anything else is offered to one, and
        before a crowd changes.
        """
        crowd = self.crowd
        if crowd is None:
            return
        frames, self.crowd, self._gathered = self._gathered, None, []
        chunk = frames[0] if len(frames) == 1 else b"".join(frames)
        self._shares[id(crowd)] = self._shares.get(id(crowd), 0) + len(chunk)
        dirty = self.dirty
        for outbox in crowd:
            if not outbox.frames:
                dirty.append(outbox)
            if outbox.backlog is not None:
                outbox.frames += frames  # it looks at each
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
        if not self.scheduled:
            self.scheduled = True
            self._call_soon(self.run)

    def begin(self) -> None:
        """A read that may bring many events begins: what is offered waits for its end."""
        self.scheduled = True
        if not self._began:
            self._began = perf_counter_ns()

    def end(self, more: bool) -> None:
        """The read is over: write all that it brought, or with what the next ones bring.

        When ``more`` is waiting, what it brings for the same connections goes into the same writes,
        which are most of what an event costs; at most :data:`MAX_PUT_OFF` reads long, and until
        there is a :data:`LARGE` write for a crowd.
        """
        if more and self._put_off < MAX_PUT_OFF and self._largest_share() < LARGE:
            self._put_off += 1
            # Two iterations later the next read has had its turn; it may have brought nothing.
            self._call_soon(partial(self._next_but_one, self._put_off))
        else:
            self.run()

    def _largest_share(self) -> int:
        gathered = self._shares.get(id(self.crowd), 0) + sum(map(len, self._gathered))
        return max([gathered, *self._shares.values()])

    def _next_but_one(self, put_off: int) -> None:
        self._call_soon(partial(self._end_late, put_off))

    def _end_late(self, put_off: int) -> None:
        if self._put_off == put_off:
            self.run()

    def run(self) -> None:
        """Write each dirty outbox, or hand what was offered to its backlog."""
        self.scheduled = False
        self._put_off = 0
        self.settle()
        self._shares.clear()
        dirty, self.dirty = self.dirty, []
        followed = self.followed
        times = Timed() if followed else None
        last: list[bytes] = []
        joined, size = b"", 0
        writes = written = 0
        for outbox in dirty if times is None else times.walk(dirty):
            frames = outbox.frames
            if frames:
                try:
                    if outbox.backlog is not None:
                        self._take(outbox, outbox.backlog)
                        continue
                    outbox.frames = []
                    # Connections with the same subscriptions got the same frames: they share the
                    # joined bytes. Lists compare by identity first, so this costs far less.
                    if not last or frames[0] is not last[0] or frames != last:
                        last = frames
                        joined = frames[0] if len(frames) == 1 else b"".join(frames)
                        size = len(joined)
                    writes += 1
                    written += size
                    send = outbox.send
                    if send is None:
                        outbox.write(joined)
                        continue
                    try:
                        sent = send(joined)
                    except OSError:
                        sent = 0  # the transport finds it, too, and does what it asks for
                    if sent != size:
                        outbox.write(memoryview(joined)[sent:])
                except Exception:
                    # A fault of ours with one connection must not cost the others their flush.
                    log.exception("a connection could not be written to")
                    self._call_soon(outbox.failed)
        if self._known:
            self._known.clear()
        self.writes += writes
        self.written += written
        began, self._began = self._began, 0
        if self.watcher is not None and (began or followed):
            self.followed = []
            self.watcher.flushed(began, followed, 0 if times is None else times.slowest)

    def _take(self, outbox: Outbox, backlog: Backlog) -> None:
        """Hand a backlog what was offered to its connection."""
        frames, outbox.frames = outbox.frames, []
        backlog.take(frames, self._known, self._clock())
        if backlog.overflowed:
            # Not from here: closing changes what is being walked through.
            self._call_soon(outbox.overflowed)

    def know(self, kind: EventType, resource: str, sequence: bytes, frame: bytes) -> None:
        """Remember what a frame is until it is flushed; asked for while there are backlogs."""
        self._known[id(frame)] = (kind, resource, sequence, frame)

    def detour(self, outbox: Outbox, position: int = 0) -> Backlog:
        """Return the backlog of an outbox; from here on it takes what is offered.

        ``position`` is the sequence up to which durable events have been offered.
        """
        self.settle()
        if outbox.backlog is None:
            outbox.drain()  # what these frames are is not known any more
        elif outbox.frames:
            # They were offered before what is about to change.
            self._take(outbox, outbox.backlog)
        backlog = outbox.backlog  # writing them may have made one: it blocks the connection
        if backlog is None:
            backlog = Backlog(
                outbox.write, self._count, max_frames=self._max_frames, max_bytes=self._max_bytes
            )
            backlog.kept_to = position
            outbox.backlog = backlog
            self.detours.add(outbox)
        return backlog

    def drain(self, outbox: Outbox) -> None:
        """Write all that waits for a connection, which is about to be closed."""
        self.settle()
        backlog = outbox.backlog
        if backlog is None:
            outbox.drain()
            return
        self._take(outbox, backlog)
        backlog.flush()

    def straighten(self, outbox: Outbox, position: int) -> None:
        """Let an outbox go the straight way again, if nothing keeps it from that.

        ``position`` is the sequence up to which durable events have been offered.
        """
        backlog = outbox.backlog
        if backlog is not None and backlog.is_idle and position >= backlog.skip_to:
            self.settle()
            if outbox.frames:
                self._take(outbox, backlog)
            if backlog.is_idle:
                outbox.backlog = None
                self.detours.discard(outbox)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def forget(self, outbox: Outbox) -> None:
        """The connection is over: take nothing more and let go of what waits."""
        outbox.closed = True
        outbox.frames = []
        outbox.backlog = None
        self.detours.discard(outbox)
        # The owner's methods hold the owner, which holds this: a cycle that nobody collects soon.
        outbox.write = _drop
        outbox.send = None
        outbox.overflowed = outbox.failed = _ignore
        outbox.permits = None
