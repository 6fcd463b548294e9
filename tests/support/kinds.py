"""One event type of each kind that a slow client makes a difference to."""

from __future__ import annotations

from typing import Final

from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.events import Overflow
from tests.support import own_events

CATALOGUE: Final = Catalogue.load([own_events.__name__])


def _kind(name: str, overflow: Overflow) -> EventType:
    found = CATALOGUE.get(name)
    assert found is not None
    assert found.traits.overflow is overflow
    return found


DURABLE: Final = _kind("review.updated", Overflow.HEAL)
CONFLATED: Final = _kind("upload.progress", Overflow.CONFLATE)
DROPPED: Final = _kind("invoice.draft", Overflow.DROP)
