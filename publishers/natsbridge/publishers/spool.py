"""The spool: durable events wait on this machine's disk until the stream has them.

:meth:`Spool.put` returns once its events are on the disk. A forwarder sends them one after the
other in the order of their ``put``, and takes each out after the stream's acknowledgement, so that
the order holds over outages of the broker and restarts of the process, SIGKILL included. An event
that the stream will never take is put aside, with the reason, and does not hold up the others.

The file is written by one worker thread; events that come while it writes share the next commit.

**How often an event is stored.** At least once, and once unless all of this comes together: the
event was stored, its acknowledgement was lost, it is sent again after the stream's window of
duplicates (120 s), and the stream can't be asked. Before anything is sent again that may be stored
already, the stream is asked for it with a Direct Get (:mod:`natsbridge.publishers.lookup`), which
needs
``allow_direct`` and the permission to publish to ``$JS.API.DIRECT.GET.<stream>.>``. Where that is
refused, the log says so once and the event is sent again. A stream that has deleted the event by
then, by its age or size limits, stores it a second time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from natsbridge.publishers.errors import PublisherClosed, SpoolError, SpoolFailed
from natsbridge.publishers.outgoing import OutgoingEvent
from natsbridge.publishers.owner import Owner
from natsbridge.publishers.spool_file import Mark, RefusedEvent, Spooled, SpoolFile, Totals
from natsbridge.publishers.spool_quota import Room

log = logging.getLogger("publishers")

_T = TypeVar("_T")

AHEAD: Final = 64
"""An event is sent at most this many positions after what the file knows to be done. After a crash
only the first so many can have been sent already."""

AGAIN: Final = 1.0
"""Seconds after which what the file refused to write is tried again."""

CLOSE_TIMEOUT: Final = 2.0
"""Longest wait for the disk when the spool is closed, in seconds."""


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What is in the spool now.

    ``waiting`` events are still to be sent; the ``oldest`` of them has waited for that many
    seconds, None where there is none. ``refused`` ones were put aside. ``bytes`` are those of both,
    as the caps count them.
    """

    waiting: int
    oldest: float | None
    refused: int
    bytes: int


@dataclass(slots=True)
class _Put:
    events: Sequence[OutgoingEvent]
    size: int
    written: asyncio.Future[None]


