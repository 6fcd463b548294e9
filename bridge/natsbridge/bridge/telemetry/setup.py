"""OpenTelemetry's SDK, set up from its own variables, and imported only where they ask for it.

``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``) turns tracing on; the
exporter is OTLP over HTTP with protobuf. The SDK reads the rest: the sampler, headers, timeouts,
the queue of spans that wait. https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.errors import StartError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
MAX_BATCH: Final = "64"
"""Spans in one export unless a variable says otherwise. The SDK's 512 are encoded in one go, while
the event loop waits for the interpreter.
"""
STOP_SECONDS: Final = 2.0
"""Longest wait for the last spans to leave."""
SCOPE: Final = "natsbridge.bridge"


def wants(environment: Mapping[str, str], signal: str) -> bool:
    """Return whether these variables ask for a signal: ``TRACES``, ``METRICS`` or ``LOGS``.

    Raises :class:`StartError` for an exporter or a protocol that there is none of here.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    endpoint = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environment.get(ENDPOINT)
    exporter = environment.get(f"OTEL_{signal}_EXPORTER", "").strip() or "otlp"
    if exporter == "none" or not (endpoint or environment.get(f"OTEL_{signal}_EXPORTER")):
        return False
    if exporter != "otlp":
        raise StartError(f"OTEL_{signal}_EXPORTER is otlp or none, not {exporter!r}")
    protocol = (
        environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise StartError(f"OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf, not {protocol!r}")
    return True


def resource_of(environment: Mapping[str, str], replica: str) -> dict[str, str]:
    """Return what all of one replica's telemetry says of where it is from.

    ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` win, which the SDK reads.
    """
    told = {"service.version": version("natsbridge"), "service.instance.id": replica}
    given = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "service.name=" not in given and not environment.get("OTEL_SERVICE_NAME"):
        told["service.name"] = "natsbridge"
    return {name: value for name, value in told.items() if f"{name}=" not in given}


def tracer_provider(environment: Mapping[str, str], replica: str) -> TracerProvider | None:
    """Return a provider that exports, or None where nothing asks for one.

    Raises :class:`StartError` for variables that can't be used.
    """
    if not wants(environment, "TRACES"):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        provider = TracerProvider(
            resource=Resource.create(dict(resource_of(environment, replica))),
            shutdown_on_exit=False,  # which would wait for a collector that is away
        )
        size = int(environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or MAX_BATCH)
        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(), max_export_batch_size=size)
        )
    except ValueError as problem:
        raise StartError(f"OTEL_…: {problem}") from problem
    for name in ("opentelemetry", "urllib3"):
        # A collector that is away is told of by one line a second at the most, see logs.Floods.
        logging.getLogger(name).setLevel(logging.WARNING)
    return provider


def finish(stop: object) -> None:
    """Call ``stop`` in a thread of its own, and wait for it for :data:`STOP_SECONDS`.

    The thread is a daemon: a collector that does not answer holds up no exit.
    """
    assert callable(stop)
    thread = threading.Thread(target=stop, name="telemetry-stop", daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)
    if thread.is_alive():
        log.warning("the collector does not take the last spans")
