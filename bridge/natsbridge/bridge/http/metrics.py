"""``/metrics`` in Prometheus's text format: counts that the bridge keeps anyway, read when asked.

Nothing here is on the way of an event. No label names a user, a subject or a connection.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from natsbridge.bridge.http.callers import admin
from natsbridge.bridge.telemetry.observer import Observer


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


class _Numbers(Collector):
    def __init__(self, read: Callable[[], Reading], observer: Observer) -> None:
        self._read: Final = read
        self._observer: Final = observer

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, of this moment."""
        now = self._read()
        for name, told, value in (
            ("connections", "WebSocket connections", now.connections),
            ("connections_closing", "Connections on their way out", now.closing),
            ("connections_pending", "Connections whose client is not known", now.pending),
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
        for name, told, value in (
            ("connections_evicted", "Pending ones that made room for others", now.evicted),
            ("events", "Events that came in and were in order", now.events),
            ("deliveries", "Events given to connections", now.deliveries),
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
        yield from _observed(self._observer)


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


def router(read: Callable[[], Reading], observer: Observer, guarded: bool) -> APIRouter:
    """Return the route; where it is ``guarded``, it is for admins' tokens."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(read, observer))
    if sys.platform == "linux":
        # CPU, memory and descriptors of the process, from /proc.
        ProcessCollector(namespace="bridge", registry=registry)
    routes = APIRouter(tags=["health"], dependencies=[Depends(admin)] if guarded else [])

    @routes.get("/metrics", summary="Counts and states for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    return routes
