"""What "nothing is lost" means, event by event.

A publisher's side writes each acknowledged event into a :class:`Ledger`; a client's side writes
down what it received and what it was told to be missing, in order, as an :class:`Account`.
:func:`audit` compares the two: received and told missing together are exactly what was
acknowledged, nothing twice, in the order of the stream.

One stream is taken for granted: a test that replaces it looks at the messages itself.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from natsbridge.schemas.subjects import Address, Audience
from tests.support.bus import CATALOGUE

SHOWN: Final = 5
SHOWN_CLIENTS: Final = 10
"""How many ids of each kind of fault a report names, and how many clients."""


def sequences_of(cursor: str) -> tuple[int, ...]:
    """Return the stream sequences in a cursor, which tests may read and clients must not.

    The first one is where the client stands; a second one says how far it has what comes by itself.
    """
    return tuple(map(int, cursor.split("-")[1:]))


def sequence_of(cursor: str) -> int:
    """Return where in the stream a cursor stands."""
    return sequences_of(cursor)[0]


@dataclass(frozen=True, slots=True)
class Event:
    """One event that the stream has acknowledged, and when, by the monotonic clock."""

    id: str
    sequence: int
    address: Address
    at: float = 0.0


class Ledger:
    """All events that were acknowledged."""

    def __init__(self) -> None:
        self._by_id: dict[str, Event] = {}
        self._in_order: list[Event] = []

    def acknowledge(self, event_id: str, sequence: int, address: Address) -> Event:
        """Write down an acknowledgement; a second one of the same event must agree."""
        event = Event(event_id, sequence, address, time.monotonic())
        known = self._by_id.setdefault(event_id, event)
        assert known.sequence == sequence, (
            f"{event_id} was acknowledged as {known.sequence} and as {sequence}"
        )
        return known

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, event_id: str) -> Event | None:
        """Return the event of this id, None while it is not acknowledged."""
        return self._by_id.get(event_id)

    @property
    def events(self) -> list[Event]:
        """All events in the order of the stream."""
        if len(self._in_order) != len(self._by_id):
            self._in_order = sorted(self._by_id.values(), key=lambda event: event.sequence)
        return self._in_order

    @property
    def last_sequence(self) -> int:
        """The highest sequence that was acknowledged, 0 for none."""
        return self.events[-1].sequence if self._by_id else 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A durable event as it arrived, with the sequences in its cursor, one of which is its own.

    ``late``: it came while older events of a subscription were sent after the newer ones that came
    by themselves. Only then may an event be older than one before it.
    """

    id: str
    sequences: tuple[int, ...]
    late: bool = False


@dataclass(frozen=True, slots=True)
class Unmarked:
    """A durable event that came without a cursor."""

    id: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A range that the bridge says can't be had: after one sequence, up to and with another.

    ``by_itself`` is None where it is meant of all events, else of those that come by themselves, or
    of those that were subscribed to.
    """

    after: int
    to: int
    by_itself: bool | None = None


@dataclass
class Account:
    """What one client is entitled to, from where on, and what became of it."""

    name: str
    wants: Callable[[Address], bool]
    direct: bool = True
    """Whether events to the user and to everybody come without being subscribed to."""
    start: int | None = None
    """What comes after this sequence is the client's due; None until it has subscribed."""
    entries: list[Seen | Unmarked | Missing] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    """Of all events that came."""
    missing: list[Missing] = field(default_factory=list)
    """What was told missing."""
    stepped_back: list[str] = field(default_factory=list)
    """Cursors behind an earlier one of the same connection: who resumes there gets doubles."""
    _late: bool = False
    _cursor: str | None = None
    _open: list[tuple[int, bool]] = field(default_factory=list)
    """After which sequence JetStream could not be read, and whether for what comes by itself: that
    ends where the next event is.
    """

    def note(self, message: dict[str, Any]) -> None:
        """Write down a message of the bridge, if it says something about durable events."""
        data = message["data"]
        match message["type"]:
            case "connection.established":
                self._late = False
                self._cursor = None
                self._open.clear()  # the client asks for it again
            case "subscription.acknowledged":
                self._late = "cursor" not in data
            case "resume.completed" if "reply_to" in message:
                self._late = False
        if (cursor := message.get("cursor") or data.get("cursor")) is not None:
            self._moves(cursor)
        match message["type"]:
            case "resume.completed" if data.get("missing"):
                self._missing(data["missing"])
            case "gap" if not data["recoverable"] and data["to"] is not None:
                self._missing(data)
            case "resume.completed" if data.get("reason") == "UNAVAILABLE" and self._cursor:
                stands = sequences_of(self._cursor)
                by_itself = "reply_to" not in message
                self._open.append((stands[-1] if by_itself else stands[0], by_itself))
            case _ if "cursor" in message:
                self.ids.add(message["id"])
                sequences = sequences_of(message["cursor"])
                for after, by_itself in self._open:
                    self.missing.append(Missing(after, max(sequences) - 1, by_itself))
                    self.entries.append(self.missing[-1])
                self._open.clear()
                self.entries.append(Seen(message["id"], sequences, self._late))
            case kind if (known := CATALOGUE.get(kind)) is not None and known.traits.durable:
                self.entries.append(Unmarked(message["id"]))

    def _moves(self, cursor: str) -> None:
        """Note where the client stands now, which is never behind where it stood."""
        before, self._cursor = self._cursor, cursor
        if before is None or before.split("-")[0] != cursor.split("-")[0]:
            return
        then, now = sequences_of(before), sequences_of(cursor)
        if now[0] < then[0] or max(now) < max(then):
            self.stepped_back.append(f"{cursor} after {before}")

    def _missing(self, bounds: dict[str, str]) -> None:
        self.missing.append(Missing(sequence_of(bounds["from"]), sequence_of(bounds["to"])))
        self.entries.append(self.missing[-1])

    @property
    def seen(self) -> list[Seen]:
        """The events alone."""
        return [entry for entry in self.entries if isinstance(entry, Seen)]

    def has(self, event: Event) -> bool:
        """Whether the event came, or was told to be missing."""
        return event.id in self.ids or self.was_told(event)

    def was_told(self, event: Event) -> bool:
        """Whether the event is in a range that was told to be missing."""
        lane = self.by_itself(event)
        return any(
            each.after < event.sequence <= each.to and each.by_itself in (None, lane)
            for each in self.missing
        )

    def by_itself(self, event: Event) -> bool:
        """Whether the event comes without a subscription."""
        return self.direct and event.address.audience is not Audience.TOPIC

    def due(self, ledger: Ledger) -> list[Event]:
        """The events that it must have, or be told of, in order."""
        if self.start is None:
            return []
        events = ledger.events
        first = bisect_right(events, self.start, key=lambda event: event.sequence)
        return [event for event in events[first:] if self.wants(event.address)]


