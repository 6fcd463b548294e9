"""Every metric by its name: counts that the bridge keeps anyway, read when asked.

Nothing here is on the way of an event. No label names a user, a subject or a connection.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from natsbridge.bridge.telemetry.histograms import BOUNDS, Histogram
from natsbridge.bridge.telemetry.observer import Observer
from natsbridge.bridge.telemetry.pulse import Pulse
from natsbridge.bridge.telemetry.way_down import WayDown

AGES: Final = {"1m": 60.0, "10m": 600.0, "1h": 3600.0, "6h": 21600.0, "24h": 86400.0}
"""Ages by which connections are counted, in seconds."""
MORE: Final = "more"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the bridge has done and how it is at one moment."""

    connections: int
    closing: int
    """Sockets that were told to go, or whose session is over, and that are not closed yet."""
    pending: int
    """Connections that are no WebSockets (yet), or WebSockets of nobody who is known yet."""
    evicted: int
    """How many of them had to make room for others."""
    events: int
    deliveries: int
    rejected: dict[str, int]
    rejects_unsent: int
    """Rejected events that were not published, since there were too many."""
    schemas: dict[str, int]
    """Events by the schema that their publishers named in ``Bridge-Schema``."""
    spared: dict[str, int]
    """Events that a client did not get as they came: ``conflated``, ``healed``, ``dropped``."""
    ignored: dict[str, int]
    """Messages on the control subjects that had no form, by reason."""
    replays: int
    """Sessions that stored events are being sent to."""
    caught_up: int
    """How often what was missed has been read from the stream, or given up."""
    nats_up: bool
    stream_up: bool
    """Whether events can be resumed; else delivery is live only."""
    catching_up: bool
    clock_behind: float | None
    """Seconds by which this machine's clock is behind NATS's; None before they were compared."""
    interests: int
    """Subscriptions at NATS that connections hold, or that linger for one that comes back."""
    tasks: int
    timers: int
    """Timers of the event loop that are still to come."""
    users: int
    ages: dict[str, int]
    """Connections by how long they have been there, see :data:`AGES`."""
    queued: int
    """Messages that wait for connections that are behind."""
    queued_bytes: int
    queued_worst: int
    """Bytes of the connection for which most wait."""
    writes: int
    written_bytes: int
    """What was written of events, before WebSocket's and TLS's own bytes."""
    reconnects: int
    """Times that NATS was connected again."""
    round_trip: float | None
    """Seconds that JetStream took to answer last; None before it did."""
    lag: int
    """Events that the stream holds beyond what has come here, when it was last looked at."""
    limits: dict[str, float]


