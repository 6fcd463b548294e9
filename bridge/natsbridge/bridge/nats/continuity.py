"""Keeps this bridge at one with the stream: finds what did not come in, and delivers it in turn.

After a break between NATS and the bridge, or when an event of a subject is missing, what was missed
is read from the stream. While that runs, durable events that come in are kept back, so that clients
get all of them once and in order. What can't be read any more is told. Ephemeral events are not
kept back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import EVERYTHING, History, Stored
from natsbridge.bridge.nats.replicas import Replicas
from natsbridge.bridge.nats.stream import Head, Stream
from natsbridge.schemas.codes import GapReason

log = logging.getLogger(__name__)

BATCH: Final = 128
"""Messages that are read at a time: durable events wait for this anyway, so it is to be quick."""
SLICE: Final = 32
"""Messages that are delivered in one loop iteration: less than half a millisecond of work."""
SETTLES: Final = 2
"""Looks at the stream after which what it had then has come in."""
PATIENCE: Final = 10.0
"""Seconds that JetStream has to come back after NATS has; then delivery goes on without."""

Tell = Callable[[int | None, int | None, GapReason], None]
"""Tells every client what it misses: after the first sequence, up to the second if it is known."""


class Sink(Protocol):
    """Where events are delivered, in order; see
    :class:`natsbridge.bridge.delivery.stream_order.StreamOrder`."""

    @property
    def position(self) -> int: ...

    def begin(self, identity: bytes, position: int) -> None: ...

    def rise(self, position: int) -> None: ...

    def fall(self, position: int) -> None: ...

    def sees(self, last: int) -> None: ...

    def detain(self, anew: bool = False) -> None: ...

    def release(self, upto: int) -> bool: ...

    def excuse(self, upto: int) -> None: ...

    def settle(self, subject: bytes, upto: int) -> None: ...

    def first_detained(self) -> int | None: ...

    def last_detained(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def furthest(self) -> int: ...

    def refuse_beyond(self, last: int, count: int | None = None) -> int: ...

    def pass_by(self, subject: bytes, payload: bytes, sequence: int) -> None: ...


@dataclass(slots=True)
class _Job:
    """Stored events of a subject to deliver: after a sequence, up to another or the stream's end.

    Where ``as_of`` is set, clients have events after these already: these get its cursor, so that
    nobody goes back by them.
    """

    after: int
    upto: int | None = None
    as_of: int | None = None


class Continuity:
    """Closes the gaps between the stream and this bridge."""

    def __init__(
        self,
        stream: Stream,
        history: History,
        sink: Sink,
        *,
        roots: tuple[str, str],
        confirmed: Callable[[], Coroutine[Any, Any, bool]],
        tell: Tell,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """``roots`` are those of what the stream stores and of what it republishes. ``confirmed``
        waits until NATS has every interest and returns whether it does.
        """
        self._stream: Final = stream
        self._history: Final = history
        self._replicas: Final = Replicas(stream, history)
        self._sink: Final = sink
        self._events, self._live = (f"{root}.".encode() for root in roots)
        self._confirmed: Final = confirmed
        self._tell: Final = tell
        self._spawn: Final = spawn
        self._jobs: Final[dict[str, _Job]] = {}
        self._up = asyncio.Event()
        self._running = False
        self._doubts = False
        self._watching = False
        self._settled: Final[deque[tuple[str, int, int]]] = deque()
        self._identity = ""
        self._left = 0
        self.completed = 0
        """How many times what was missed has been dealt with: read to its end, or given up."""
        self.recovered = 0
        """How many stored events were looked at for that."""

    @property
    def state(self) -> str:
        """What is being caught up with, in words; empty when nothing is."""
        return f"reading what was missed, {self._left} to go" if self._running else ""

    @property
    def breaks(self) -> int:
        """How many connections to NATS are gone."""
        return self._history.breaks

    def on_down(self) -> None:
        """The connection is gone: what comes in after it must wait for what is missed now."""
        self._up.clear()
        self._replicas.on_down()
        if self._identity:
            self._sink.detain(anew=True)
            if EVERYTHING not in self._jobs:
                position = self._sink.position
                for job in self._jobs.values():
                    job.upto = min(job.upto or position, position)
                self._jobs[EVERYTHING] = _Job(position)

    def on_up(self) -> None:
        """The connection is there, and everything is being subscribed to."""
        self._up.set()
        self._start()

    def on_missed(self, subject: str, after: int, upto: int) -> None:
        """Events of this live subject between two sequences did not come; the sink keeps back what
        follows them.
        """
        log.warning("an event did not come in; reading it from the stream")
        stored = self._events.decode() + subject.removeprefix(self._live.decode())
        self._jobs.setdefault(stored, _Job(after, upto, self._sink.position))
        self._start()

    def on_doubt(self) -> None:
        """An event says that the stream is much further than it was seen to be; the sink keeps it
        back. JetStream says whether that can be: nothing goes on from a place that it has not.
        """
        self._doubts = True
        self._start()

    def tick(self) -> None:
        """Look at the stream from time to time: whether it is there, and how far it reaches."""
        if self._up.is_set():
            self._start()  # in case a fault of ours ended it with work left
            if not self._watching:
                self._watching = True
                self._spawn(self._watch())

    async def look(self) -> Head:
        """Look at the stream, and notice when it is another one.

        Raises :class:`BrokerUnavailable`, also for a stream that events can't be read from.
        """
        head = await self._stream.look()
        if head.identity != self._identity:
            if self._identity:
                log.warning("the stream is another one than before")
                self._jobs.clear()
                self._tell(None, None, GapReason.STREAM_REPLACED)
            self._identity = head.identity
            self._sink.begin(head.identity.encode(), head.last)
        self._sink.sees(head.last)
        if self._stream.problem:
            raise BrokerUnavailable(self._stream.problem)
        return head

    async def settled(self) -> Head:
        """Look at the stream, and wait until all that it had then can be read from its replicas.

        Raises :class:`BrokerUnavailable`.
        """
        head = await self.look()
        await self._replicas.settle(head)
        return head

    async def _watch(self) -> None:
        try:
            reached, breaks = self._sink.position, self.breaks
            head = await self.look()
            if self._running:
                return
            if reached > head.last:
                self._sink.fall(head.last)
            # What the stream had two looks ago has come in by now, if the connection held.
            self._settled.append((head.identity, breaks, head.last))
            if len(self._settled) > SETTLES:
                identity, held, last = self._settled.popleft()
                if (identity, held) == (head.identity, self.breaks):
                    self._sink.rise(last)
        except BrokerUnavailable:
            pass  # the stream's problem says it
        finally:
            self._watching = False

    def _start(self) -> None:
        if (self._jobs or self._doubts) and not self._running:
            self._running = True
            self._spawn(self._run())

    async def _run(self) -> None:
        try:
            await self._read_all()
            self.completed += 1
        finally:
            self._running = False
            self._left = 0

    async def _read_all(self) -> None:
        loop = asyncio.get_running_loop()
        since: tuple[int, int] | None = None
        gives_up = 0.0
        while self._jobs or self._doubts:
            await self._up.wait()
            breaks, waiting = self.breaks, self._sink.waiting
            if EVERYTHING in self._jobs:
                # What is kept back from here on and what is read after it are everything.
                self._sink.detain()
            try:
                head = await self._read_jobs()
            except BrokerUnavailable as problem:
                if since != (self.breaks, self.recovered):
                    since = (self.breaks, self.recovered)
                    gives_up = loop.time() + PATIENCE
                if loop.time() >= gives_up:
                    self._give_up(problem)
                else:
                    await asyncio.sleep(0.1 + random.random() / 4)  # noqa: S311  # a jitter
                continue
            if breaks != self.breaks:
                continue
            self._doubts = False
            if refused := self._sink.refuse_beyond(head.last, waiting):
                log.warning("%d events were further on than the stream reaches: forged", refused)
            whole = EVERYTHING in self._jobs  # not when the stream was another one
            self._settle()
            if not self._sink.release(head.last if whole else 0):
                # More came meanwhile than may wait: all of it is in the stream.
                self._jobs[EVERYTHING] = _Job(head.last if whole else self._sink.position)

    async def _read_jobs(self) -> Head:
        if not await self._confirmed():
            raise BrokerUnavailable("NATS does not confirm the subscriptions")
        head = await self.settled()
        for subject, job in list(self._jobs.items()):
            if head.identity != self._identity:
                raise BrokerUnavailable("the stream was made anew meanwhile")
            await self._read(subject, job, head)
        return head

    async def _read(self, subject: str, job: _Job, head: Head) -> None:
        upto = head.last if job.upto is None else job.upto
        if head.first > job.after + 1:
            # Of one subject it is not known whether there was anything before ``upto``.
            if job.upto is None or job.upto < head.first:
                self._tell(job.after, min(head.first - 1, upto), GapReason.RETENTION)
            job.after = head.first - 1
        whole = job.upto is None and job.after < upto
        if whole and await self._stream.thinned(job.after, upto):
            # It can't be told from the stream whose they were.
            self._tell(job.after, upto, GapReason.RETENTION)
        while job.after < upto:
            self._left = upto - job.after
            batch = await self._history.read(subject, job.after, BATCH)
            for count, stored in enumerate(batch.messages, 1):
                if stored.sequence > upto:
                    break
                self._deliver(stored, max(job.as_of or 0, stored.sequence))
                job.after = stored.sequence
                if count % SLICE == 0:
                    await asyncio.sleep(0)
            else:
                if batch.messages and batch.pending:
                    continue
            job.after = upto

    def _deliver(self, stored: Stored, sequence: int) -> None:
        self.recovered += 1
        if stored.subject.startswith(self._events):
            live = self._live + stored.subject[len(self._events) :]
            self._sink.pass_by(live, stored.payload, sequence)

    def _settle(self) -> None:
        """What there is to do is done: nobody is to look for it again."""
        for subject, job in self._jobs.items():
            if job.upto is not None:
                stored = subject.encode()
                self._sink.settle(self._live + stored[len(self._events) :], job.upto)
        self._jobs.clear()

    def _give_up(self, problem: BrokerUnavailable) -> None:
        log.warning("what was missed can't be read: %s; delivery goes on without it", problem)
        after = min(job.after for job in self._jobs.values()) if self._jobs else 0
        first = self._sink.first_detained()
        self._tell(after, None if first is None else first - 1, GapReason.UNAVAILABLE)
        self._settle()
        self._doubts = False
        self._sink.refuse_beyond(self._sink.furthest)
        self._sink.excuse(self._sink.last_detained())
        while not self._sink.release(0):
            self._sink.detain()
