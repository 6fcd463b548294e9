"""Stored events for one session: what it missed, or the last ones that a newcomer wants to see.

One replay reads, from the stream, everything that the session is to have after where it stands, in
the stream's order, while durable events that come in wait in its backlog; then it goes on live
without a hole or a double. New orders join a replay that is running. How much of the process all
replays may take together is bounded: :class:`Turns`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import TYPE_CHECKING, Final

from bridge.broker.history import Stored
from bridge.broker.merge import Merge
from bridge.broker.streams import Head
from bridge.delivery.backlog import Backlog
from bridge.errors import BrokerUnavailable
from bridge.sessions.orders import DIRECT, Key, Order, begin_last
from schemas import codes
from schemas.codes import GapReason, ResumeReason
from schemas.cursors import Cursor
from schemas.errors import CursorError
from schemas.patterns import ANY
from schemas.replies import Missing, ResumeCompleted, ResumeData
from schemas.subjects import Address, Audience, Root

if TYPE_CHECKING:
    from bridge.sessions.session import Session

log = logging.getLogger(__name__)

SLICE: Final = 32
"""Messages that are written in one loop iteration, for all replays together."""
SLICE_BYTES: Final = 128 * 1024
"""Bytes of them after which no further one is written."""
TURN: Final = 1.0
"""Seconds after which a replay lets others go on."""
MAX_SUBJECTS: Final = 12
"""Subjects that are read beside each other; with more, wider ones are read and sifted."""
TRIES: Final = 3
"""How often reading is begun anew when the stream lets go of what is being read."""
PATIENCE: Final = 5.0
"""Seconds that JetStream may be away before a replay is given up."""


class Turns:
    """How many sessions read at once, and that they write one after the other."""

    def __init__(self, most: int = 16) -> None:
        self.reading: Final = asyncio.Semaphore(most)
        self.writing: Final = asyncio.Lock()
        self.waiting = 0
        """Replays that are not through yet."""


class Replay:
    """The replay of one session, from its first order until it is live."""

    def __init__(self, session: Session, backlog: Backlog, reached: int) -> None:
        """``reached`` is the sequence up to which the session has had everything it was to have."""
        self._session: Final = session
        self._backlog: Final = backlog
        self._orders: Final[list[Order]] = []
        self._expected = 0
        self._ordered: Final = asyncio.Event()
        self._reached = reached
        self._behind: Final[dict[Key, int]] = {}
        self._known: Final[set[Key]] = {DIRECT, *session.wishes.keys}
        self._stream = session.env.hub.order.identity
        self._written = 0
        self._passes = 0
        self._task: asyncio.Task[None] | None = None
        self._over = False
        backlog.begin()

    def expect(self) -> None:
        """An order will come: until it has, the session does not go on live."""
        self._expected += 1
        self._ordered.clear()

    def order(self, order: Order) -> None:
        """Replay this too; each order was announced by :meth:`expect`."""
        if self._over or (self._task is not None and self._session.replay is not self):
            order.reason = ResumeReason.UNAVAILABLE  # given up meanwhile
            self._say(order, None, None)
            return
        self._orders.append(order)
        self._expected -= 1
        if not self._expected:
            self._ordered.set()
        if self._task is None:
            self._session.env.turns.waiting += 1
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._done)

    def inherit(self, keys: frozenset[Key], before: frozenset[Key]) -> frozenset[Key]:
        """Return which of these keys bring something new; ``before`` is what was wanted until now.

        A resource that is wanted by itself now, after all of its type were, goes on where those
        are. One that was wanted by itself, before all of its type are, keeps where it is.
        """
        wanted, known = self._session.wishes.keys, self._known
        # What was written so far counts for each by itself from here on.
        self._behind.update({key: self._after(key) for key in known})
        self._reached, self._written = max(self._reached, self._written), 0
        new = set()
        for key in keys:
            wide = (key[0], ANY)
            if key != wide and wide in before:
                if key not in known and wide in known:
                    known.add(key)
                    self._behind[key] = self._behind[wide]
                continue  # or the order of all of its type, still to be placed, takes it in
            known.discard(key)
            new.add(key)
        for key in [each for each in known if each != DIRECT]:
            if key not in wanted and (key[0], ANY) not in wanted:
                known.discard(key)
                self._behind.pop(key, None)
        return frozenset(new)

    def reread(self) -> None:
        """What waits may not be wanted or permitted any more: read it from the stream, and sift."""
        self._backlog.begin()
        self._backlog.overran = True

    def stop(self) -> None:
        """The session is over."""
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled holds its frames, and with them this object.
        self._task, self._over = None, True
        self._session.env.turns.waiting -= 1
        if not task.cancelled() and task.exception() is not None:
            log.error("a replay failed", exc_info=task.exception())
            self._session.close(codes.INTERNAL_ERROR)

    async def _run(self) -> None:
        backlog = self._backlog
        while True:
            orders, self._orders[:] = list(self._orders), []
            try:
                # What was asked for counts first, then what makes up for a slow client.
                upto = await self._patiently(sorted(orders, key=lambda each: each.keys is None))
            except BrokerUnavailable as problem:
                log.warning("a replay is given up: %s", problem)
                self._give_up([*orders, *self._orders])
                return
            self._reached, self._written = upto, 0
            self._passes += 1
            self._behind.clear()
            self._known.difference_update(
                [key for key in self._known if key[1] != ANY and (key[0], ANY) in self._known]
            )
            for order in orders:
                self._complete(order, upto)
            await self._ordered.wait()
            if not self._orders and backlog.finish(upto):
                self._session.replay = None
                return
            # What waited did not fit, or more was ordered: both are in the stream.
            backlog.begin()

    async def _patiently(self, orders: list[Order]) -> int:
        loop = asyncio.get_running_loop()
        gives_up, written = math.inf, -1
        while True:
            try:
                return await self._pass(orders)
            except BrokerUnavailable:
                if written != self._written:
                    gives_up, written = loop.time() + PATIENCE, self._written
                elif loop.time() >= gives_up:
                    raise
                await asyncio.sleep(0.2 + random.random() / 2)  # noqa: S311  # a jitter

    async def _pass(self, orders: list[Order]) -> int:
        """Send everything up to the stream's end as it is now; returns that."""
        while True:
            if self._backlog.blocked:
                await self._unblocked()
            await self._session.env.continuity.look()  # nobody waits in line to find it away
            async with self._session.env.turns.reading:
                through = await self._turn(orders)
            if through is not None:
                return through

    async def _turn(self, orders: list[Order]) -> int | None:
        """Read and write for a while; returns the stream's end when all up to it was written."""
        env = self._session.env
        head = await env.continuity.look()
        if self._stream != env.hub.order.identity:
            self._begin_stream(env.hub.order.identity, env.hub.order.position)
        for order in orders:
            await self._place(order, head)
        lowest = self._lowest()
        if head.first > lowest + 1:
            if self._written or self._passes:  # else each order has told it
                self._miss(orders, lowest, head.first - 1)
            lowest = head.first - 1
        reader = await env.recent.reader(head.identity, lowest, head.last)
        merge = Merge(reader, self._subjects(), head.last)
        for tries in range(TRIES):
            await merge.fill()
            now = await env.continuity.look()
            if now.first <= lowest + 1:
                break
            # The stream let go of some while they were being read.
            self._miss(orders, lowest, min(now.first - 1, head.last))
            lowest = now.first - 1
            if tries < TRIES - 1:
                merge.restart()
        later = await self._write_all(merge, orders)
        if later is not None:
            now = await env.continuity.look()
            if now.first > later + 1:
                self._miss(orders, later, min(now.first - 1, head.last))
        if now.identity != head.identity:
            raise BrokerUnavailable("the stream was made anew meanwhile")
        return head.last if merge.is_through else None

    async def _write_all(self, merge: Merge, orders: list[Order]) -> int | None:
        """Write until all is through, the client can't take more, or the turn is over.

        Returns after which sequence more had to be read for that; None where nothing had.
        """
        loop = asyncio.get_running_loop()
        ends, later = loop.time() + TURN, None
        while not merge.is_through:
            if merge.is_dry:
                later = self._written if later is None else later
                await merge.fill()
                continue
            async with self._session.env.turns.writing:
                if not self._backlog.blocked:  # since it was looked at
                    self._write(merge, orders)
                await asyncio.sleep(0)
            if self._backlog.blocked or loop.time() >= ends:
                break
        return later

    def _write(self, merge: Merge, orders: list[Order]) -> None:
        """Write what comes next, a slice of it at the most."""
        frames: list[bytes] = []
        room = SLICE_BYTES
        for _ in range(SLICE):
            stored = merge.take() if room > 0 else None
            if stored is None:
                break
            room -= len(stored.payload)
            frame = self._frame(stored, orders)
            if frame is not None:
                frames.append(frame)
            self._written = stored.sequence
        if frames:
            self._session.outbox.write(b"".join(frames))

    def _begin_stream(self, identity: bytes, position: int) -> None:
        # Clients were told; what they are at in the old stream says nothing about this one.
        self._stream = identity
        self._reached, self._written = position, 0
        self._behind.clear()

    def _lowest(self) -> int:
        return max(self._written, min((self._reached, *self._behind.values())))

    def _miss(self, orders: list[Order], after: int, upto: int) -> None:
        for order in orders:
            order.miss(after, upto)
        if all(order.quiet for order in orders):
            self._session.tell_gap(after, upto, GapReason.RETENTION)

    async def _unblocked(self) -> None:
        unblocked = asyncio.Event()
        self._backlog.on_unblocked = unblocked.set
        await unblocked.wait()  # or the session is closed for its stall, which cancels this

    # Where orders begin.

    async def _place(self, order: Order, head: Head) -> None:
        if order.placed == head.identity:
            return  # in a try before this one
        order.reason = order.missing = None
        await self._place_anew(order, head)
        order.placed = head.identity

    async def _place_anew(self, order: Order, head: Head) -> None:
        begins = direct = order.begins or self._reached
        keys = order.keys or frozenset()
        if keys:
            wanted = self._session.wishes.keys
            # As it is wanted now: all of a type may have become single resources, or nothing.
            keys = order.keys = frozenset(
                [key for key in keys if key == DIRECT or key in wanted or (key[0], ANY) in wanted]
                + [key for key in wanted if (key[0], ANY) in keys]
            )
        placed = frozenset(self._known)
        self._known.update(keys)
        if keys and DIRECT not in keys:
            self._backlog.topics_at = None  # what is replayed from here on says where they are
        if order.last:
            counted = keys
            if len(keys) > MAX_SUBJECTS:  # a few questions for all: counts other resources too
                counted = frozenset((event_type, ANY) for event_type, _ in keys)
            subjects = [each for key in counted for each in self._key_subjects(*key)]
            begins, order.skip = await begin_last(
                self._session.env.history, subjects, order.last, head
            )
        elif order.cursor is not None:
            try:
                cursor = Cursor.parse(order.cursor)
            except CursorError:
                order.reason = ResumeReason.CURSOR_MALFORMED
                return
            if cursor.stream != head.identity:
                order.reason = ResumeReason.STREAM_REPLACED
                return
            if cursor.direct > head.last:
                order.reason = ResumeReason.CURSOR_AHEAD
                return
            begins, direct = cursor.position, cursor.direct
        for key in keys:
            if not order.begins or key not in placed:  # else an order before this one had it
                self._behind[key] = direct if key == DIRECT else begins
        if order.last or order.begins:
            return
        if order.cursor is not None and DIRECT in keys:
            self._backlog.topics_at = begins
        lowest = min((self._behind[key] for key in keys), default=self._reached)
        if head.first > lowest + 1:
            order.miss(lowest, head.first - 1)
        elif await self._session.env.stream.thinned(lowest, head.last):
            order.miss(lowest, head.last)

    # Reading and writing.

    def _after(self, key: Key) -> int:
        return max(self._written, self._behind.get(key, self._reached))

    def _subjects(self) -> dict[str, int]:
        """Return what to read, and after which sequence."""
        session = self._session
        assert session.identity is not None
        root = session.env.subjects.root(Root.EVENTS)
        found: dict[str, int] = {}
        known, wanted = self._known, session.wishes.keys
        lowest: dict[Key, int] = {}
        for key in known - {DIRECT}:
            wide = (key[0], ANY)
            read = wide if wide in known and wide in wanted else key
            if read in wanted or wide in wanted:
                lowest[read] = min(self._after(key), lowest.get(read, self._after(key)))
        if session.intro.direct:
            direct: int | None = self._after(DIRECT)
        else:
            direct = min(lowest.values(), default=None)
        if direct is not None:
            found[f"{root}.user.{session.identity.user}.>"] = direct
            found[f"{root}.all.>"] = direct
        if len(lowest) <= MAX_SUBJECTS:
            return found | {self._topic_subject(*key): after for key, after in lowest.items()}
        if len({event_type for event_type, _ in lowest}) > MAX_SUBJECTS:
            return found | {f"{root}.topic.>": min(lowest.values())}
        for (event_type, _), after in lowest.items():
            subject = self._topic_subject(event_type, ANY)
            found[subject] = min(after, found.get(subject, after))
        return found

    def _topic_subject(self, event_type: str, resource: str) -> str:
        return self._session.env.subjects.event(
            Root.EVENTS, Address(Audience.TOPIC, event_type, resource)
        )

    def _key_subjects(self, event_type: str, resource: str) -> list[str]:
        """Return every subject whose events come by this key."""
        session = self._session
        found = [self._topic_subject(event_type, resource)]
        if not session.intro.direct and session.identity is not None:
            user = session.identity.user
            found += [
                session.env.subjects.event(
                    Root.EVENTS, Address(audience, event_type, resource, user)
                )
                for audience in (Audience.USER, Audience.ALL)
            ]
        return found

    def _frame(self, stored: Stored, orders: list[Order]) -> bytes | None:
        """Return the frame of a stored event, or None where this session is not to have it."""
        session, sequence = self._session, stored.sequence
        cursor = str(self._cursor(sequence)).encode()
        found = session.env.hub.recall(stored.subject, stored.payload, cursor)
        if found is None:
            return None
        audience, kind, resource, frame = found
        key: Key | None
        if audience is Audience.TOPIC or not session.intro.direct:
            key = session.wishes.key_of(kind.name, resource)
        else:
            permits = session.outbox.permits
            key = DIRECT if permits is None or permits(kind.name, resource) else None
        exact = (kind.name, resource)
        spot = exact if key not in (None, DIRECT) and exact in self._known else key
        if spot not in self._known or sequence <= self._behind.get(spot, self._reached):
            return None
        for order in orders:
            if order.reason in (None, ResumeReason.CURSOR_TOO_OLD) and (
                order.keys is None or key in order.keys
            ):
                if order.skip:
                    order.skip -= 1
                    return None
                order.replayed += 1
                break
        return frame

    def _cursor(self, sequence: int) -> Cursor:
        """Return where the client stands once it has the event with this sequence."""
        topics_at = self._backlog.topics_at
        return Cursor(
            self._session.env.hub.order.identity.decode(),
            sequence if topics_at is None else min(sequence, topics_at),
            max(sequence, self._behind.get(DIRECT, self._reached)),
        )

    # The end.

    def _complete(self, order: Order, upto: int) -> None:
        missing = None
        if order.missing is not None:
            after, last = map(self._session.env.hub.order.cursor, order.missing)
            missing = Missing(from_=after, to=last)
        self._say(order, str(self._cursor(upto)), missing)

    def _give_up(self, orders: list[Order]) -> None:
        for order in orders:
            if order.reason is not ResumeReason.CURSOR_MALFORMED:
                order.reason = ResumeReason.UNAVAILABLE
            self._say(order, None, None)
        # Live delivery goes on with what waited; what did not fit, or was to be read, is told.
        session, reached = self._session, max(self._reached, self._written)
        session.replay = None
        session.env.hub.flush.settle()
        incomplete = self._backlog.overran or self._passes
        first = self._backlog.give_up(reached)
        if incomplete and (first is None or first > reached + 1):
            upto = None if first is None else first - 1
            session.tell_gap(reached, upto, GapReason.UNAVAILABLE)

    def _say(self, order: Order, cursor: str | None, missing: Missing | None) -> None:
        if order.quiet:
            return
        self._session.say(
            ResumeCompleted(
                data=ResumeData(
                    recovered=order.reason is None,
                    replayed=order.replayed,
                    cursor=cursor,
                    reason=order.reason,
                    missing=missing,
                ),
                reply_to=order.reply_to,
            )
        )