class Numbers(Collector):
    """Reads everything when it is asked for."""

    def __init__(
        self,
        read: Callable[[], Reading],
        observer: Observer,
        way_down: WayDown,
        pulse: Pulse,
    ) -> None:
        self._read: Final = read
        self._observer: Final = observer
        self._way_down: Final = way_down
        self._pulse: Final = pulse

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, of this moment."""
        now = self._read()
        for name, told, value in (
            ("connections", "WebSocket connections", now.connections),
            ("connections_closing", "Connections on their way out", now.closing),
            ("connections_pending", "Connections whose client is not known", now.pending),
            ("users", "Users who are connected", now.users),
            ("queued_messages", "Messages that wait for slow connections", now.queued),
            ("queued_bytes", "Bytes of those messages", now.queued_bytes),
            ("queued_worst_bytes", "Bytes that wait for the slowest one", now.queued_worst),
            ("stream_lag_events", "Events of the stream that have not come", now.lag),
            ("replays", "Connections that stored events are being sent to", now.replays),
            ("nats_up", "Whether NATS is connected", int(now.nats_up)),
            ("stream_up", "Whether events can be resumed; 0: live only", int(now.stream_up)),
            (
                "catching_up",
                "Whether missed events are being read from the stream",
                int(now.catching_up),
            ),
            ("interests", "Subscriptions at NATS", now.interests),
            ("tasks", "Tasks of the event loop", now.tasks),
            ("timers", "Timers of the event loop that are still to come", now.timers),
        ):
            yield GaugeMetricFamily(f"bridge_{name}", told, value=value)
        if now.clock_behind is not None:
            yield GaugeMetricFamily(
                "bridge_clock_behind_seconds",
                "How far this machine's clock is behind NATS's; negative: ahead",
                value=now.clock_behind,
            )
        if now.round_trip is not None:
            yield GaugeMetricFamily(
                "bridge_jetstream_round_trip_seconds",
                "How long JetStream took to answer last",
                value=now.round_trip,
            )
        for name, told, value in (
            ("connections_evicted", "Pending ones that made room for others", now.evicted),
            ("events", "Events that came in and were in order", now.events),
            ("deliveries", "Events given to connections", now.deliveries),
            ("writes", "Writes of events to connections", now.writes),
            ("written_bytes", "Bytes of those writes", now.written_bytes),
            ("nats_reconnects", "Times that NATS was connected again", now.reconnects),
            ("clock_skewed_events", "Events from the future of this clock", self._way_down.skewed),
            ("catch_ups", "Times that missed events were read, or given up", now.caught_up),
            ("rejects_unsent", "Refused events not published: too many", now.rejects_unsent),
        ):
            yield CounterMetricFamily(f"bridge_{name}", told, value=value)
        for name, told, label, values in (
            ("rejected_events", "Events that were refused", "reason", now.rejected),
            ("event_schemas", "Events by what Bridge-Schema named", "schema", now.schemas),
            ("spared_deliveries", "Events that a slow client did not get", "how", now.spared),
            ("control_ignored", "Control messages that were not taken", "reason", now.ignored),
        ):
            family = CounterMetricFamily(f"bridge_{name}", told, labels=[label])
            for key, value in sorted(values.items()):
                family.add_metric([str(key)], value)
            yield family
        for name, told, label, states in (
            ("connections_by_age", "Connections by their age, up to", "age", now.ages),
            ("limit", "Limits in force", "limit", now.limits),
        ):
            gauge = GaugeMetricFamily(f"bridge_{name}", told, labels=[label])
            for key, state in states.items():
                gauge.add_metric([key], state)
            yield gauge
        built = GaugeMetricFamily("bridge_build", "What runs", labels=["version", "python"])
        built.add_metric([version("natsbridge"), platform.python_version()], 1)
        yield built
        yield from _observed(self._observer)
        yield from _durations(self._observer, self._way_down, self._pulse)


def _observed(seen: Observer) -> Iterator[Metric]:
    """Yield what the observer has counted."""
    for name, told, value in (
        ("connections_opened", "Handshakes that were accepted (101)", seen.upgraded),
        ("connections_established", "Connections whose client is known", seen.established),
        ("stalls", "Times that a connection could not be written to", seen.stalls),
    ):
        yield CounterMetricFamily(f"bridge_{name}", told, value=value)
    tallies: tuple[tuple[str, str, tuple[str, ...], Mapping[Any, int]], ...] = (
        ("connections_closed", "Connections that ended", ("code", "by"), seen.closed),
        ("handshakes_refused", "Handshakes answered by HTTP", ("status", "reason"), seen.refused),
        ("tokens_refused", "Tokens and tickets that were not good", ("reason",), seen.tokens),
        ("errors", "Errors that answered a message", ("code",), seen.errors),
        ("client_messages", "Messages of clients that could be read", ("type",), seen.messages),
        ("commands", "Commands and their outcome", ("command", "outcome"), seen.commands),
        ("tickets", "Tickets that were asked for", ("outcome",), seen.tickets),
        ("admin_actions", "What administrators did", ("action",), seen.actions),
        ("http_requests", "HTTP answers, but those to handshakes", ("status",), seen.requests),
    )
    for name, told, labels, tally in tallies:
        family = CounterMetricFamily(f"bridge_{name}", told, labels=labels)
        for key, count in sorted(tally.items()):
            family.add_metric(key if isinstance(key, tuple) else (key,), count)
        yield family


def _durations(seen: Observer, way_down: WayDown, pulse: Pulse) -> Iterator[Metric]:
    labels = ("audience", "durability")
    published = way_down.published.items()
    for name, told, histograms in (
        ("delivery", "From the read that brought an event to its last write", way_down.received),
        ("publish_to_delivery", "From an event's time to its last write", published),
    ):
        family = HistogramMetricFamily(f"bridge_{name}_seconds", told, labels=labels)
        for key, histogram in histograms:
            if histogram.count:
                _add(family, key, histogram)
        yield family
    for name, told, histogram in (
        ("command", "From a client's command to its service's answer", seen.command_times),
        ("loop_lag", "By how much the event loop runs late", pulse.lag),
    ):
        family = HistogramMetricFamily(f"bridge_{name}_seconds", told)
        _add(family, (), histogram)
        yield family
    collections = CounterMetricFamily(
        "bridge_gc_collections", "Runs of the cycle collector", labels=["generation"]
    )
    for generation, count in enumerate(pulse.collections):
        collections.add_metric([str(generation)], count)
    yield collections
    yield CounterMetricFamily(
        "bridge_gc_pause_seconds", "How long those held everything up", value=pulse.paused
    )


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    buckets: list[Any] = []
    total = 0
    for at, count in enumerate(histogram.counts):
        total += count
        bound = str(BOUNDS[at]) if at < len(BOUNDS) else "+Inf"
        shown = histogram.exemplars.get(at)
        if shown is None:
            buckets.append((bound, total))
        else:
            (trace, span), value, when = shown
            ids = {"trace_id": trace, "span_id": span}
            buckets.append((bound, total, Exemplar(ids, value, when)))
    family.add_metric(labels, buckets, histogram.sum)


def ages(began: Iterable[float], now: float) -> dict[str, int]:
    """Return how many connections are so old; times are in seconds."""
    found = dict.fromkeys([*AGES, MORE], 0)
    for each in began:
        age = now - each
        found[next((name for name, most in AGES.items() if age <= most), MORE)] += 1
    return found
