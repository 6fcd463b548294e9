"""From a message of NATS to the receivers that want it.

Each NATS subscription has a route: of one user, of everybody, or of one event type's topic. A route
reads the type from the subject's tail, has the event checked and framed once, and appends the frame
to each receiver's outbox. Called from NATS's read loop; synchronous; must not raise for a peer's
mistake.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bridge.delivery.frames import cursor_frame, text_frame
from bridge.delivery.order import MAX_SEQUENCE_DIGITS, REMEMBERED, SEQUENCE, StreamOrder
from bridge.delivery.outbox import Flush, Outbox
from schemas.catalogue import Catalogue, EventType
from schemas.codes import RejectReason
from schemas.envelope import splice_cursor
from schemas.errors import EventError, IdError
from schemas.patterns import ANY
from schemas.subjects import MAX_ID_BYTES, NO_RESOURCE, Audience, decode_id

Types = Mapping[bytes, EventType]
"""Event types by their name as it stands in a subject."""

Reject = Callable[[bytes, bytes, EventError], None]
"""Takes the subject it was published to, payload, and why the event must not reach a client."""

Recalled = tuple[Audience, EventType, str, bytes]
"""Audience, type, resource token and frame of a stored event."""

NOT_YET: Final = sys.maxsize
"""A sequence that none is behind."""

CROWD: Final = 8
"""Receivers from which on it pays to gather events for all of them."""

_BEFORE: Final = b"Nats-Last-Sequence: "
_BEFORE_LENGTH: Final = len(_BEFORE)
_SUBJECT: Final = b"Nats-Subject: "
_BRACE: Final = ord("}")
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@dataclass(slots=True)
class Counts:
    """What the way down has done, in plain integers."""

    events: int = 0
    deliveries: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


class Hub:
    """The routes, and what they share: the check, the frame, the counts."""

    def __init__(
        self,
        catalogue: Catalogue,
        flush: Flush,
        *,
        live_root: str,
        events_root: str,
        stream_header: bytes,
        reject: Reject,
        max_size: int,
    ) -> None:
        """The roots are subjects without a trailing dot. ``stream_header`` is the
        header line of the stream whose sequences make cursors.
        """
        self.order: Final = StreamOrder(self.deliver, self._since)
        self.order.on_begin = self._on_stream
        self.order.on_fall = self._on_fall
        self.counts: Final = Counts()
        self.flush: Final = flush
        self._detours: Final = flush.detours
        self._reject: Final = reject
        self._max_size: Final = max_size
        self._stream_header: Final = stream_header
        # A dict for each audience, which its routes keep: hashing an Enum costs a call.
        self._types: Final[dict[Audience, Types]] = {
            audience: {
                name.encode(): found
                for name in catalogue.types
                if (found := catalogue.get(name)) and audience in found.traits.audiences
            }
            for audience in Audience
        }
        self._known: Final = frozenset(name.encode() for name in catalogue.types)
        self._root_length: Final = len(live_root) + 1
        self._events_root: Final = events_root.encode() + b"."
        self.everybody: Final = DirectRoute(
            self, self._types[Audience.ALL], self._root_length + len("all.")
        )
        self.users: Final[dict[str, DirectRoute]] = {}
        self.topics: Final[dict[str, TopicRoute]] = {}

    def hold_user(self, token: str) -> DirectRoute:
        """Return the route of one user's events, which stays for as long as somebody holds it."""
        route = self.users.get(token)
        if route is None:
            skip = self._root_length + len("user.") + len(token) + 1
            route = self.users[token] = DirectRoute(self, self._types[Audience.USER], skip)
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
            skip = self._root_length + len("topic.")
            route = self.topics[event_type] = TopicRoute(self, self._types[Audience.TOPIC], skip)
        return route

    def read(
        self, types: Types, skip: int, subject: bytes, headers: bytes, payload: bytes
    ) -> tuple[EventType, str, bytes] | None:
        """Return type, resource token and frame of an event, or None where it goes no further now.

        ``types`` are those of the route's audience, ``skip`` is what of the subject stands before
        the type.
        """
        name, _, resource = subject[skip:].rpartition(b".")
        event_type = types.get(name)
        sequence = b""
        if headers and event_type is not None and event_type.traits.durable:
            at = headers.rfind(SEQUENCE)  # republish puts it near the end
            order = self.order
            if at >= 0 and order.identity and headers.rfind(self._stream_header, 0, at) >= 0:
                start = at + len(SEQUENCE)
                sequence = headers[start : headers.find(b"\r", start)]
                # Anybody may write such a header; what goes into the JSON text is digits only.
                if sequence.isdigit() and len(sequence) <= MAX_SEQUENCE_DIGITS:
                    if order.gate and not order.admits(subject, headers, payload, sequence):
                        return None
                    at = headers.rfind(b" ") + 1
                    before = headers[at:-4]
                    # The first of a subject is remembered only where more are likely to follow.
                    if before != b"0" or resource == b"-":
                        last = order.last
                        known = last.get(subject)
                        if (
                            known != before
                            and headers.startswith(_BEFORE, at - _BEFORE_LENGTH)
                            and not order.follows(subject, headers, payload, before)
                        ):
                            return None
                        last[subject] = sequence
                        if known is None and len(last) > REMEMBERED:
                            order.age()
                    order.latest = sequence
                else:
                    sequence = b""
        try:
            if event_type is None:
                raise self._unknown(name)
            token = resource.decode("utf-8", "replace")
            # Nearly every resource is plain characters up to its end, which stand for themselves.
            if resource.lstrip(_PLAIN) or token == NO_RESOURCE or len(resource) > MAX_ID_BYTES:
                about = _resource_id(token)
            else:
                about = token
            if len(payload) > self._max_size:
                raise EventError(RejectReason.TOO_LARGE, f"{len(payload)} bytes")
            event_type.check(payload, about)
        except EventError as error:
            rejected = self.counts.rejected
            rejected[error.reason] = rejected.get(error.reason, 0) + 1
            self._reject(self._published(subject, headers), payload, error)
            return None
        self.counts.events += 1
        if not sequence:
            frame = text_frame(payload)
        elif payload[-1] == _BRACE:  # as nearly each does
            frame = cursor_frame(payload, self.order.opening, sequence)
        else:
            frame = text_frame(splice_cursor(payload, self.order.identity + b"-" + sequence))
        if self._detours:
            self.flush.know(event_type, token, sequence, frame)
        return event_type, token, frame

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
        audience, _, rest = subject[self._root_length :].decode("utf-8", "replace").partition(".")
        if audience == Audience.USER:
            return self.users.get(rest.partition(".")[0])
        if audience == Audience.TOPIC:
            return self.topics.get(rest.rpartition(".")[0])
        return self.everybody if audience == Audience.ALL else None

    def recall(self, subject: bytes, payload: bytes, cursor: bytes) -> Recalled | None:
        """Return what a stored event is.

        None where it would be refused live as well; ``subject`` is the one it was stored under.
        """
        try:
            name, _, rest = subject.removeprefix(self._events_root).decode().partition(".")
            audience = Audience(name)
            if audience is Audience.USER:
                rest = rest.partition(".")[2]
            type_name, _, resource = rest.rpartition(".")
            event_type = self._types[audience].get(type_name.encode())
            if event_type is None or len(payload) > self._max_size:
                return None
            event_type.check(payload, _resource_id(resource))
        except (EventError, ValueError):
            return None
        if not event_type.traits.durable:
            return None
        return audience, event_type, resource, text_frame(splice_cursor(payload, cursor))

    def _published(self, subject: bytes, headers: bytes) -> bytes:
        # Anybody may write these headers, so they only choose between two subjects.
        stored = self._events_root + subject[self._root_length :]
        if self._stream_header in headers and b"%b%b\r\n" % (_SUBJECT, stored) in headers:
            return stored
        return subject

    def _unknown(self, name: bytes) -> EventError:
        if name in self._known:
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


