"""What tests of the spool share: a publisher that has one, and what reached the broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

from natsbridge.publishers import EventPublisher, PublisherSettings, Spool
from tests.unit.publishers.fake_broker import FakeBroker


def publisher(broker: FakeBroker, path: Path, **more: object) -> EventPublisher:
    values = {"url": (broker.url,), "spool": path, "timeout": 2.0} | more
    return EventPublisher(PublisherSettings.model_validate(values), source="svc")


def spool(own: EventPublisher) -> Spool:
    assert own.spool is not None
    return own.spool


async def emptied(own: EventPublisher) -> None:
    async with asyncio.timeout(10):
        await spool(own).emptied()


def uploads_in(broker: FakeBroker) -> list[str]:
    """Return the uploads whose events were sent, in order, every attempt."""
    return [subject.split(".")[-1] for subject, _ in broker.published if "events." in subject[:7]]
