"""What the bridge is subscribed to at NATS, counted by who holds it, and confirmed.

A :class:`Unit` is one NATS subscription. The first holder subscribes, the last one leaves after a
short linger, so that a reconnecting client finds its interest still there.
:meth:`Interests.confirm` answers when NATS has everything that was asked so far: one PING serves
all that wait.

Nothing here waits; time comes in through :meth:`Interests.tick`. A PONG may confirm hundreds of
clients at once: they are told a few per loop iteration, in their order, so that what each then does
does not hold up the events of all.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

from natsbridge.bridge.nats.ingest import Receive

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Waiters that are told in one loop iteration. A new client waits twice, for its user's interest
and for its first subscription, and an iteration accepts four: with only twice four, a crowd that
has come together once would never be done, and everybody behind it would wait."""

SLICE: Final = 1024
"""Units that are asked for at once."""

GATHER: Final = 0.002
"""Seconds from one PING to the next at the least. The first of a crowd is asked for at once; what
comes with it shares the next PING. Each of them wakes the server and the bridge once more."""

Confirmed = Callable[[bool], None]
"""Called once: True when NATS has the interest, False when that took too long."""


class Wire(Protocol):
    """What the interests need of the connection."""

    @property
    def is_up(self) -> bool: ...

    def write(self, operations: bytes) -> None: ...

    def ping(self, operations: bytes, latch: _Batch) -> None: ...


class Unit:
    """One NATS subscription.

    ``lingers_until`` is set while nobody holds it. ``asked`` is set while it waits for its PONG,
    ``had`` once NATS has had it, ``denied`` when NATS refused it since it was asked for.
    """

    __slots__ = ("asked", "denied", "had", "holders", "lasting", "lingers_until", "sid", "subject")

    def __init__(self, sid: bytes, subject: str, *, lasting: bool) -> None:
        self.sid: Final = sid
        self.subject: Final = subject
        self.lasting: Final = lasting
        self.holders = 0
        self.asked = self.had = self.denied = False
        self.lingers_until: float | None = None


class _Batch:
    """Units and waiters that one PING confirms; a latch in nats-py's list of PONGs."""

    __slots__ = ("_arrived", "units", "waiters")

    def __init__(self, arrived: Callable[[_Batch], None]) -> None:
        self._arrived = arrived
        self.units: list[Unit] = []
        self.waiters: deque[tuple[float, Confirmed, int]] = deque()
        """Until when each waits, whom to tell, and for how many of the units."""

    def done(self) -> bool:
        return False

    def set_result(self, _: bool, /) -> None:
        self._arrived(self)