class DirectRoute:
    """Events that come without a subscription: one user's, or everybody's."""

    __slots__ = ("_hub", "_skip", "_types", "began", "holders", "receivers")

    def __init__(self, hub: Hub, types: Types, skip: int) -> None:
        self._hub = hub
        self._types = types
        self._skip = skip
        self.holders = 0
        self.began = 0
        self.receivers: dict[Outbox, None] = {}

    def add(self, outbox: Outbox) -> None:
        """Deliver to this one too."""
        if not self.receivers:
            self.began = self._hub.order.horizon
        self.receivers[outbox] = None

    def since(self, subject: bytes) -> int:
        """The sequence after which this route has had receivers."""
        return self.began

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        """Deliver one message of NATS."""
        receivers = self.receivers
        if not receivers:
            return
        hub = self._hub
        event = hub.read(self._types, self._skip, subject, headers, payload)
        if event is None:
            return
        event_type, resource, frame = event
        flush = hub.flush
        if flush.crowd is not None:
            flush.settle()
        dirty = flush.dirty
        delivered = 0
        for outbox in receivers:
            permits = outbox.permits
            if permits is None or permits(event_type.name, resource):
                frames = outbox.frames
                if not frames:
                    dirty.append(outbox)
                frames.append(frame)
                delivered += 1
        hub.counts.deliveries += delivered
        if not flush.scheduled:
            flush.schedule()


