"""From a message of NATS to the receivers that want it.

Each NATS subscription has a route (:mod:`natsbridge.bridge.delivery.routes`): of one user, of
everybody, or of
one event type's topic. What comes for it is read here: who has sent it, where in the stream it is,
whether it is valid; it is framed once, and the route appends the frame to each receiver's outbox.
Called from NATS's read loop; synchronous; must not raise for a peer's mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from natsbridge.bridge.delivery.following import Followed
from natsbridge.bridge.delivery.frames import cursor_frame, text_frame
from natsbridge.bridge.delivery.lost import Lost, lost_frame
from natsbridge.bridge.delivery.outbox import Flush
from natsbridge.bridge.delivery.publisher_headers import (
    TRACE_FIRST,
    TRACE_FLAG,
    UNSAMPLED,
    Schemas,
    trace_of,
)
from natsbridge.bridge.delivery.republished import (
    BEFORE,
    MAX_DIGITS,
    NUMBERED,
    TIME,
    Place,
    Republished,
)
from natsbridge.bridge.delivery.routes import CROWD, DirectRoute, TopicRoute, Types
from natsbridge.bridge.delivery.stream_order import REMEMBERED, StreamOrder
from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.cursors import CURSOR_ROOM
from natsbridge.schemas.envelope import splice_cursor
from natsbridge.schemas.errors import EventError, IdError
from natsbridge.schemas.subjects import (
    MAX_ID_BYTES,
    NO_RESOURCE,
    Audience,
    Root,
    Subjects,
    decode_id,
)
from natsbridge.schemas.trace import splice_traceparent

Reject = Callable[[bytes, bytes, bytes, EventError], None]
"""Takes subject, headers, payload, and why the event must not reach a client."""

Recalled = tuple[Audience, EventType | Lost, str, bytes]
"""Audience, type, resource token and frame of a stored event."""

_NOT_FROM_STREAM: Final = EventError(
    RejectReason.NOT_FROM_STREAM, "not an event that the stream has republished"
)
_BRACE: Final = ord("}")
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@dataclass(slots=True)
class Counts:
    """What the way down has done, in plain integers."""

    kinds: tuple[Types, ...]
    """Of each audience, which count the events that came."""
    deliveries: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def events(self) -> int:
        """Events that came and were in order."""
        return sum(types.durable + types.live for types in self.kinds)


class Hub:
    """The routes, and what they share: the check, the frame, the counts."""

    def __init__(
        self,
        catalogue: Catalogue,
        flush: Flush,
        *,
        subjects: Subjects,
        stream: str,
        reject: Reject,
        max_size: int,
    ) -> None:
        """``stream`` is the name of the stream whose sequences make cursors."""
        self.order: Final = StreamOrder(self.deliver, self._since)
        self.order.on_begin = self._on_stream
        self.order.on_fall = self._on_fall
        self.schemas: Final = Schemas(catalogue)
        self.flush: Final = flush
        self._detours: Final = flush.detours
        self._reject: Final = reject
        self._max_size: Final = max_size
        self._max_stored: Final = max_size - CURSOR_ROOM
        self._republished: Final = Republished(stream, subjects.root(Root.EVENTS))
        self._line: Final = self._republished.line
        # A dict for each audience, which its routes keep: hashing an Enum costs a call.
        self._types: Final = {audience: Types.of(catalogue, audience) for audience in Audience}
        self.counts: Final = Counts(tuple(self._types.values()))
        self.look = False
        """Whether the next event is to be followed although it is not sampled."""
        self.known: Final = frozenset(name.encode() for name in catalogue.types)
        """The catalogue's types, as they stand in a subject."""
        self._sent: Final = f"{subjects.root(Root.SERVICE)}.".encode()
        self._stored: Final = f"{subjects.root(Root.STREAM)}.".encode()
        self._stored_length: Final = len(self._stored)
        # One byte tells the two apart, and the whole is looked at then.
        pairs = zip(self._sent, self._stored, strict=False)
        self._mark: Final = next(at for at, (one, two) in enumerate(pairs) if one != two)
        self._marks_stored: Final = self._stored[self._mark]
        self._events_root: Final = f"{subjects.root(Root.EVENTS)}.".encode()
        self.everybody: Final = DirectRoute(self, self._types[Audience.ALL], self._skips("all."))
        self.users: Final[dict[str, DirectRoute]] = {}
        self.topics: Final[dict[str, TopicRoute]] = {}

    def _skips(self, below: str) -> tuple[int, int]:
        return len(self._sent) + len(below), len(self._stored) + len(below)

    def hold_user(self, token: str) -> DirectRoute:
        """Return the route of one user's events, which stays for as long as somebody holds it."""
        route = self.users.get(token)
        if route is None:
            skips = self._skips(f"user.{token}.")
            route = self.users[token] = DirectRoute(self, self._types[Audience.USER], skips)
        route.holders += 1
        return route

    def release_user(self, token: str) -> None:
        """Give one hold back."""
        route = self.users[token]
        route.holders -= 1
        if not route.holders:
            del self.users[token]

    def topic(self, event_type: str) -> TopicRoute:
        """Return the route of one type's topic events; it stays, there are as many as types."""
        route = self.topics.get(event_type)
        if route is None:
            types = self._types[Audience.TOPIC]
            route = self.topics[event_type] = TopicRoute(self, types, self._skips("topic."))
        return route

    def read(
        self, route: DirectRoute | TopicRoute, subject: bytes, headers: bytes, payload: bytes
    ) -> tuple[EventType | Lost, str, bytes] | None:
        """Return type, resource token and frame of an event that came for a route, or None where it
        goes no further now.

        Who speaks is what the message's own subject says, whatever subscription it came by.
        """
        if subject[self._mark] == self._marks_stored:
            # The lines that end nearly all that comes, see Republished.
            rest = subject[self._stored_length :]
            own, found, tail = headers.rpartition(self._line + rest + NUMBERED)
            try:
                sequence, time, last_line, _, _ = tail.split(b"\r\n")
            except ValueError:
                found = b""
            if (
                found
                and sequence.isdigit()
                and time > TIME  # none of the other lines is
                and (before := last_line.removeprefix(BEFORE)).isdigit()
                and len(sequence) <= MAX_DIGITS
                and subject.startswith(self._stored)
            ):
                pass
            elif (place := self._place(subject, headers, payload)) is not None:
                sequence, before = place
                own = headers
            else:
                return None
            name, _, resource = subject[route.skip_stored :].rpartition(b".")
            event_type = route.types.stored.get(name)
            order = self.order
            if not order.identity:
                sequence = b""
            elif before:
                if order.gate and not order.admits(subject, headers, payload, sequence):
                    return None
                is_next = order.latest < sequence <= order.bound and len(sequence) == order.digits
                if not is_next and not order.believes(sequence):
                    order.doubt(subject, headers, payload)
                    return None
                last = order.last
                # The first of a subject is remembered only where more are likely to follow, or
                # where what is remembered of it is gone from the stream.
                if (
                    before != b"0"
                    or resource == b"-"
                    or subject in last
                    or (order.older and subject in order.older)
                ):
                    known = last.get(subject)
                    if known != before and not order.follows(subject, headers, payload, before):
                        return None
                    last[subject] = sequence
                    if known is None and len(last) > REMEMBERED:
                        order.age()
                if is_next:
                    order.latest = sequence
                else:
                    order.reach(sequence)
        elif subject.startswith(self._sent):
            sequence = b""
            own = headers
            name, _, resource = subject[route.skip_sent :].rpartition(b".")
            event_type = route.types.every.get(name)
        else:
            return None  # what bridges say to each other
        try:
            if event_type is None:
                raise self._unknown(route.types, name)
            # Nearly every resource is plain characters, which stand for themselves.
            token = resource.decode("utf-8", "replace")
            about: str | None = token
            if len(resource) > MAX_ID_BYTES or not (
                resource.isalnum() or (resource != b"-" and not resource.strip(_PLAIN))
            ):
                about = _resource_id(token)
            text, trace = payload, b""
            if own:
                # What the SDK writes ends so, and longer it is only within a trace.
                if own.endswith(event_type.schema_lines):
                    event_type.published += 1
                    # Where the trace comes first, one that is not sampled costs a look at it.
                    if len(own) > event_type.usual and not (
                        own[TRACE_FLAG] in UNSAMPLED and own.startswith(TRACE_FIRST)
                    ):
                        trace = trace_of(own)
                else:
                    trace = self.schemas.read(own, event_type)
                if trace:
                    text = splice_traceparent(payload, trace)
            if len(text) > self._max_stored and (sequence or len(text) > self._max_size):
                raise self._too_large(text, sequence)
            event_type.check(text, about)
        except EventError as error:
            self._refuse(subject, headers, payload, error)
            if not sequence:
                return None
            number = int(sequence)
            frame = self._lost_frame(number, self.order.cursor(number), error)
            return Lost(name.decode("utf-8", "replace")), resource.decode("utf-8", "replace"), frame
        if not sequence:
            route.types.live += 1
            frame = text_frame(text)
        else:
            route.types.durable += 1
            if text[-1] == _BRACE:  # as nearly each does
                frame = cursor_frame(text, self.order.opening, sequence)
            else:
                frame = text_frame(splice_cursor(text, self.order.identity + b"-" + sequence))
        if self._detours:
            self.flush.know(event_type, token, sequence, frame)
        if (trace or self.look) and self.flush.watcher is not None:
            event = Followed(
                event_type,
                route.types.audience,
                token,
                sequence=sequence,
                trace=trace,
                headers=own,
                payload=text,
                frame=frame,
            )
            self._follow(route, event)
            return None  # its receivers have it
        return event_type, token, frame

    def _follow(self, route: DirectRoute | TopicRoute, event: Followed) -> None:
        """Deliver an event of which telemetry is to hear, as its route would."""
        self.look = False
        flush = self.flush
        receivers, event.denied = route.wanted(event.event_type.name, event.resource)
        event.matched = len(receivers)
        if self._detours:
            event.off = [each for each in receivers if each.backlog is not None]
        if len(receivers) >= CROWD and isinstance(receivers, dict):
            flush.gather(receivers, event.frame)
        else:
            flush.settle()
            for outbox in receivers:
                if not outbox.frames:
                    flush.dirty.append(outbox)
                outbox.frames.append(event.frame)
        self.counts.deliveries += event.matched
        flush.followed.append(event)
        flush.schedule()

    def _place(self, subject: bytes, headers: bytes, payload: bytes) -> Place | None:
        """Return where in the stream an event is whose headers are not the usual ones; None where
        it is none of the stream's. Without the one before it it does not count any more.
        """
        order = self.order
        if not subject.startswith(self._stored):
            return None  # no root of ours
        if order.passing is not None:
            if order.passing:
                order.last[subject] = order.passing
                order.reach(order.passing)
            return order.passing, b""
        place = self._republished.read(headers, subject[len(self._stored) :])
        if place is None:
            self._refuse(subject, headers, payload, _NOT_FROM_STREAM)
        return place

    def _refuse(self, subject: bytes, headers: bytes, payload: bytes, error: EventError) -> None:
        rejected = self.counts.rejected
        rejected[error.reason] = rejected.get(error.reason, 0) + 1
        if self.flush.watcher is not None:
            self.flush.watcher.rejected(subject, headers, payload, error)
        self._reject(subject, headers, payload, error)

    def deliver(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        """Deliver an event that did not come on its subscription; ``subject`` is the live one."""
        route = self._route(subject)
        if route is not None:
            route.receive(subject, headers, payload)

    def _since(self, subject: bytes) -> int | None:
        route = self._route(subject)
        return None if route is None else route.since(subject)

    def _on_stream(self) -> None:
        for outbox in self.flush.detours:
            if outbox.backlog is not None:
                outbox.backlog.begin_stream()

    def _on_fall(self, position: int) -> None:
        for outbox in self.flush.detours:
            if outbox.backlog is not None:
                outbox.backlog.fall(position)

    def _route(self, subject: bytes) -> DirectRoute | TopicRoute | None:
        below = subject.removeprefix(self._stored).removeprefix(self._sent)
        audience, _, rest = below.decode("utf-8", "replace").partition(".")
        if audience == Audience.USER:
            return self.users.get(rest.partition(".")[0])
        if audience == Audience.TOPIC:
            return self.topics.get(rest.rpartition(".")[0])
        return self.everybody if audience == Audience.ALL else None

    def recall(
        self, subject: bytes, payload: bytes, cursor: bytes, sequence: int
    ) -> Recalled | None:
        """Return what a stored event is, or the ``gap`` that stands for one that would be refused
        live as well; ``subject`` is the one it was stored under. None for what is no event's.
        """
        if not subject.startswith(self._events_root):
            return None
        try:
            name, _, rest = subject.removeprefix(self._events_root).decode().partition(".")
            audience = Audience(name)
        except ValueError:
            return None
        if audience is Audience.USER:
            rest = rest.partition(".")[2]
        type_name, _, resource = rest.rpartition(".")
        types = self._types[audience]
        event_type = types.stored.get(type_name.encode())
        try:
            if event_type is None:
                raise self._unknown(types, type_name.encode())
            if len(payload) > self._max_stored:
                raise self._too_large(payload, cursor)
            event_type.check(payload, _resource_id(resource))
        except EventError as error:
            self.counts.rejected[error.reason] = self.counts.rejected.get(error.reason, 0) + 1
            frame = self._lost_frame(sequence, cursor.decode(), error)
            return audience, Lost(type_name), resource, frame
        return audience, event_type, resource, text_frame(splice_cursor(payload, cursor))

    def _lost_frame(self, sequence: int, cursor: str, error: EventError) -> bytes:
        return lost_frame(self.order.cursor(sequence - 1), cursor, error)

    def _too_large(self, payload: bytes, sequence: bytes) -> EventError:
        most = self._max_stored if sequence else self._max_size
        told = f"{len(payload)} bytes, {most} at the most"
        return EventError(RejectReason.TOO_LARGE, f"{told} with a cursor" if sequence else told)

    def _unknown(self, types: Types, name: bytes) -> EventError:
        if name in types.every:
            return EventError(RejectReason.NOT_DURABLE, "ephemeral, and yet in the stream")
        if name in self.known:
            return EventError(RejectReason.AUDIENCE_NOT_ALLOWED, "not for this audience")
        if name.count(b".") != 1:
            return EventError(RejectReason.MALFORMED_SUBJECT, "not <domain>.<action>.<resource>")
        return EventError(
            RejectReason.UNKNOWN_EVENT,
            f"{name[:MAX_ID_BYTES].decode('ascii', 'replace')} is not in this bridge's catalogue: "
            "see BRIDGE_CATALOGUE",
        )


def _resource_id(token: str) -> str | None:
    """Return the id of a subject's resource, None for ``-``; raises :class:`EventError`."""
    try:
        return None if token == NO_RESOURCE else decode_id(token)
    except IdError:
        raise EventError(
            RejectReason.MALFORMED_SUBJECT, "the subject's resource is no encoded id"
        ) from None
