"""Events that are followed on their way down: what telemetry hears of them.

Nearly all events pass without a trace of their own; one whose publisher sampled it, and now and
then another, is followed from the read that brought it to the write that sent it. Pure: what is
made of it is the watcher's, see :mod:`natsbridge.bridge.telemetry.process`.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, Protocol

from natsbridge.schemas.catalogue import EventType
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.subjects import Audience

if TYPE_CHECKING:
    from natsbridge.bridge.delivery.outbox import Outbox


class Followed:
    """One event. ``sequence`` is in digits, empty where the event is not stored; ``trace`` is the
    sampled ``traceparent`` of its publisher, empty where it has none.
    """

    __slots__ = (
        "audience",
        "denied",
        "event_type",
        "frame",
        "headers",
        "matched",
        "off",
        "payload",
        "queued",
        "read_at",
        "resource",
        "sequence",
        "suppressed",
        "trace",
    )

    def __init__(
        self,
        event_type: EventType,
        audience: Audience,
        resource: str,
        *,
        sequence: bytes,
        trace: bytes,
        headers: bytes,
        payload: bytes,
        frame: bytes,
    ) -> None:
        self.event_type: Final = event_type
        self.audience: Final = audience
        self.resource: Final = resource
        self.sequence: Final = sequence
        self.trace: Final = trace
        self.headers: Final = headers
        self.payload: Final = payload
        self.frame: Final = frame
        self.read_at: Final = perf_counter_ns()
        self.matched = 0
        """Sessions that were to have it."""
        self.denied = 0
        """Sessions that their grants kept it from."""
        self.off: list[Outbox] = []
        """Those of them that have a backlog."""
        self.queued = 0
        """Sessions for which it waits, since they read too slowly or asked for a pace."""
        self.suppressed = 0
        """Sessions that do not get it as it came: conflated, healed or dropped."""

    @property
    def written(self) -> int:
        """Sessions that it was written to."""
        return self.matched - self.queued - self.suppressed

    def settle(self) -> None:
        """See what became of it where the way was not straight; after the flush."""
        for outbox in self.off:
            backlog = outbox.backlog
            if backlog is None:
                continue
            if backlog.holds(self.frame):
                self.queued += 1
            elif backlog.blocked or backlog.overran or backlog.lost_after is not None:
                self.suppressed += 1
        self.off = []


class Watcher(Protocol):
    """Hears of the way down."""

    def flushed(self, began: int, events: list[Followed], slowest: int) -> None:
        """All is written that came since ``began``, a time of ``perf_counter_ns``, 0 where nothing
        came; of these events ``slowest`` was the longest write, in nanoseconds.
        """

    def rejected(self, subject: bytes, headers: bytes, payload: bytes, error: EventError) -> None:
        """An event must not reach a client."""


class Timed:
    """Walks through outboxes and takes the time between one and the next."""

    __slots__ = ("slowest",)

    def __init__(self) -> None:
        self.slowest = 0
        """The longest time, in nanoseconds."""

    def walk(self, outboxes: list[Outbox]) -> Iterator[Outbox]:
        """Yield each."""
        before = perf_counter_ns()
        for outbox in outboxes:
            yield outbox
            now = perf_counter_ns()
            if now - before > self.slowest:
                self.slowest = now - before
            before = now