class Interests:
    """The units of one connection."""

    def __init__(
        self,
        wire: Wire,
        receivers: dict[bytes, Receive],
        *,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        linger: float,
        patience: float,
    ) -> None:
        """``receivers`` is what the ingest looks up, kept by this object alone.

        ``linger`` and ``patience`` (the longest a confirmation may take) are seconds.
        """
        self._wire: Final = wire
        self._receivers: Final = receivers
        self._clock: Final = clock
        self._call_soon: Final = call_soon
        self._call_later: Final = call_later
        self._linger: Final = linger
        self._patience: Final = patience
        self._units: Final[dict[bytes, Unit]] = {}
        self._by_subject: Final[dict[str, Unit]] = {}
        self._lingering: Final[dict[bytes, Unit]] = {}
        self._next_sid = 1
        self._asked = _Batch(self._on_pong)
        self._sent: Final[deque[_Batch]] = deque()
        self._scheduled = False
        self._asked_at = -GATHER
        self._answered: Final[deque[tuple[Confirmed, bool]]] = deque()
        self._lasting: Final[list[Unit]] = []
        self._refused: list[Unit] = []
        self.on_refused: Callable[[str], None] = lambda subject: None
        """Told a subject that NATS had and refuses now: whoever holds it gets nothing any more."""
        self._telling = 0
        """How many of them are told by callbacks that are under way."""

    def __len__(self) -> int:
        return len(self._units)

    @property
    def subjects(self) -> tuple[str, ...]:
        """What NATS has been asked for, in the order of asking."""
        return tuple(self._by_subject)

    @property
    def is_behind(self) -> bool:
        """Whether NATS still has to be asked for many: who comes now would wait behind them."""
        return self._wire.is_up and len(self._asked.units) > 2 * SLICE

    @property
    def missing(self) -> str:
        """What every client needs and NATS does not give, in words; empty where that is nothing."""
        return ", ".join(unit.subject for unit in self._lasting if not unit.had)

    def hold(self, subject: str, receive: Receive, *, lasting: bool = False) -> Unit:
        """Return the unit of this subject with one more holder; subscribe if it is the first.

        Holders of one subject share one ``receive``: that of the newest. A ``lasting`` one is asked
        for again and again where NATS refuses it.
        """
        unit = self._by_subject.get(subject)
        if unit is None:
            unit = Unit(b"i%d" % self._next_sid, subject, lasting=lasting)
            self._next_sid += 1
            self._units[unit.sid] = self._by_subject[subject] = unit
            if lasting:
                self._lasting.append(unit)
            self._asked.units.append(unit)
            self._schedule()
        elif unit.lingers_until is not None:
            unit.lingers_until = None
            del self._lingering[unit.sid]
        unit.holders += 1
        self._receivers[unit.sid] = receive
        return unit

    def release(self, unit: Unit) -> None:
        """Give one hold back; without holders the unit goes after the linger."""
        unit.holders -= 1
        if unit.holders == 0 and unit.sid in self._units:
            unit.lingers_until = self._clock() + self._linger
            self._lingering[unit.sid] = unit

    def drop(self, units: Iterable[Unit]) -> None:
        """Leave these units now: nothing that comes in on them is handed on any more."""
        gone = [unit for unit in units if unit.sid in self._units]
        for unit in gone:
            self._forget(unit)
        if gone:
            self._wire.write(b"".join(b"UNSUB %s\r\n" % unit.sid for unit in gone))

    def confirm(self, confirmed: Confirmed) -> None:
        """Call back when NATS has every unit held so far; at once if it has them already, and
        nobody who asked before is still to be told.
        """
        if self._wire.is_up and not self._asked.units:
            if not self._sent:
                if self._answered:
                    self._answered.append((confirmed, True))
                else:
                    confirmed(True)
                return
            batch = self._sent[-1]
        else:
            batch = self._asked
            self._schedule()
        batch.waiters.append((self._clock() + self._patience, confirmed, len(batch.units)))

    def on_denied(self, subject: str) -> None:
        """NATS refuses this subscription: whoever waits for it is told, and it is asked anew when
        somebody holds it anew.

        The refusal comes before the PONG of the same batch, so the others of that batch, who wait
        for the same PONG, are told False as well. Permissions can also be taken away at any time;
        then there is no PONG to come.
        """
        unit = self._by_subject.get(subject)
        if unit is not None:
            unit.denied = True
            if unit.had and not unit.asked:
                self._refuse(unit)

    def tick(self) -> None:
        """Let go of what lingered long enough, and tell those who waited too long."""
        now = self._clock()
        self.drop(
            [
                unit
                for unit in self._lingering.values()
                if unit.lingers_until is not None and unit.lingers_until <= now
            ]
        )
        for batch in (*self._sent, self._asked):
            while batch.waiters and batch.waiters[0][0] <= now:
                self._answered.append((batch.waiters.popleft()[1], False))
        self._tell_first()
        if self._refused:
            again, self._refused = self._refused, []
            self._asked.units += again
            self._schedule()

    def on_down(self) -> None:
        """The connection is gone: the PINGs on their way are lost, and with them their answers."""
        waiters = [waiter for batch in self._sent for waiter in batch.waiters]
        self._sent.clear()
        waiters += self._asked.waiters
        self._asked = _Batch(self._on_pong)
        # Each waits for all that will be asked for again.
        self._asked.waiters.extend((until, told, sys.maxsize) for until, told, _ in waiters)

    def on_up(self) -> None:
        """The connection is back: ask for everything again, and confirm it."""
        self._asked.units = list(self._units.values())
        self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        early = self._asked_at + GATHER - self._clock()
        if early > 0:
            self._call_later(early, self._ask)
        else:
            self._call_soon(self._ask)

    def _ask(self) -> None:
        self._scheduled = False
        if not self._wire.is_up or self._sent:
            # One PING at a time: what is asked for until its PONG comes goes out together, so a
            # storm of connects costs few of them.
            return
        batch, self._asked = self._asked, _Batch(self._on_pong)
        if len(batch.units) > SLICE:
            self._split(batch)
        batch.units = [unit for unit in batch.units if unit.sid in self._units]
        if not batch.units and not batch.waiters:
            return
        for unit in batch.units:
            unit.asked, unit.denied = True, False
        self._sent.append(batch)
        self._asked_at = self._clock()
        self._wire.ping(
            b"".join(b"SUB %s  %s\r\n" % (unit.subject.encode(), unit.sid) for unit in batch.units),
            batch,
        )

    def _split(self, batch: _Batch) -> None:
        # Thousands would keep the loop busy, and NATS: who waits for the first is told first.
        rest = self._asked
        rest.units, batch.units = batch.units[SLICE:], batch.units[:SLICE]
        waiters, batch.waiters = batch.waiters, deque()
        for until, confirmed, count in waiters:
            if count <= SLICE:
                batch.waiters.append((until, confirmed, count))
            else:
                rest.waiters.append((until, confirmed, count - SLICE))

    def _on_pong(self, batch: _Batch) -> None:
        if not self._sent or self._sent[0] is not batch:
            return  # of a connection that is gone
        self._sent.popleft()
        if self._asked.units or self._asked.waiters:
            self._schedule()
        for unit in batch.units:
            unit.asked, unit.had = False, unit.had or not unit.denied
        denied = [unit for unit in batch.units if unit.denied and unit.sid in self._units]
        for unit in denied:
            self._refuse(unit)
        self._answered.extend((confirmed, not denied) for _, confirmed, _ in batch.waiters)
        self._tell_first()

    def _refuse(self, unit: Unit) -> None:
        if unit.lasting:
            self._refused.append(unit)
        else:
            self._forget(unit)
        if unit.had:
            unit.had = False
            log.error("NATS refuses %s, which it had accepted", unit.subject)
            self._call_soon(partial(self.on_refused, unit.subject))

    def _tell_first(self) -> None:
        # A client that comes alone does not wait for the next iteration.
        if self._answered and not self._telling:
            self._telling = 1
            self._tell_next()

    def _tell_on(self) -> None:
        # Each in a callback of its own: the loop reads events from NATS between them.
        while self._telling < min(AT_ONCE, len(self._answered)):
            self._telling += 1
            self._call_soon(self._tell_next)

    def _tell_next(self) -> None:
        self._telling -= 1
        _tell(*self._answered.popleft())
        self._tell_on()

    def _forget(self, unit: Unit) -> None:
        self._lingering.pop(unit.sid, None)
        self._receivers.pop(unit.sid, None)
        if self._units.pop(unit.sid, None) is not None:
            del self._by_subject[unit.subject]


def _tell(confirmed: Confirmed, done: bool) -> None:
    try:
        confirmed(done)
    except Exception:
        # One waiter's fault must not reach the next, nor the read that a PONG came with.
        log.exception("a confirmed interest could not be handled")
