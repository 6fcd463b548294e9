"""Which variables turn OpenTelemetry on, and what is wrong with others."""

from __future__ import annotations

import threading
import time

import pytest

from natsbridge.bridge.errors import StartError
from natsbridge.bridge.telemetry import setup

ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ON, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1/v1/metrics"}, False),
        ({**ON, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ON, "OTEL_SDK_DISABLED": " True"}, False),
        ({"OTEL_SERVICE_NAME": "mine"}, False),
    ],
)
def test_an_endpoint_turns_tracing_on(environment: dict[str, str], wanted: bool) -> None:
    """Or the exporter's name; ``none`` and ``OTEL_SDK_DISABLED`` turn it off."""
    assert setup.wants(environment, "TRACES") is wanted


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {**ON, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
        {**ON, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "many"},
    ],
)
def test_what_there_is_not_stops_the_start(environment: dict[str, str]) -> None:
    """An exporter or protocol that is not there is no reason to be silent."""
    with pytest.raises(StartError, match="OTEL_"):
        setup.tracer_provider(environment, "r")


def test_names_of_the_owner_win() -> None:
    """What ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME`` say is not replaced."""
    told = setup.resource_of({}, "r")
    assert (told["service.name"], told["service.instance.id"]) == ("natsbridge", "r")
    given = {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=mine", "OTEL_SERVICE_NAME": "edge"}
    assert set(setup.resource_of(given, "r")) == {"service.version"}


def test_a_collector_that_does_not_answer_holds_up_no_exit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last spans have a deadline."""
    monkeypatch.setattr(setup, "STOP_SECONDS", 0.05)
    forever = threading.Event()
    began = time.monotonic()
    setup.finish(forever.wait)
    assert time.monotonic() - began < 5
    assert "does not take the last spans" in caplog.text
    forever.set()
