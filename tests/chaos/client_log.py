"""What one client's log says: what it was entitled to and when, what came, what it was told.

Read message by message as it stands on the wire, with the contract in mind and nothing of the
bridge's code. Two views of an entitlement are kept. What is *due* is counted from the moment an
acknowledgement was read until something was given up; what *may* come counts from the moment it was
asked for until the bridge has acknowledged its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.chaos.records import Event, Grants, Record, Run
from tests.support.model import covers

STOP: Final = 4500
"""The first close code after which a client must not come back."""
AGAIN: Final = "again"
"""Stands for a ``subscribe`` that was refused for now, and that the client sends again."""


def sequence_in(cursor: str) -> int:
    """Return where in the stream a cursor stands at the least."""
    return int(cursor.split("-")[1])


def permits(grants: Grants, user: str, event: Event) -> bool:
    """Whether grants permit an event; a denial wins."""

    def some(patterns: Sequence[str]) -> bool:
        return any(
            covers(each.replace("{user_id}", user), event.type, event.resource) for each in patterns
        )

    return some(grants["allow"]) and not some(grants["deny"])


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a client was entitled to the same."""

    start: float
    user: str = ""
    held: frozenset[str] = frozenset()
    """Patterns whose acknowledgement was read."""
    given_up: frozenset[str] = frozenset()
    """Patterns that were unsubscribed from, and that a wider one may have lost with it."""
    grants: tuple[Grants, ...] = ()
    """All of them have to permit an event."""
    direct: bool = False
    breaks: bool = False
    """Nothing is owed of what was owed before: the client came back without a cursor."""

    def entitles(self, event: Event) -> bool:
        """Whether an event of this time has to come."""
        if event.audience == "user" and event.user != self.user:
            return False
        if not self.grants or not all(permits(each, self.user, event) for each in self.grants):
            return False
        if self.direct and event.audience != "topic":
            return True
        return _any_covers(self.held, event) and not _any_covers(self.given_up, event)


@dataclass(slots=True)
class Tell:
    """The bridge said that something is missing for good: after one sequence, up to another.

    Without ``to`` it reaches up to the next durable event, and over all that was sent before it.
    """

    at: float
    connection: int
    reason: str
    after: int
    to: int | None
    counted: bool
    """Whether the bridge named the range, so that it has to be right."""

    def has(self, event: Event) -> bool:
        """Whether an event is in the range."""
        if event.sequence is None or event.sequence <= self.after:
            return False
        if event.sent <= self.at:
            return not self.counted or self.to is None or event.sequence <= self.to
        return not self.counted and self.to is not None and event.sequence <= self.to


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that must not happen, seen in one client's log."""

    kind: str
    client: str
    event: str | None
    at: float
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.client} at {self.at:.3f}: {self.event or '-'}: {self.detail}"


@dataclass
class _Connection:
    """What is known of the connection that is open."""

    number: int
    base: int = -1
    """The sequence of the cursor that it came back with, and when that had been seen."""
    base_at: float = 0.0
    wishes: set[str] = field(default_factory=set)
    grants: list[Grants] = field(default_factory=list)
    pending: set[str | None] = field(default_factory=set)
    """Replays that have not ended: ids of ``subscribe``, and None for what comes by itself."""
    refreshes: dict[str, Grants] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    subjects: dict[str, tuple[int, int]] = field(default_factory=dict)
    highest: dict[bool, tuple[int, int]] = field(default_factory=dict)
    """Of events that come by themselves, and of those that were subscribed to."""
    has_subscribed: bool = False


