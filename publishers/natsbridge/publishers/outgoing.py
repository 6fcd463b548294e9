"""From an event's data to what is sent: addresses, validation, bytes, headers. No I/O.

Everything that can be wrong with an event is found here, before anything is sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from opentelemetry import propagate, trace
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from natsbridge.publishers.errors import InvalidEvent
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.cursors import CURSOR_ROOM
from natsbridge.schemas.envelope import (
    HEADER_ID,
    HEADER_SCHEMA,
    HEADER_TRACEPARENT,
    HEADER_TRACESTATE,
    MAX_EVENT_ID,
    new_id,
    schema_header,
    timestamp,
)
from natsbridge.schemas.errors import EventError, IdError
from natsbridge.schemas.events import EventData
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects, encode_id


class Group(Enum):
    """Who gets an event, where that is not a matter of user ids."""

    SUBSCRIBERS = Audience.TOPIC
    EVERYBODY = Audience.ALL


SUBSCRIBERS: Final = Group.SUBSCRIBERS
"""Whoever subscribed to the event's type."""

EVERYBODY: Final = Group.EVERYBODY
"""Every connection."""

To = str | Collection[str] | Group
"""Who gets an event: the id of a user, the ids of several, :data:`SUBSCRIBERS`, or
:data:`EVERYBODY`."""


Recipient = tuple[Audience, str | None, str | None]
"""Audience, the user where it is one, the event's id where the caller gave it."""


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """One event, valid and ready to be sent; sending it again is the same event.

    ``subject`` is where it goes now; ``live_subject`` where it goes when no stream stores it.
    """

    type: str
    id: str
    user: str | None
    durable: bool
    subject: str
    live_subject: str
    payload: bytes
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"

    @property
    def data(self) -> dict[str, Any]:
        """The event's own data, as it is in ``payload``."""
        data: dict[str, Any] = json.loads(self.payload)["data"]
        return data


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one event.

    ``stored`` says whether a stream has it; only then ``stream`` and ``sequence`` are set.
    ``duplicate``: the stream had this id already, from an earlier call, or from an earlier try of
    this one whose acknowledgement was lost (``attempts`` is above 1 then). ``user`` is set when the
    event went to a user. ``spooled``: it is on this machine's disk, and goes to the stream in its
    turn.
    """

    id: str
    stored: bool
    stream: str | None = None
    sequence: int | None = None
    duplicate: bool = False
    attempts: int = 1
    user: str | None = None
    spooled: bool = False


class Outbox:
    """Turns data into outgoing events for one deployment and one source."""

    def __init__(
        self, subjects: Subjects, catalogue: Catalogue, source: str | None, max_size: int
    ) -> None:
        if source is not None and not (_is_plain(source) and len(source) <= 128):
            raise ValueError("source is a name of 1 to 128 printable characters")
        self._subjects = subjects
        self._catalogue = catalogue
        self._source = source
        self._max_size = max_size

    def prepare(self, data: EventData, to: To, event_id: str | None) -> list[OutgoingEvent]:
        """Return the events to send: one, or one a user, each with an id of its own.

        With ``event_id`` and several users an event's id is ``<event_id>.<user>``, so that a retry
        finds the same ids. Raises :class:`InvalidEvent`.
        """
        span = trace.get_current_span()
        return [self.event(data, *each, span) for each in self.recipients(data, to, event_id)]

    def recipients(self, data: EventData, to: To, event_id: str | None) -> list[Recipient]:
        """Return to whom the events go, with the id of each; raises :class:`InvalidEvent`."""
        _check_declared(data)
        if isinstance(to, Group):
            return [(to.value, None, event_id)]
        if isinstance(to, str):
            return [(Audience.USER, to, event_id)]
        users = _users(to)
        if not users:
            # Not everybody, which an empty list of users would mean where a default is that.
            raise InvalidEvent(RejectReason.MALFORMED_SUBJECT, "no user is named", "to")
        ids = [None if event_id is None else f"{event_id}.{user}" for user in users]
        return [(Audience.USER, user, each) for user, each in zip(users, ids, strict=True)]

    def event(
        self,
        data: EventData,
        audience: Audience,
        user: str | None,
        event_id: str | None,
        span: trace.Span,
    ) -> OutgoingEvent:
        """Return one event, which carries the context of this span; raises
        :class:`InvalidEvent`.
        """
        traits = data.traits
        if audience not in traits.audiences:
            allowed = ", ".join(sorted(traits.audiences))
            detail = f"{traits.type} goes to {allowed} only"
            raise InvalidEvent(RejectReason.AUDIENCE_NOT_ALLOWED, detail, "to")
        event_id = new_id() if event_id is None else _checked_id(event_id)
        # Validated before the address is built from it: model_construct() checks nothing.
        headers, sampled = _trace(span)
        payload = self._encode(data, event_id, sampled)
        address = Address(
            audience,
            traits.type,
            _token(f"data.{traits.resource}", lambda: data.resource_token),
            "" if user is None else _token("to", lambda: encode_id(user)),
        )
        headers |= {HEADER_ID: event_id, HEADER_SCHEMA: schema_header(traits.type, traits.version)}
        root = Root.EVENTS if traits.durable else Root.SERVICE
        return OutgoingEvent(
            type=traits.type,
            id=event_id,
            user=user,
            durable=traits.durable,
            subject=self._subjects.event(root, address),
            live_subject=self._subjects.event(Root.SERVICE, address),
            payload=payload,
            headers=headers,
        )

    def _encode(self, data: EventData, event_id: str, traceparent: str | None) -> bytes:
        with invalid_data():
            type(data).model_validate(vars(data))
        try:
            kind = self._catalogue.of(data)
            payload = kind.envelope(
                type=kind.name,
                id=event_id,
                timestamp=timestamp(),
                data=data,
                source=self._source,
                traceparent=traceparent,
            ).to_bytes()
            kind.check(payload)
        except EventError as error:
            raise InvalidEvent(error.reason, error.detail, error.field) from None
        except PydanticSerializationError as error:
            raise InvalidEvent(RejectReason.INVALID_JSON, str(error), "data") from None
        if b"null" in payload and (path := _not_finite(vars(data), "data")):
            # The encoder writes null for what JSON has no number for.
            raise InvalidEvent(RejectReason.INVALID_JSON, "a number must be finite", path)
        # A stored event leaves room for the cursor that the bridge adds: it would reject it.
        most = self._max_size - (CURSOR_ROOM if data.traits.durable else 0)
        if len(payload) > most:
            detail = f"the event has {len(payload)} bytes, over {most}"
            raise InvalidEvent(RejectReason.TOO_LARGE, detail, "data")
        return payload


@contextmanager
def invalid_data() -> Iterator[None]:
    """Tell a model's refusal of ``data`` as :class:`InvalidEvent`, first error first."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(("data", *map(str, first["loc"])))
        raise InvalidEvent(RejectReason.INVALID_DATA, first["msg"], field) from None


