"""A receiver of OTLP/HTTP, and what it was sent, as tests look at it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as RawSpan
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

ROOT: Final = Path(__file__).parents[2]
DEADLINE: Final = 30.0
"""Longest wait for spans, in seconds."""

EXPORT: Final = {
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


@dataclass(frozen=True)
class Span:
    """A span as it was received; ids are hexadecimal, times are in nanoseconds."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    events: tuple[str, ...]
    error: bool
    start: int
    end: int

    @classmethod
    def of(cls, raw: RawSpan) -> Span:
        """Read one of the protocol's."""
        return cls(
            raw.name,
            RawSpan.SpanKind.Name(raw.kind).removeprefix("SPAN_KIND_"),
            raw.trace_id.hex(),
            raw.span_id.hex(),
            raw.parent_span_id.hex(),
            tuple((link.trace_id.hex(), link.span_id.hex()) for link in raw.links),
            _values(raw.attributes),
            tuple(event.name for event in raw.events),
            raw.status.code == 2,
            raw.start_time_unix_nano,
            raw.end_time_unix_nano,
        )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


@dataclass
class Tap:
    """What has been received so far."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    """The last that came of each name."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that is to export its spans here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, **EXPORT}

    def add(self, raw: RawSpan) -> None:
        """Keep one more."""
        self.spans.append(Span.of(raw))
        self._news.set()

    def about(self, event_type: str) -> list[Span]:
        """The spans of this type's events."""
        return [span for span in self.spans if span.name.endswith(f" {event_type}")]

    def named(self, name: str) -> list[Span]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]

    def measured(self, metric: Metric) -> None:
        """Keep a metric instead of the one before it."""
        self.metrics[metric.name] = metric
        self._news.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        """Return when what was received is enough; fails with what there is after the deadline."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not enough():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            names = sorted(span.name for span in self.spans)
            raise AssertionError(f"not enough spans: {names}") from None

    async def count(self, name: str, number: int) -> list[Span]:
        """Wait for so many spans of a name, and return them."""
        await self.until(lambda: len(self.named(name)) >= number)
        return self.named(name)


@contextlib.asynccontextmanager
async def tap() -> AsyncIterator[Tap]:
    """Receive spans while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
    receiver = OtelTapHttpProtobufReceiver(settings)
    heard = Tap(f"http://127.0.0.1:{port}")

    async def gather() -> None:
        async for raw in receiver.stream_traces():
            heard.add(raw)

    async def measure() -> None:
        async for metric in receiver.stream_metrics():
            heard.measured(metric)

    async with receiver:
        create = asyncio.get_running_loop().create_task
        gathering = [create(gather()), create(measure())]
        try:
            await asyncio.sleep(0)  # the streams begin with their first step
            yield heard
        finally:
            for task in gathering:
                task.cancel()
            await asyncio.wait(gathering)


@contextlib.asynccontextmanager
async def service(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the traced service with these arguments; it has ended by itself when the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.traced_service",
        *arguments,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
        async with asyncio.timeout(DEADLINE):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def publish(*arguments: str, **environment: str) -> list[dict[str, object]]:
    """Run the traced service with these arguments, and return its receipts."""
    async with service(*arguments, **environment) as process, asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.splitlines()]
