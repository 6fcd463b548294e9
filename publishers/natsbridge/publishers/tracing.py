"""Spans of what the SDK does: OpenTelemetry's API alone, which does nothing where a process has not
set up its SDK.

An event is one ``send <type>`` (PRODUCER), from its validation to the stream's acknowledgement, and
carries that span's context. What goes through the spool has another for its forwarding, linked to
the first. A command is one ``command <name>`` (SERVER) while its handler runs. Names and attributes
are those of the messaging conventions, https://opentelemetry.io/docs/specs/semconv/messaging/. No
span holds a user's id or event data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from natsbridge.publishers.errors import InvalidEvent
from natsbridge.publishers.outgoing import OutgoingEvent, Receipt
from natsbridge.schemas.envelope import HEADER_TRACEPARENT, HEADER_TRACESTATE
from natsbridge.schemas.events import EventData
from natsbridge.schemas.subjects import NO_RESOURCE

tracer: Final = trace.get_tracer("natsbridge.publishers")
"""Follows the provider that the process sets, also when that comes later than this import."""

_SYSTEM: Final = {"messaging.system": "nats", "messaging.operation.type": "send"}
_SEND: Final = {**_SYSTEM, "messaging.operation.name": "send"}
_FORWARD: Final = {**_SYSTEM, "messaging.operation.name": "forward"}


class Sends:
    """The spans of the events that one call publishes."""

    def __init__(self) -> None:
        self._open: Final[dict[str, Span]] = {}

    def _begin(self, event_type: str, links: Iterable[Link] = ()) -> Span:
        return tracer.start_span(
            f"send {event_type}",
            kind=SpanKind.PRODUCER,
            attributes=_SEND,
            links=list(links) or None,
        )

    def prepare(self, data: EventData, make: Callable[[Span], OutgoingEvent]) -> OutgoingEvent:
        """Return an event that is made within its span."""
        span = self._begin(data.traits.type)
        try:
            event = make(span)
        except BaseException as error:
            fail(span, error)
            raise
        self._add(event, span)
        return event

    def _add(self, event: OutgoingEvent, span: Span) -> None:
        self._open[event.id] = span
        _describe(span, event)

    def of(self, event: OutgoingEvent) -> Span:
        """Return an event's span; one that was prepared before has a new one, linked to it."""
        span = self._open.get(event.id)
        if span is None:
            span = self._begin(event.type, links_to(event.headers))
            self._add(event, span)
        return span

    def end(self, event: OutgoingEvent, receipt: Receipt) -> None:
        """The event is where it was to go."""
        _end(self._open.pop(event.id, None), receipt)

    def fail(self, error: BaseException, event: OutgoingEvent | None = None) -> None:
        """This event has failed, or all that have no receipt by now."""
        for each in [event.id] if event is not None else list(self._open):
            if (span := self._open.pop(each, None)) is not None:
                fail(span, error)


@contextmanager
def sends() -> Iterator[Sends]:
    """Make the spans of one call; those still open at its end have failed with its error."""
    made = Sends()
    try:
        yield made
    except BaseException as error:
        made.fail(error)
        raise


def fail(span: Span, error: BaseException) -> None:
    """End a span with an error, see :func:`mark`."""
    mark(span, error)
    span.end()


def mark(span: Span, error: BaseException) -> None:
    """Give a span an error: its type, or why the event is not valid."""
    if span.is_recording():
        why = error.reason if isinstance(error, InvalidEvent) else type(error).__name__
        span.set_attribute("error.type", str(why))
        span.set_status(Status(StatusCode.ERROR, str(error)[:256]))


@contextmanager
def serving(command: str, template: str) -> Iterator[Span]:
    """The span of a command that is answered, a child of what is current, and current itself: what
    the handler publishes is below it.
    """
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "answer",
        "messaging.destination.template": template,
    }
    span = tracer.start_span(f"command {command}", kind=SpanKind.SERVER, attributes=attributes)
    with trace.use_span(span, end_on_exit=True, record_exception=False):
        yield span


def retried(span: Span, failures: int, why: BaseException, seconds: float) -> None:
    """An attempt has failed, and there will be another one after so many seconds."""
    if span.is_recording():
        span.add_event(
            "retry",
            {"attempt": failures, "reason": str(why)[:256], "pause": round(seconds, 3)},
        )


@contextmanager
def forwarding(event: OutgoingEvent, spooled_at: float) -> Iterator[Span]:
    """The span of an event's way from the spool to the stream: a trace of its own, linked to the
    event's ``send``, which may have ended in another process.

    ``spooled_at`` is in seconds of Unix time. An error that leaves the block is the span's. An
    event whose ``send`` was not sampled has none.
    """
    links = links_to(event.headers)
    if links and not links[0].context.trace_flags.sampled:
        yield trace.INVALID_SPAN
        return
    span = tracer.start_span(
        f"forward {event.type}",
        # Not a child of what was current when the publisher was opened.
        context=trace.set_span_in_context(trace.INVALID_SPAN),
        kind=SpanKind.PRODUCER,
        attributes=_FORWARD,
        links=links,
    )
    _describe(span, event)
    if span.is_recording():
        span.set_attribute("natsbridge.spool.waited", round(time.time() - spooled_at, 3))
    try:
        yield span
    except BaseException as error:
        fail(span, error)
        raise


def stored(span: Span, receipt: Receipt) -> None:
    """End the span of an event that the stream has."""
    _end(span, receipt)


def found(span: Span, stream: str, sequence: int) -> None:
    """End the span of an event that the stream had already."""
    if span.is_recording():
        span.set_attributes(
            {
                "natsbridge.stream.name": stream,
                "natsbridge.stream.sequence": sequence,
                "natsbridge.duplicate": True,
            }
        )
    span.end()


def links_to(headers: Mapping[str, str]) -> list[Link]:
    """Return a link to the span whose context these headers carry, if they carry one."""
    if HEADER_TRACEPARENT not in headers:
        return []
    carrier = {
        name: headers[name] for name in (HEADER_TRACEPARENT, HEADER_TRACESTATE) if name in headers
    }
    found = trace.get_current_span(propagate.extract(carrier)).get_span_context()
    return [Link(found)] if found.is_valid else []


def _template(event: OutgoingEvent) -> str:
    """Return an event's subject with names in the place of ids: there are as many as types."""
    below, _, resource = event.subject.rpartition(".")
    where = below.removesuffix(event.type)
    if event.user is not None:
        where = where[:-1].rpartition(".")[0] + ".{user}."
    return f"{where}{event.type}.{resource if resource == NO_RESOURCE else '{resource}'}"


def _describe(span: Span, event: OutgoingEvent) -> None:
    if span.is_recording():
        span.set_attributes(
            {
                "messaging.destination.template": _template(event),
                "messaging.message.id": event.id,
                "messaging.message.body.size": len(event.payload),
            }
        )


def _end(span: Span | None, receipt: Receipt) -> None:
    if span is None:
        return
    if span.is_recording():
        told: dict[str, Any] = {"natsbridge.attempts": receipt.attempts}
        if receipt.stored:
            told |= {
                "natsbridge.stream.name": receipt.stream,
                "natsbridge.stream.sequence": receipt.sequence,
                "natsbridge.duplicate": receipt.duplicate,
            }
        if receipt.spooled:
            told["natsbridge.spooled"] = True
        span.set_attributes(told)
    span.end()
