"""The metrics of ``/metrics`` over OTLP: the same families, read at the same place, pushed.

They are read in the event loop, which takes as long as a scrape, and sent by a thread, one export
at a time: while a collector does not answer there is nothing that waits but the one under way.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric as Family

from natsbridge.bridge.errors import StartError
from natsbridge.bridge.telemetry.histograms import BOUNDS
from natsbridge.bridge.telemetry.setup import SCOPE, resource_of, wants

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricsData
    from opentelemetry.sdk.resources import Resource

log = logging.getLogger(__name__)

INTERVAL: Final = 60.0
"""Seconds between two exports, unless ``OTEL_METRIC_EXPORT_INTERVAL`` (milliseconds) says more."""


def exporter(
    environment: Mapping[str, str],
    replica: str,
    families: Callable[[], Iterable[Family]],
    loop: asyncio.AbstractEventLoop,
) -> Exporter | None:
    """Return what exports the families, or None where no variable asks for it.

    Raises :class:`StartError` for variables that can't be used.
    """
    if not wants(environment, "METRICS"):
        return None
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.resources import Resource

    given = environment.get("OTEL_METRIC_EXPORT_INTERVAL")
    try:
        seconds = INTERVAL if not given else int(given) / 1000
        if seconds <= 0:
            raise ValueError("OTEL_METRIC_EXPORT_INTERVAL is over 0")
        resource = Resource.create(dict(resource_of(environment, replica)))
        return Exporter(OTLPMetricExporter(), resource, families, loop, seconds)
    except ValueError as problem:
        raise StartError(f"OTEL_…: {problem}") from problem


class Exporter:
    """Exports once an interval, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        exporter: OTLPMetricExporter,
        resource: Resource,
        families: Callable[[], Iterable[Family]],
        loop: asyncio.AbstractEventLoop,
        interval: float,
    ) -> None:
        self._exporter: Final = exporter
        self._resource: Final = resource
        self._families: Final = families
        self._loop: Final = loop
        self._interval: Final = interval
        self._began: Final = time.time_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._sending: threading.Thread | None = None

    def start(self) -> None:
        """Export from now on."""
        self._timer = self._loop.call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Export no more but the numbers of the end; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._send()

    def close(self) -> None:
        """Wait until the last export is through; blocks."""
        if self._sending is not None:
            self._sending.join()
        self._exporter.shutdown()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
        self._send()

    def _send(self) -> None:
        if self._sending is not None and self._sending.is_alive():
            return  # the next one has these numbers, too: they only grow
        data = convert(self._families(), self._resource, self._began, time.time_ns())
        self._sending = threading.Thread(
            target=self._export, args=(data,), name="metrics", daemon=True
        )
        self._sending.start()

    def _export(self, data: MetricsData) -> None:
        try:
            self._exporter.export(data)
        except Exception:  # the library's own code on a thread: nobody else would tell
            log.exception("the metrics could not be exported")


def convert(families: Iterable[Family], resource: Resource, began: int, now: int) -> MetricsData:
    """Return Prometheus's families as OTLP has them; ``began`` and ``now`` are in nanoseconds."""
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    cumulative = export.AggregationTemporality.CUMULATIVE
    metrics = []
    for family in families:
        data: export.Histogram | export.Sum | export.Gauge
        if family.type == "histogram":
            data = export.Histogram(_histograms(family, began, now), cumulative)
        else:
            points = [
                export.NumberDataPoint(dict(each.labels), began, now, each.value)
                for each in family.samples
            ]
            if family.type == "counter":
                data = export.Sum(points, cumulative, is_monotonic=True)
            else:
                data = export.Gauge(points)
        name = family.name.removeprefix("bridge_")
        unit = "s" if name.endswith("_seconds") else "By" if name.endswith("_bytes") else "1"
        metrics.append(export.Metric(f"natsbridge.{name}", family.documentation, unit, data))
    scope = export.ScopeMetrics(InstrumentationScope(SCOPE), metrics, "")
    return export.MetricsData([export.ResourceMetrics(resource, [scope], "")])


def _histograms(family: Family, began: int, now: int) -> list[HistogramDataPoint]:
    """Return one point for each set of labels, whose samples follow each other."""
    from opentelemetry.sdk.metrics import Exemplar
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    points: list[HistogramDataPoint] = []
    counts: list[int] = []
    exemplars: list[Exemplar] = []
    for each in family.samples:
        if each.name.endswith("_bucket"):
            counts.append(int(each.value) - sum(counts))
            if each.exemplar is not None:
                exemplars.append(
                    Exemplar(
                        {},
                        each.exemplar.value,
                        round(float(each.exemplar.timestamp or 0) * 1e9),
                        int(each.exemplar.labels["span_id"], 16),
                        int(each.exemplar.labels["trace_id"], 16),
                    )
                )
        elif each.name.endswith("_sum"):
            points.append(
                HistogramDataPoint(
                    dict(each.labels),
                    began,
                    now,
                    sum(counts),
                    each.value,
                    counts,
                    BOUNDS,
                    min=None,  # type: ignore[arg-type]  # both are optional in the protocol
                    max=None,  # type: ignore[arg-type]
                    exemplars=exemplars,
                )
            )
            counts, exemplars = [], []
    return points
