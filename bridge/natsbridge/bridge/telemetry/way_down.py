"""What is made of the way down: spans of events that are followed, and how long delivery took.

How long it is from the read that brought an event to the write that sent it is counted for all
events, a flush at a time. How long it is from its publishing takes the envelope's time, which is
read of sampled events and of one other in each tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from time import perf_counter_ns, time
from typing import Final

from pydantic_core import from_json

from natsbridge.bridge.delivery.following import Followed
from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.routes import Types
from natsbridge.bridge.telemetry.histograms import Histogram
from natsbridge.bridge.telemetry.tracing import Tracing
from natsbridge.schemas.errors import EventError

LOOK_NS: Final = 100_000_000
"""Nanoseconds between two events that are followed without being sampled."""
MAX_AGE: Final = 3600.0
"""Seconds; an event that was published longer ago says nothing of the way it took."""

Key = tuple[str, str]
"""Audience and durability, ``stored`` or ``live``."""


class _Kind:
    """One audience's events: how many were counted, and how long they took."""

    __slots__ = ("durable", "histograms", "live", "types")

    def __init__(self, types: Types) -> None:
        self.types: Final = types
        self.durable, self.live = types.durable, types.live
        self.histograms: Final = (Histogram(), Histogram())


class WayDown:
    """The watcher of one hub; see :class:`natsbridge.bridge.delivery.following.Watcher`."""

    def __init__(self, hub: Hub, tracing: Tracing | None = None) -> None:
        self._hub: Final = hub
        self._kinds: Final = tuple(_Kind(types) for types in hub.counts.kinds)
        self._tracing: Final = tracing
        self._look_at = 0
        self.published: Final[dict[Key, Histogram]] = {}
        """Publish → last write, by audience and durability."""
        self.skewed = 0
        """Events whose publisher's clock is ahead of this machine's: they count as 0 s."""

    @property
    def received(self) -> Iterable[tuple[Key, Histogram]]:
        """Receive → last write, by audience and durability."""
        for kind in self._kinds:
            for name, histogram in zip(("stored", "live"), kind.histograms, strict=True):
                yield (str(kind.types.audience), name), histogram

    def flushed(self, began: int, events: list[Followed], slowest: int) -> None:
        """All is written that came since ``began``."""
        now = perf_counter_ns()
        if began:
            took = (now - began) / 1e9
            for kind in self._kinds:
                types = kind.types
                if types.durable != kind.durable:
                    kind.histograms[0].add(took, types.durable - kind.durable)
                    kind.durable = types.durable
                if types.live != kind.live:
                    kind.histograms[1].add(took, types.live - kind.live)
                    kind.live = types.live
        for event in events:
            self._followed(event, now - (began or event.read_at), slowest)
        if now >= self._look_at:
            self._look_at = now + LOOK_NS
            self._hub.look = True

    def _followed(self, event: Followed, took: int, slowest: int) -> None:
        event.settle()
        key = str(event.audience), "stored" if event.sequence else "live"
        exemplar = None
        if event.trace:
            _, trace, span, _ = event.trace.decode().split("-")
            exemplar = trace, span
        published = self._published(event.payload)
        if published is not None:
            histogram = self.published.get(key)
            if histogram is None:
                histogram = self.published[key] = Histogram()
            age = time() - published
            if age < 0:
                self.skewed += 1
                age = 0.0
            if age < MAX_AGE:
                histogram.add(age, 1, exemplar)
        if exemplar is not None:
            for found, histogram in self.received:
                if found == key:
                    histogram.show(took / 1e9, exemplar)
            if self._tracing is not None:
                self._tracing.processed(event, took=took, slowest=slowest)

    @staticmethod
    def _published(payload: bytes) -> float | None:
        try:
            return datetime.fromisoformat(from_json(payload)["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError, OverflowError):
            return None  # a form that this Python does not read

    def rejected(self, subject: bytes, headers: bytes, payload: bytes, error: EventError) -> None:
        """An event must not reach a client."""
        if self._tracing is not None:
            name = b".".join(subject.split(b".")[-3:-1])
            known = name.decode() if name in self._hub.known else ""
            self._tracing.rejected(headers, known, error)