class TopicRoute:
    """Events of one type for whoever subscribed.

    ``every`` maps those who want any resource to the resources they may not see; ``single`` maps a
    resource to those who want just that. An outbox is never in both, so it gets one copy.
    """

    __slots__ = ("_began", "_began_every", "_hub", "_skip", "_types", "every", "guarded", "single")

    def __init__(self, hub: Hub, types: Types, skip: int) -> None:
        self._hub = hub
        self._types = types
        self._skip = skip
        self.every: dict[Outbox, frozenset[str]] = {}
        self.single: dict[str, dict[Outbox, None]] = {}
        self.guarded = 0
        self._began: dict[str, int] = {}
        self._began_every = NOT_YET

    def since(self, subject: bytes) -> int:
        """The sequence after which events with this subject have come in for receivers."""
        resource = subject[subject.rfind(b".") + 1 :].decode("utf-8", "replace")
        if not self.every:
            return self._began.get(resource, 0)
        return min(self._began_every, self._began.get(resource, self._began_every))

    def add(self, outbox: Outbox, resource: str, excluded: frozenset[str]) -> None:
        """Deliver events of a resource, or of any (``*``) but those excluded."""
        self._hub.flush.settle()
        if resource == ANY:
            if not self.every:
                self._began_every = NOT_YET
            self.guarded += bool(excluded) - bool(self.every.get(outbox))
            self.every[outbox] = excluded
            return
        holders = self.single.get(resource)
        if holders is None:
            holders = self.single[resource] = {}
            self._began[resource] = NOT_YET
        holders[outbox] = None

    def confirmed(self, resource: str) -> None:
        """NATS has the subscription: what does not come from here on is missing.

        Not from where events have come to: what is being read from the stream goes further, and
        what came behind that before there was a subscription would be taken for a hole.
        """
        if resource == ANY:
            if self._began_every == NOT_YET:
                self._began_every = self._hub.order.horizon
        elif self._began.get(resource) == NOT_YET:
            self._began[resource] = self._hub.order.horizon

    def remove(self, outbox: Outbox, resource: str) -> None:
        """Undo :meth:`add`; from here on nothing more is offered."""
        self._hub.flush.settle()
        if resource == ANY:
            self.guarded -= bool(self.every.pop(outbox, None))
        else:
            holders = self.single.get(resource)
            if holders is not None:
                holders.pop(outbox, None)
                if not holders:
                    del self.single[resource]
                    del self._began[resource]

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        """Deliver one message of NATS."""
        every, single = self.every, None
        if self.single:
            single = self.single.get(subject[subject.rfind(b".") + 1 :].decode("utf-8", "replace"))
        if not every and not single:
            return
        hub = self._hub
        event = hub.read(self._types, self._skip, subject, headers, payload)
        if event is None:
            return
        _, resource, frame = event
        if len(every) >= CROWD and not single and not self.guarded:
            hub.flush.gather(every, frame)
            hub.counts.deliveries += len(every)
            hub.flush.schedule()
            return
        hub.flush.settle()
        dirty = hub.flush.dirty
        receivers: list[Outbox] | dict[Outbox, frozenset[str]] = every
        if self.guarded:
            receivers = [each for each, excluded in every.items() if resource not in excluded]
        for outbox in receivers:
            frames = outbox.frames
            if not frames:
                dirty.append(outbox)
            frames.append(frame)
        hub.counts.deliveries += len(receivers)
        if single:
            for outbox in single:
                frames = outbox.frames
                if not frames:
                    dirty.append(outbox)
                frames.append(frame)
            hub.counts.deliveries += len(single)
        hub.flush.schedule()
