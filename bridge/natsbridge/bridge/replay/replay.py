"""Stored events for one session: what it missed, or the last ones that a newcomer wants to see.

One replay reads, from the stream, everything that the session is to have after where it stands, in
the stream's order, while durable events that come in wait in its backlog; then it goes on live
without a hole or a double. New orders join a replay that is running. How much of the process all
replays may take together is bounded: :mod:`natsbridge.bridge.replay.budget`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.delivery.hub import Recalled
from natsbridge.bridge.delivery.lost import Lost
from natsbridge.bridge.delivery.queue import Backlog
from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import Stored
from natsbridge.bridge.nats.stream import Head
from natsbridge.bridge.replay.merge import Merge
from natsbridge.bridge.replay.positions import DIRECT, Key, Positions, as_wanted
from natsbridge.bridge.replay.request import Order, place
from natsbridge.bridge.sessions.reading import open_merge
from natsbridge.schemas import codes
from natsbridge.schemas.codes import GapReason
from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.subjects import Audience

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.session import Session

log = logging.getLogger(__name__)

SLICE: Final = 32
"""Messages that are written in one loop iteration, for all replays together."""
SLICE_BYTES: Final = 128 * 1024
"""Bytes of them after which no further one is written."""
TURN: Final = 1.0
"""Seconds after which a replay lets others go on, should there be any."""
SHORT_TURN: Final = 0.1
"""The same while others wait."""
TRIES: Final = 3
"""How often reading is begun anew when the stream lets go of what is being read."""
PATIENCE: Final = 5.0
"""Seconds that JetStream may be away before a replay is given up."""


class Replay:
    """The replay of one session, from its first order until it is live."""

    def __init__(
        self, session: Session, backlog: Backlog, reached: int, *, heals: bool = False
    ) -> None:
        """``reached`` is the sequence up to which the session has had everything it was to have;
        ``heals``, that this was not all that came.
        """
        assert session.identity is not None
        self._session: Final = session
        self._user: Final = session.identity.user
        self._backlog: Final = backlog
        self.positions: Final = Positions(
            reached,
            session.wishes.keys,
            subjects=session.env.subjects,
            user=session.identity.user,
            direct=session.intro.direct,
        )
        self._orders: Final[list[Order]] = []
        self._at_hand: list[Order] = []
        """The orders of the pass that is under way."""
        self._expected: Final[list[Order]] = []
        self._ordered: Final = asyncio.Event()
        self._stream = session.env.hub.order.identity
        self._heals: Final = heals
        self._breaks = 0
        self._passes = 0
        self._gone = 0
        """Up to where it has been dealt with that the stream no longer holds everything."""
        self._unchecked: int | None = None
        """After which sequence something was read that the stream may have let go of before."""
        self._is_placed = False
        self._task: asyncio.Task[None] | None = None
        self._over = False
        backlog.begin()

    def expect(self, order: Order) -> None:
        """This will be ordered: until it is, the session does not go on live."""
        self._expected.append(order)
        self._ordered.clear()

    def order(self, order: Order) -> None:
        """Replay this too; an order that can't be given at once is announced before."""
        if order in self._expected:
            self._expected.remove(order)
        if self._over or (self._task is not None and self._session.replay is not self):
            self._fail(order)  # given up meanwhile
            return
        self._orders.append(order)
        if not self._expected:
            self._ordered.set()
        if self._task is None:
            self._session.env.turns.under_way.add(self)
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._done)

    def reread(self) -> None:
        """What waits may not be wanted or permitted any more: read it from the stream, and sift."""
        self._backlog.begin()
        self._backlog.overran = True

    def stop(self) -> None:
        """The session is over."""
        if self._task is not None:
            self._task.cancel()

    @property
    def needs(self) -> int:
        """The sequence behind which it may still have to read; -1 while that is to be found."""
        lowest = max(self._gone, self.positions.lowest)
        if self._is_placed:
            return lowest
        orders = (*self._at_hand, *self._orders)
        return min([lowest, *(order.known_begin for order in orders if order.keys)])

    def _done(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled holds its frames, and with them this object.
        self._task, self._over = None, True
        self._session.env.turns.under_way.discard(self)
        if not task.cancelled() and task.exception() is not None:
            log.error("a replay failed", exc_info=task.exception())
            self._session.close(codes.INTERNAL_ERROR)

    async def _run(self) -> None:
        backlog = self._backlog
        await self._ordered.wait()  # what is asked for together is in order together
        while True:
            orders = self._at_hand = list(self._orders)
            self._orders.clear()
            self._is_placed = False
            try:
                # What was asked for counts first, then what makes up for a slow client.
                upto = await self._patiently(sorted(orders, key=lambda each: each.keys is None))
            except BrokerUnavailable as problem:
                log.warning("a replay is given up: %s", problem)
                self._give_up([*orders, *self._orders])
                return
            if self._session.replay is not self:
                return  # stopped, and on Python 3.11 a wait may have lost that
            self.positions.reach(upto)
            self._passes += 1
            for order in orders:
                self._say(order, str(self._cursor(upto)))
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
                if self._session.env.is_away():
                    raise BrokerUnavailable(self._session.env.stream.problem)
                return await self._pass(orders)
            except BrokerUnavailable:
                if written != self.positions.written:
                    gives_up, written = loop.time() + PATIENCE, self.positions.written
                elif loop.time() >= gives_up:
                    raise
                if self._session.env.is_away():
                    raise
                await asyncio.sleep(0.2 + random.random() / 2)  # noqa: S311  # a jitter

    async def _pass(self, orders: list[Order]) -> int:
        """Send everything up to the stream's end as it is now; returns that."""
        while True:
            if self._backlog.blocked:
                await self._unblocked()
            await self._afford()
            # Nobody waits in line to find it away, nor holds up others for its replicas.
            self._breaks = self._session.env.continuity.breaks
            known = await self._session.env.continuity.settled()
            if all(order.last for order in orders) and self._stream.decode() == known.identity:
                # Counting back takes many requests, which are given out in turn, and no memory:
                # others need not wait for a turn of theirs meanwhile.
                for order in orders:
                    await self._place(order, replace(known, last=max(known.last, known.first - 1)))
            async with self._session.env.turns.reading.slot(self._user):
                through = await self._turn(orders, known)
            if through is not None:
                return through

    async def _turn(self, orders: list[Order], known: Head) -> int | None:
        """Read and write for a while; returns the stream's end when all up to it was written.

        That is where it ended when it was ``known``: what came since waits in the backlog.
        """
        env = self._session.env
        head = await env.continuity.look()
        if head.identity != known.identity:
            raise BrokerUnavailable("the stream was made anew meanwhile")
        head = replace(head, last=max(known.last, head.first - 1))
        if self._stream != env.hub.order.identity:
            # Clients were told; what they are at in the old stream says nothing about this one.
            self._stream = env.hub.order.identity
            self.positions.reach(env.hub.order.begun)
            self._gone, self._unchecked = 0, None
        goes_on = self._is_placed or self._passes > 0
        for order in orders:
            await self._place(order, head)
        self._is_placed = True
        self._check(orders, head)
        lowest = max(self._gone, self.positions.lowest)
        if head.first > lowest + 1:
            # Of what is new each order has told it just now.
            if goes_on or self._heals:
                self._miss(orders, lowest, head.first - 1)
            lowest = self._gone = head.first - 1
        self._same_connection()
        wishes, wanted = self._session.wishes, self._session.wishes.keys
        self.positions.unknown = wishes.unknown(env.stream.unknown_types)
        merge = await open_merge(env, self._user, self.positions, wanted, head, lowest)
        for tries in range(TRIES):
            await merge.fill()
            now = await env.continuity.look()
            if now.first <= lowest + 1 or lowest >= head.last:
                break
            # The stream let go of some while they were being read.
            self._miss(orders, lowest, min(now.first - 1, head.last))
            lowest = now.first - 1
            self._gone = min(lowest, head.last)
            if tries < TRIES - 1:
                merge.restart(lowest)
        await self._write_all(merge, orders)
        if self._unchecked is not None:
            now = await env.continuity.look()
        if now.identity != head.identity:
            raise BrokerUnavailable("the stream was made anew meanwhile")
        self._check(orders, replace(now, last=head.last))
        self._same_connection()
        # What passed by without being for this session is not looked at again.
        self.positions.written = max(self.positions.written, min(merge.reached, head.last))
        return head.last if merge.is_through else None

    async def _write_all(self, merge: Merge, orders: list[Order]) -> None:
        """Write until all is through, the client can't take more, or the turn is over."""
        env, time = self._session.env, asyncio.get_running_loop().time
        began = time()
        while not merge.is_through:
            if merge.is_dry:
                if self._unchecked is None:
                    self._unchecked = self.positions.lowest
                await merge.fill()
            if not merge.is_dry:
                async with env.turns.writing:
                    self._same_connection()
                    if not self._backlog.blocked:  # since it was looked at
                        self._write(merge, orders)
                    await asyncio.sleep(0)
            if self._backlog.blocked:
                break
            # What has been read is written in this turn: another one would read it again.
            turn = SHORT_TURN if env.turns.reading.is_wanted else TURN
            if merge.is_dry and (time() >= began + turn or env.reads.wait(self._user)):
                break

    def _write(self, merge: Merge, orders: list[Order]) -> None:
        """Write what comes next, a slice of it at the most."""
        frames: list[bytes] = []
        room, cursor = SLICE_BYTES, self._cursors()
        for _ in range(SLICE):
            stored = merge.take() if room > 0 else None
            if stored is None:
                break
            room -= len(stored.payload)
            frame = self._frame(stored, cursor(stored.sequence), orders)
            if frame is not None:
                frames.append(frame)
            self.positions.written = stored.sequence
        if frames:
            self._session.outbox.write(b"".join(frames))

    def _same_connection(self) -> None:
        """What is read on another one may come from a replica that is behind, see ``settled``."""
        if self._breaks != self._session.env.continuity.breaks:
            raise BrokerUnavailable("the connection to NATS is another one")

    def _check(self, orders: list[Order], head: Head) -> None:
        """Tell what the stream has let go of while it was read on."""
        after, self._unchecked = self._unchecked, None
        upto = min(head.first - 1, head.last)
        if after is not None and upto > max(after, self._gone):
            self._miss(orders, max(after, self._gone), upto)
            self._gone = upto

    def _miss(self, orders: list[Order], after: int, upto: int) -> None:
        for order in orders:
            order.miss(after, upto)
        if all(order.quiet for order in orders):
            self._session.tell_gap(after, upto, GapReason.RETENTION)

    async def _afford(self) -> None:
        """Wait while more was read for this user than it may have read in a while."""
        env = self._session.env
        if env.reads.wait(self._user):
            env.turns.under_way.discard(self)
            while wait := env.reads.wait(self._user):  # noqa: ASYNC110  # time alone gives it
                await asyncio.sleep(wait)
            env.turns.under_way.add(self)

    async def _unblocked(self) -> None:
        unblocked = asyncio.Event()
        self._backlog.on_unblocked = unblocked.set
        # However long that takes, nothing is kept for it.
        self._session.env.turns.under_way.discard(self)
        await unblocked.wait()  # or the session is closed for its stall, which cancels this
        self._session.env.turns.under_way.add(self)

    async def _place(self, order: Order, head: Head) -> None:
        if order.placed == head.identity:
            return  # in a try before this one
        if order.keys:
            order.keys = as_wanted(order.keys, self._session.wishes.keys)
        keys = order.keys or frozenset()
        if keys and DIRECT not in keys:
            self._backlog.topics_at = None  # what is replayed from here on says where they are
        session = self._session
        await place(order, self.positions, session.env, self._user, head, session.wishes.excluded)
        self._same_connection()
        if DIRECT in keys and order.cursor is not None and order.is_begun:
            self._backlog.topics_at = order.cursor.position
        order.placed = head.identity

    # One stored event.

    def _frame(self, stored: Stored, cursor: bytes, orders: list[Order]) -> bytes | None:
        """Return the frame of a stored event, or None where this session is not to have it."""
        session, sequence = self._session, stored.sequence
        found: Recalled | None
        recalled = stored.recalled
        if recalled is not None and recalled[0] == cursor:
            found = recalled[1]
        else:
            found = session.env.hub.recall(stored.subject, stored.payload, cursor, sequence)
            if found is None or found[0] is not Audience.USER:
                stored.recalled = (cursor, found)
        if found is None:
            return None
        audience, kind, resource, frame = found
        key: Key | None
        if audience is Audience.TOPIC or not session.intro.direct:
            key = session.wishes.key_of(kind.name, resource)
        else:
            permits = session.outbox.permits
            key = DIRECT if permits is None or permits(kind.name, resource) else None
        if key is None and isinstance(kind, Lost):
            unknown = self.positions.lacks_unknown(kind.name, sequence)
            return frame if unknown and session.wishes.names(kind.name, resource) else None
        if not self.positions.lacks(key, (kind.name, resource), sequence):
            return None
        for order in orders:
            if order.is_begun and (order.keys is None or key in order.keys):
                if order.skip:
                    order.skip -= 1
                    return None
                order.replayed += not isinstance(kind, Lost)
                break
        return frame

    def _cursors(self) -> Callable[[int], bytes]:
        """Return what gives the cursor of an event that is written now, by its sequence."""
        identity = self._session.env.hub.order.identity
        if self._cursor(sys.maxsize).position < sys.maxsize:
            return lambda sequence: str(self._cursor(sequence)).encode()
        direct = self.positions.after(DIRECT)

        def cursor(sequence: int) -> bytes:
            if sequence < direct:
                return str(self._cursor(sequence)).encode()
            return b"%b-%d" % (identity, sequence)

        return cursor

    def _cursor(self, sequence: int) -> Cursor:
        """Return where the client stands once it has the event with this sequence.

        It keeps the place of what the client has asked for and that is not begun.
        """
        identity, topics_at = self._session.env.hub.order.identity.decode(), self._backlog.topics_at
        places = [
            each.cursor.position
            for each in (*self._expected, *self._orders)
            if each.keys and each.cursor is not None and each.cursor.stream == identity
        ]
        if topics_at is not None:
            places.append(topics_at)
        direct = max(sequence, self.positions.after(DIRECT))
        return Cursor(identity, min([sequence, *places]), direct)

    # The end.

    def _give_up(self, orders: list[Order]) -> None:
        for order in orders:
            self._fail(order)
        # Live delivery goes on with what waited; what did not fit, or was to be read, is told.
        session, reached = self._session, max(self.positions.reached, self.positions.written)
        session.replay = None
        session.env.hub.flush.settle()
        incomplete = self._backlog.overran or self._passes
        first = self._backlog.give_up(reached)
        after = reached if self._unchecked is None else min(reached, self._unchecked)
        if incomplete and (first is None or first > after + 1):
            upto = None if first is None else first - 1
            session.tell_gap(after, upto, GapReason.UNAVAILABLE)

    def _fail(self, order: Order) -> None:
        order.fail()
        if order.keys and DIRECT not in order.keys:
            # What was to come of topics is told to be missing: their place is not kept for it, or
            # what comes live from here on would come again.
            self._backlog.topics_at = None
        self._say(order, None)

    def _say(self, order: Order, cursor: str | None) -> None:
        if not order.quiet:
            took = time.monotonic() - order.began
            env = self._session.env
            env.observer.resumed(order.trace, took, order.replayed, order.reason)
            self._session.say(order.answer(cursor, self._session.env.hub.order.cursor))
