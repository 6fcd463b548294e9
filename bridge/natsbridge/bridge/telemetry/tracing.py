"""Spans of the bridge: made when something is over, from the times that were noted.

Nothing here is imported on the way of an event that is not sampled. No span holds a user's id, a
subject with ids in it, a token, or an event's data.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from natsbridge.bridge.delivery.following import Followed
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.subjects import NO_RESOURCE, Audience, Root, Subjects
from natsbridge.schemas.trace import sampled

Attributes = Mapping[str, str | bool | int | float]

_ID: Final = re.compile(rb"\r\nnats-msg-id: ?([^\r\n]*)", re.IGNORECASE)
_PROCESS: Final = {
    "messaging.system": "nats",
    "messaging.operation.type": "process",
    "messaging.operation.name": "process",
}


def remote(traceparent: bytes) -> SpanContext:
    """Return the context that a well-formed ``traceparent`` names."""
    _, trace, span, flags = traceparent.decode().split("-")
    return SpanContext(
        int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def under(context: SpanContext) -> Context:
    """Return the context in which a span is this one's child."""
    return set_span_in_context(NonRecordingSpan(context), Context())


class Tracing:
    """Makes spans with one tracer, and nothing of them where they are not sampled."""

    def __init__(
        self,
        tracer: Tracer,
        subjects: Subjects,
        *,
        cursor: Callable[[int], str],
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        """``cursor`` gives that of a sequence; ``wall`` the time in nanoseconds."""
        self._tracer: Final = tracer
        self._cursor: Final = cursor
        self._wall: Final = wall
        self._roots: Final = {
            True: subjects.root(Root.STREAM),
            False: subjects.root(Root.SERVICE),
        }

    def processed(self, event: Followed, *, took: int, slowest: int) -> None:
        """An event is written: ``process <type>``, from ``took`` nanoseconds ago until now.

        ``slowest`` is the longest of its writes, in nanoseconds.
        """
        ended = self._wall()
        name = event.event_type.name
        told: dict[str, Any] = {
            **_PROCESS,
            "messaging.destination.template": self._template(
                bool(event.sequence), event.audience, name, event.resource != NO_RESOURCE
            ),
            "messaging.message.body.size": len(event.payload),
            "natsbridge.audience": str(event.audience),
            "natsbridge.sessions.matched": event.matched,
            "natsbridge.sessions.written": event.written,
            "natsbridge.sessions.queued": event.queued,
            "natsbridge.sessions.suppressed": event.suppressed,
            "natsbridge.sessions.denied": event.denied,
            "natsbridge.write.slowest": slowest / 1e9,
        }
        if event.sequence:
            told["natsbridge.cursor"] = self._cursor(int(event.sequence))
        if (found := _ID.search(event.headers)) is not None:
            told["messaging.message.id"] = found[1].decode("utf-8", "replace")[:256]
        self._tracer.start_span(
            f"process {name}",
            context=under(remote(event.trace)),
            kind=SpanKind.CONSUMER,
            attributes=told,
            start_time=ended - took,
        ).end(ended)

    def rejected(self, headers: bytes, known: str, error: EventError) -> None:
        """An event did not reach a client; ``known`` is its type, empty where it has none that
        the catalogue knows.
        """
        trace = sampled(headers, headers.lower())
        if not trace:
            return
        told: dict[str, Any] = {**_PROCESS, "error.type": str(error.reason)}
        if (found := _ID.search(headers)) is not None:
            told["messaging.message.id"] = found[1].decode("utf-8", "replace")[:256]
        span = self._tracer.start_span(
            f"process {known or 'unknown'}",
            context=under(remote(trace)),
            kind=SpanKind.CONSUMER,
            attributes=told,
        )
        span.set_status(Status(StatusCode.ERROR, str(error)[:256]))
        span.end()

    def connected(
        self, took: float, trace: bytes, *, status: int = 101, code: int = 0, error: str = ""
    ) -> None:
        """A handshake came to something: ``connect``; ``code`` is that of its close, if any."""
        told: dict[str, Any] = {"http.response.status_code": status}
        if code:
            told["natsbridge.close.code"] = code
        self._over("connect", took, trace, told, error)

    def subscribed(self, trace: bytes, patterns: int, took: float, error: str) -> None:
        """A change of subscriptions was answered: ``subscribe``, with what is held now."""
        self._over("subscribe", took, trace, {"natsbridge.patterns": patterns}, error)

    def resumed(self, trace: bytes, took: float, replayed: int, reason: str | None) -> None:
        """A replay is through: ``resume``."""
        told = {
            "natsbridge.replay": True,
            "natsbridge.replay.events": replayed,
            "natsbridge.replay.recovered": reason is None,
        }
        self._over("resume", took, trace, told, reason or "")

    def _over(
        self, name: str, took: float, trace: bytes, attributes: Attributes, error: str
    ) -> None:
        # A client's trace is linked and not gone on with: whether this one is sampled is not the
        # client's to say.
        link = remote(trace) if trace else None
        end(self.begin(name, SpanKind.SERVER, attributes, link=link, ago=took), error)

    def command(self, name: str, template: str, trace: bytes) -> Span:
        """Start the span of a command on its way to its service, as a child of the client's."""
        told = {
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.operation.name": "request",
            "messaging.destination.template": template,
        }
        parent = remote(trace) if trace else None
        return self.begin(f"command {name}", SpanKind.CLIENT, told, parent=parent)

    def begin(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        link: SpanContext | None = None,
        parent: SpanContext | None = None,
        ago: float = 0.0,
    ) -> Span:
        """Start a span ``ago`` seconds ago: a root, unless it has a ``parent``."""
        return self._tracer.start_span(
            name,
            context=Context() if parent is None else under(parent),
            kind=kind,
            attributes=dict(attributes),
            links=None if link is None else [Link(link)],
            start_time=self._wall() - round(ago * 1e9),
        )

    def _template(self, stored: bool, audience: Audience, name: str, about: bool) -> str:
        user = ".{user}" if audience is Audience.USER else ""
        resource = "{resource}" if about else NO_RESOURCE
        return f"{self._roots[stored]}.{audience}{user}.{name}.{resource}"


def header_of(span: Span) -> str:
    """Return the ``traceparent`` of a span."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def end(span: Span, error: str = "") -> None:
    """End a span, with an error where there was one."""
    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