@dataclass
class Audit:
    """What is wrong with one account, each list in order of appearance; empty ones are good."""

    name: str
    received: int = 0
    told: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    """Told to be missing, and received all the same."""
    renumbered: list[str] = field(default_factory=list)
    """With another sequence in the cursor than the stream acknowledged."""
    unmarked: list[str] = field(default_factory=list)
    """Without a cursor: events, or the answer to the first subscription."""
    stepped_back: list[str] = field(default_factory=list)
    """Cursors that go back: a client that resumes there gets events twice."""
    foreign: list[str] = field(default_factory=list)
    """Nobody's acknowledged event, or one that is not for this client."""

    @property
    def faults(self) -> dict[str, list[str]]:
        """The lists that are not empty, by name."""
        lists = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: found for name, found in lists.items() if isinstance(found, list) and found}

    def __str__(self) -> str:
        words = [f"{self.name}: {self.received} received, {self.told} told missing"]
        for kind, found in self.faults.items():
            shown = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
            words.append(f"  {kind} {len(found)}: {shown}")
        return "\n".join(words)


def audit(account: Account, ledger: Ledger) -> Audit:
    """Compare what a client was due with what it got."""
    result = Audit(account.name, stepped_back=account.stepped_back)
    due = account.due(ledger)
    if account.start is None:
        result.unmarked.append("the subscription")
    result.unmarked += [entry.id for entry in account.entries if isinstance(entry, Unmarked)]
    seen: set[str] = set()
    # The newest of each lane: what comes by itself (True), and what was subscribed to.
    highest = {True: 0, False: 0}
    for entry in account.seen:
        event = ledger.get(entry.id)
        where = f"{entry.id} at {'-'.join(map(str, entry.sequences))}"
        if event is None or not account.wants(event.address):
            result.foreign.append(where)
            continue
        if event.sequence not in entry.sequences:
            result.renumbered.append(f"{where}, acknowledged as {event.sequence}")
        lane = account.by_itself(event)
        lanes = (lane,) if entry.late else (True, False)
        before = max(highest[each] for each in lanes)
        if entry.id in seen:
            result.doubled.append(where)
        elif event.sequence <= before:
            result.disordered.append(f"{where} after {before}")
        seen.add(entry.id)
        highest[lane] = max(highest[lane], event.sequence)
    result.received = len(seen)
    for event in due:
        told = account.was_told(event)
        where = f"{event.id} at {event.sequence} ({event.address.event_type})"
        if told and event.id in seen:
            result.contradicted.append(where)
        elif told:
            result.told += 1
        elif event.id not in seen:
            result.lost.append(where)
    return result


def check(accounts: Iterable[Account], ledger: Ledger) -> list[Audit]:
    """Audit all accounts; fail with every fault that was found."""
    audits = [audit(account, ledger) for account in accounts]
    wrong = [str(each) for each in audits if each.faults]
    more = f"\nand {len(wrong) - SHOWN_CLIENTS} more clients" if len(wrong) > SHOWN_CLIENTS else ""
    told = "\n".join(wrong[:SHOWN_CLIENTS]) + more
    assert not wrong, f"of {len(ledger)} acknowledged events:\n{told}"
    return audits