def time_text(value: datetime | str | None, field: str) -> str | None:
    """Return a time as the wire has it, in UTC; text passes as it is, for the model to judge.

    Raises :class:`InvalidEvent` for a datetime without a time zone.
    """
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        detail = "a datetime needs a time zone"
        raise InvalidEvent(RejectReason.INVALID_DATA, detail, f"data.{field}")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def check_size(payload: bytes, headers: Mapping[str, str], limit: int) -> None:
    """Raise :class:`InvalidEvent` for what is over the broker's ``max_payload``.

    Counted as the broker counts, headers included: it cuts the connection for one byte too many.
    """
    size = len(payload)
    if headers:
        lines = sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
        size += len("NATS/1.0\r\n\r\n") + lines
    if size > limit:
        detail = f"{size} bytes with headers are over the broker's max_payload, {limit}"
        raise InvalidEvent(RejectReason.TOO_LARGE, detail, "data")


def _check_declared(data: object) -> None:
    if not isinstance(data, EventData):
        if isinstance(data, type):
            what = f"the class {data.__name__}: give an object of it"
        else:
            what = f"{type(data).__name__}: give a model that is declared with @event"
        raise InvalidEvent(RejectReason.UNKNOWN_EVENT, f"an event can't be a {what}", "data")
    if "traits" not in vars(type(data)):
        name = type(data).__name__
        detail = f"{name} is not declared: put @event(...) of schemas.events above the class"
        raise InvalidEvent(RejectReason.UNKNOWN_EVENT, detail, "data")


def _users(to: object) -> list[str]:
    wrong = to
    if isinstance(to, Iterable) and not isinstance(to, Mapping | bytes | bytearray):
        users = list(to)
        others = [each for each in users if not isinstance(each, str)]
        if not others:
            return list(dict.fromkeys(users))
        wrong = others[0]
    detail = f"is a user's id as text, several, SUBSCRIBERS or EVERYBODY, not {_kind(wrong)}"
    raise InvalidEvent(RejectReason.MALFORMED_SUBJECT, detail, "to")


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"


def _checked_id(event_id: str) -> str:
    # The id is a header too, which can't hold line breaks and loses outer white space.
    if not _is_plain(event_id) or len(event_id.encode()) > MAX_EVENT_ID:
        detail = f"an id has 1 to {MAX_EVENT_ID} bytes, printable, without white space around"
        raise InvalidEvent(RejectReason.INVALID_ENVELOPE, detail, "id")
    return event_id


def _is_plain(text: object) -> bool:
    return isinstance(text, str) and bool(text) and text.isprintable() and text == text.strip()


def _token(field: str, encode: Callable[[], str]) -> str:
    try:
        return encode()
    except IdError as error:
        raise InvalidEvent(RejectReason.MALFORMED_SUBJECT, str(error), field) from None
    except TypeError:
        raise InvalidEvent(RejectReason.MALFORMED_SUBJECT, "an id is text", field) from None


def _trace(span: trace.Span) -> tuple[dict[str, str], str | None]:
    """Return the headers of a span's trace, and its ``traceparent`` where it is sampled."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}, None
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    # Nothing else that a propagator writes: baggage may hold what is not for everyone on the bus.
    names = (HEADER_TRACEPARENT, HEADER_TRACESTATE)
    headers = {name: value for name in names if (value := carrier.get(name))}
    return headers, headers.get(HEADER_TRACEPARENT) if context.trace_flags.sampled else None


def _not_finite(value: object, path: str) -> str | None:
    """Return the path of the first NaN or infinity in nested data."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    pairs: Iterator[tuple[object, object]]
    if isinstance(value, Mapping):
        pairs = iter(value.items())
    elif isinstance(value, list | tuple):
        pairs = iter(enumerate(value))
    else:
        return None
    for key, each in pairs:
        if found := _not_finite(each, f"{path}.{key}"):
            return found
    return None