class ClientLog:
    """One client's log, read to its end."""

    def __init__(self, name: str, records: Sequence[Record], run: Run) -> None:
        self.name = name
        self._run = run
        self.spans: list[Span] = [Span(0.0)]
        self.tells: list[Tell] = []
        self.faults: list[Fault] = []
        self.received: dict[str, list[float]] = {}
        """When each event came."""
        self.cursors: list[tuple[float, int]] = []
        """Cursors that the client may come back with, and when it saw them."""
        self.acknowledged: list[tuple[float, tuple[str, ...]]] = []
        self.closes: list[int] = []
        self.repeated = 0
        """Events that came again since the client came back from the middle of a replay."""
        self.connections = 0
        self.ended = False
        self.last_at = 0.0
        self._user = ""
        self._direct = False
        self._link = _Connection(0)
        for record in records:
            self._read(record)
            self.last_at = record["at"]

    def _fault(self, kind: str, at: float, event: str | None, detail: str) -> None:
        self.faults.append(Fault(kind, self.name, event, at, detail))

    def _span(self, at: float, **changed: Any) -> None:
        self.spans.append(replace(self.spans[-1], start=at, **{"breaks": False, **changed}))

    def _read(self, record: Record) -> None:
        at = record["at"]
        match record["what"]:
            case "open":
                self._open(at, record)
            case "out":
                self._sent(at, record["message"])
            case "in":
                self._came(at, record["message"])
            case "close":
                self.closes.append(record["code"])
                if record["code"] >= STOP:
                    self._fault("turned_away", at, None, f"closed with {record['code']}")
            case "end":
                self.ended = True

    def _open(self, at: float, record: Record) -> None:
        self.connections += 1
        self._user, self._direct = record["user"], record["direct"]
        self._link = link = _Connection(self.connections, grants=[record["grants"]])
        if (given := record["given"]) is None:
            nothing: frozenset[str] = frozenset()
            self._span(at, held=nothing, given_up=nothing, direct=False, breaks=True)
        else:
            link.base, link.base_at = sequence_in(given), self.last_at
            self._span(at)
        self._span(at, user=self._user, grants=(record["grants"],), breaks=given is None)

    # What the client sent.

    def _sent(self, at: float, message: Record) -> None:
        link, data = self._link, message.get("data") or {}
        match message["type"]:
            case "subscribe":
                patterns = data["events"]
                link.wishes.update(patterns)
                link.pending.discard(AGAIN)
                if "cursor" in data:
                    link.pending.add(message["id"])
                    if not link.has_subscribed:  # what it does not ask for again it has given up
                        self._span(at, held=self.spans[-1].held & {*patterns})
                link.has_subscribed = True
            case "unsubscribe":
                gone = frozenset(data["events"])
                held, given_up = self.spans[-1].held, self.spans[-1].given_up
                self._span(at, held=held - gone, given_up=given_up | gone)
            case "auth.refresh":
                link.refreshes[message["id"]] = data["grants"]
                link.grants.append(data["grants"])
                self._span(at, grants=tuple(link.grants))

    # What came.

    def _came(self, at: float, message: Record) -> None:
        data, reply_to = message["data"], message.get("reply_to")
        match message["type"]:
            case "connection.established":
                if (data.get("resume") or {}).get("replaying"):
                    self._link.pending.add(None)
                self._span(at, direct=self._direct)
                self._cursor(at, data.get("cursor"))
            case "subscription.acknowledged":
                accepted, refused = tuple(data["events"]), {*data["invalid_events"]}
                span = self.spans[-1]
                given_up = span.given_up - {*accepted}
                self._span(at, held=(span.held | {*accepted}) - refused, given_up=given_up)
                if accepted:
                    self.acknowledged.append((at, accepted))
                else:
                    self._link.pending.discard(reply_to)
                self._cursor(at, data.get("cursor"))
            case "unsubscription.acknowledged":
                self._link.wishes.difference_update(data["events"])
            case "auth.refreshed":
                self._settle_grants(at, self._link.refreshes.get(reply_to or ""))
            case "error" if reply_to is not None and reply_to in self._link.pending:
                self._link.pending.discard(reply_to)
                self._link.pending.add(AGAIN)
            case "error" if reply_to in self._link.refreshes:
                self._link.grants.remove(self._link.refreshes.pop(reply_to))
                self._settle_grants(at, self._link.grants[-1])
            case "resume.completed":
                self._link.pending.discard(reply_to)
                if not data["recovered"]:
                    self._told(at, data["reason"], data.get("missing"))
                self._cursor(at, data.get("cursor"))
            case "gap" if not data["recoverable"] and "dropped" not in data:
                self._told(at, data["reason"], data)
            case kind if "." in kind and message["id"] in self._run.events:
                self._event(at, message, self._run.events[message["id"]])
            case kind if "cursor" in message:
                self._fault("foreign", at, message["id"], f"nobody published this {kind}")

    def _settle_grants(self, at: float, grants: Grants | None) -> None:
        if grants is not None:
            self._link.grants = [grants]
            self._span(at, grants=(grants,))

    def _cursor(self, at: float, cursor: str | None) -> None:
        # While a replay runs the client would come back with what it gave.
        if cursor is not None and not self._link.pending:
            self.cursors.append((at, sequence_in(cursor)))

    def _told(self, at: float, reason: str, bounds: Record | None) -> None:
        after, to = (bounds or {}).get("from"), (bounds or {}).get("to")
        begins = self._link.base if reason == "UNAVAILABLE" else -1
        tell = Tell(
            at,
            self._link.number,
            reason,
            begins if after is None else sequence_in(after),
            None if to is None else sequence_in(to),
            after is not None and to is not None,
        )
        if tell.counted and tell.to is not None:
            self._check_range(tell)
        self.tells.append(tell)

    def _check_range(self, tell: Tell) -> None:
        assert tell.to is not None
        words = f"{tell.reason} names {tell.after} to {tell.to}"
        if tell.to <= tell.after:
            self._fault("miscounted", tell.at, None, f"{words}, which is nothing")
        elif tell.reason == "CURSOR_TOO_OLD" and not self._run.lacks(tell.after, tell.to):
            self._fault("miscounted", tell.at, None, f"{words}: the stream holds all of it")

    def _event(self, at: float, message: Record, event: Event) -> None:
        if not self._may_come(event):
            self._fault("foreign", at, event.id, f"not for it: {event.subject}")
            return
        link, before = self._link, self.received.get(event.id)
        if event.id in link.ids:
            self._fault("doubled", at, event.id, "twice on one connection")
        elif before is not None and event.durable and self._is_stale(event):
            self._fault("doubled", at, event.id, f"came before, and is up to {link.base}")
        elif before is not None:
            self.repeated += 1
        elif event.durable and self._is_stale(event):
            self._fault("disordered", at, event.id, f"below {link.base}, where it came back")
        self.received.setdefault(event.id, []).append(at)
        if event.durable:
            self._durable(at, message.get("cursor"), event)
        link.ids.add(event.id)

    def _is_stale(self, event: Event) -> bool:
        """Whether the cursor that the client came back with had passed this event."""
        if event.sequence is None or self._was_stored_twice(event):
            return False
        return event.sequence <= self._link.base and event.sent < self._link.base_at

    def _was_stored_twice(self, event: Event) -> bool:
        # Sent on both sides of a restored copy, and so forgotten and stored again.
        end = float("inf") if event.stored is None else event.stored
        return any(event.sent <= restore.at <= end for restore in self._run.restores)

    def _may_come(self, event: Event) -> bool:
        if event.audience == "user" and event.user != self._user:
            return False
        if not any(permits(grants, self._user, event) for grants in self._link.grants):
            return False
        if self._direct and event.audience != "topic":
            return True
        return _any_covers(self._link.wishes, event)

    def _durable(self, at: float, cursor: str | None, event: Event) -> None:
        if cursor is None:
            self._fault("unmarked", at, event.id, "without a cursor")
        else:
            parts = [int(part) for part in cursor.split("-")[1:] if part.isdigit()]
            if event.sequence is not None and event.sequence not in parts:
                self._fault("renumbered", at, event.id, f"{cursor} is not {event.sequence}")
            self._cursor(at, cursor)
        if event.sequence is None:
            return
        link = self._link
        for tell in self.tells:
            if tell.to is None and tell.connection == link.number:
                tell.to = event.sequence - 1
        if event.id not in link.ids:
            self._ordered(at, event)

    def _ordered(self, at: float, event: Event) -> None:
        link, here = self._link, event.position
        lane = self._direct and event.audience != "topic"
        newest = [link.highest.get(each, (0, 0)) for each in ({lane} if link.pending else (0, 1))]
        if here < link.subjects.get(event.subject, here):
            last = link.subjects[event.subject][1]
            self._fault("disordered", at, event.id, f"{here[1]} after {last} of its subject")
        elif here < max(newest):
            self._fault("disordered", at, event.id, f"{here[1]} after {max(newest)[1]}")
        link.subjects[event.subject] = max(here, link.subjects.get(event.subject, here))
        link.highest[lane] = max(here, link.highest.get(lane, here))


def _any_covers(patterns: frozenset[str] | set[str], event: Event) -> bool:
    return any(covers(each, event.type, event.resource) for each in patterns)
