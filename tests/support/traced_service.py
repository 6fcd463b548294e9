"""A service with OpenTelemetry's SDK: publishes what its arguments say, in one trace an event.

Usage: ``traced_service.py COUNT TYPE [USER…]``; prints the receipts as JSON, one a line. With
``cancel`` as the type it prints ``ready`` and answers so many ``upload.cancel`` with an event each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from natsbridge.publishers import (
    SUBSCRIBERS,
    Command,
    Commands,
    EventPublisher,
    To,
    UploadEvents,
)
from natsbridge.schemas.events import EventData, UploadCompleted, UploadProgress


def data(event_type: str, number: int) -> EventData:
    """Return data of this type."""
    if event_type == "upload.progress":
        return UploadProgress(upload_id=f"u{number}", progress=40)
    return UploadCompleted(upload_id=f"u{number}", result={})


async def answer(publisher: EventPublisher, count: int) -> None:
    """Answer so many commands."""
    left = asyncio.Semaphore(0)
    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        await UploadEvents(publisher).cancelled(command.resource_id, to=command.user_id)
        left.release()
        if command.resource_id == "bad":
            raise ValueError("a bug")

    async with commands:
        print("ready", flush=True)  # noqa: T201  # what the test reads
        for _ in range(count):
            await left.acquire()


async def main(count: int, event_type: str, users: list[str]) -> None:
    """Publish, and let the spans leave."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    async with EventPublisher.from_environment(source="traced") as publisher:
        if event_type == "cancel":
            await answer(publisher, count)
            count = 0
        for number in range(count):
            to: To = users or SUBSCRIBERS
            for receipt in await publisher.publish(data(event_type, number), to=to):
                print(json.dumps(asdict(receipt)), flush=True)  # noqa: T201  # what the test reads
    await asyncio.to_thread(provider.shutdown)


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