class Spool:
    """The spool of one publisher, which opens and closes it."""

    def __init__(self, path: Path, *, max_events: int, max_bytes: int, deadline: float) -> None:
        """``deadline`` is the longest wait for the disk, in seconds."""
        self.path: Final = path
        self._caps = max_events, max_bytes
        self._deadline = deadline
        self._file: SpoolFile | None = None
        self._owner = Owner()

    async def open(self) -> None:
        """Open the file, and lock it.

        Raises :class:`publishers.SpoolLocked` and :class:`publishers.SpoolFailed`.
        """
        self._owner.check()
        self._thread = ThreadPoolExecutor(1, "spool")
        try:
            file, totals = await self._soon(self._run(lambda: _open(self.path)))
        except BaseException:
            # Should the file be open by now, it goes with the last reference to it.
            self._thread.shutdown(wait=False)
            raise
        self._room = Room(*self._caps)
        self._room.add(totals.waiting, totals.waiting_bytes)
        self._room.add(totals.refused, totals.refused_bytes)
        self._waiting = totals.waiting
        self._refused = totals.refused
        self._mark = self._written = file.mark
        self.doubtful: int = min(file.mark.removed + AHEAD, totals.last)
        """What was in the file at the start may have been sent up to this position."""
        self._puts: list[_Put] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._to_write = asyncio.Event()
        self._moved = asyncio.Event()
        self._added = asyncio.Event()
        self._empty = asyncio.Event()
        self._note_empty()
        self._file = file
        self._owner.take()
        self._writer = asyncio.get_running_loop().create_task(self._write())
        if totals.waiting or totals.refused:
            log.info(
                "the spool %s holds %d events to send and %d refused ones",
                self.path,
                totals.waiting,
                totals.refused,
            )

    async def close(self) -> None:
        """Write what is under way, close the file and unlock it; can be called twice.

        Raises :class:`publishers.SpoolFailed` when the disk does not let it in two seconds.
        """
        self._owner.check()
        file, self._file = self._file, None
        if file is None:
            return
        self._owner.release()
        self._to_write.set()

        def finish() -> None:
            try:
                file.write((), self._mark, time.time())
            finally:
                file.close()

        finishing = False
        try:
            # What was put before is written first, and each put told how it went.
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._writer
                finishing = True
                await self._run(finish)
        except TimeoutError:
            detail = f"{self.path}: the disk did not answer in {CLOSE_TIMEOUT:g} s"
            raise SpoolFailed(detail) from None
        finally:
            self._writer.cancel()
            if not finishing:
                self._thread.submit(file.close)
            self._thread.shutdown(wait=False)
        if self._waiting or self._refused:
            log.warning(
                "%d events stay in the spool %s for the next start, and %d refused ones",
                self._waiting,
                self.path,
                self._refused,
            )

    async def put(self, events: Sequence[OutgoingEvent]) -> None:
        """Keep all of these events or none; returns when they are on the disk.

        Raises :class:`publishers.SpoolFull`, :class:`publishers.SpoolFailed` and
        :class:`publishers.PublisherClosed`. A task that is cancelled here does not know: the events
        may be kept all the same.
        """
        self._opened()
        put = _Put(events, self._room.take(events), asyncio.get_running_loop().create_future())
        self._puts.append(put)
        self._to_write.set()
        await self._soon(put.written, events)

    @property
    def waiting(self) -> int:
        """How many events are still to be sent."""
        return self._waiting if self._file is not None else 0

    async def state(self) -> SpoolState:
        """Count what is in the spool; raises what :meth:`refused` raises."""
        file = self._opened()
        first = await self._soon(self._run(lambda: file.after(self._mark.removed, 1)))
        oldest = max(0.0, time.time() - first[0].spooled_at) if first else None
        return SpoolState(self._waiting, oldest, self._refused, self._room.bytes)

    async def refused(self, limit: int = 100) -> list[RefusedEvent]:
        """Return the first events that the stream will not take, with the reasons.

        Raises :class:`publishers.SpoolFailed` and :class:`publishers.PublisherClosed`.
        """
        file = self._opened()
        return await self._soon(self._run(lambda: file.refused(limit)))

    async def retry(self, positions: Sequence[int]) -> int:
        """Put refused events behind those that wait, to be sent again once the cause is mended.

        Return how many there were; raises what :meth:`refused` raises.
        """
        file = self._opened()

        async def work() -> int:
            count = await self._run(lambda: file.put_back(positions))
            self._refused -= count
            self._add(count)
            return count

        return await self._soon(self._whole(work()))

    async def discard(self, positions: Sequence[int]) -> int:
        """Delete refused events; return how many there were. Raises what :meth:`refused` raises."""
        file = self._opened()

        async def work() -> int:
            count, size = await self._run(lambda: file.discard(positions))
            self._refused -= count
            self._room.give(count, size)
            return count

        return await self._soon(self._whole(work()))

    # For the forwarder, which is one task.

    async def next(self) -> list[Spooled]:
        """Return the events that are to be sent next, waiting for the first."""
        file = self._opened()
        while True:
            self._added.clear()
            if rows := await self._run(lambda: file.after(self._mark.removed, AHEAD)):
                return rows
            await self._added.wait()

    async def allow(self, position: int) -> None:
        """Wait until the event at this position, the first of all, may be sent."""
        while position > self._written.removed + AHEAD:
            if self._mark.removed < position - 1:
                self._mark = Mark(position - 1, self._mark.stream, self._mark.sequence)
            self._moved.clear()
            self._to_write.set()
            await self._moved.wait()

    def done(self, spooled: Spooled, stream: str | None, sequence: int | None) -> None:
        """Take out an event that the stream has; the file follows a little later."""
        self._mark = Mark(
            spooled.position, stream or self._mark.stream, sequence or self._mark.sequence
        )
        self._waiting -= 1
        self._room.give(1, spooled.size)
        self._note_empty()
        if not self._waiting or spooled.position >= self._written.removed + AHEAD // 2:
            self._to_write.set()

    async def refuse(self, spooled: Spooled, reason: str) -> None:
        """Put an event aside that the stream will never take; raises SpoolFailed."""
        file = self._opened()
        mark = Mark(spooled.position, self._mark.stream, self._mark.sequence)

        async def work() -> None:
            await self._run(lambda: file.refuse(spooled.position, reason, mark))
            self._mark = mark
            self._waiting -= 1
            self._refused += 1
            self._note_empty()

        await self._whole(work())

    async def emptied(self) -> None:
        """Wait until no event is left to be sent; raises :class:`publishers.PublisherClosed`."""
        self._opened()
        await self._empty.wait()

    @property
    def last_stored(self) -> Mark:
        """Which stream had the last event that is done, and as what."""
        return self._mark

    async def _write(self) -> None:
        file = self._opened()
        while self._file is not None or self._puts:
            await self._to_write.wait()
            self._to_write.clear()
            puts, self._puts = self._puts, []
            error = await self._commit(file, puts, self._mark)
            for put in puts:
                _settle(put, error)
            if error is not None and self._file is not None:
                log.error("the spool can't be written: %s", error.detail)
                await asyncio.sleep(0 if puts else AGAIN)
                self._to_write.set()

    async def _commit(self, file: SpoolFile, puts: Sequence[_Put], mark: Mark) -> SpoolError | None:
        events = [event for put in puts for event in put.events]
        try:
            await self._run(lambda: file.write(events, mark, time.time()))
        except SpoolError as error:
            self._room.give(len(events), sum(put.size for put in puts))
            return error
        self._written = mark
        self._moved.set()
        self._add(len(events))
        return None

    def _add(self, count: int) -> None:
        if count:
            self._waiting += count
            self._note_empty()
            self._added.set()

    def _note_empty(self) -> None:
        if self._waiting:
            self._empty.clear()
        else:
            self._empty.set()

    def _opened(self) -> SpoolFile:
        if self._file is None:
            raise PublisherClosed
        self._owner.check()
        return self._file

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _whole(self, work: Coroutine[None, None, _T]) -> _T:
        """Run to the end also when the caller is cancelled: the counts follow the file."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _soon(self, work: Awaitable[_T], events: Sequence[OutgoingEvent] = ()) -> _T:
        try:
            async with asyncio.timeout(self._deadline):
                return await work
        except TimeoutError:
            detail = f"{self.path}: the disk did not answer in {self._deadline:g} s"
            raise SpoolFailed(detail, events) from None


def _open(path: Path) -> tuple[SpoolFile, Totals]:
    file = SpoolFile(path)
    try:
        return file, file.totals()
    except BaseException:
        file.close()
        raise


def _settle(put: _Put, error: SpoolError | None) -> None:
    if put.written.done():
        return
    if error is None:
        put.written.set_result(None)
    else:
        put.written.set_exception(SpoolFailed(error.detail, put.events))
