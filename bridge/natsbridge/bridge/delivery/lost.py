"""Stored events that no client can have, and how those are told whom they were for.

The stream can hold what this bridge refuses: a type that its catalogue does not have, or what was
stored under other rules. Its clients see the cursor go past it, so they are told, in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.schemas.codes import GapReason, RejectReason
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.replies import Gap, GapData


@dataclass(frozen=True, slots=True)
class Lost:
    """Stands for the type of such an event; ``name`` is as in its subject."""

    name: str


def lost_frame(before: str, cursor: str, error: EventError) -> bytes:
    """Return the frame of the ``gap`` that stands for one event, between these cursors."""
    unknown = error.reason == RejectReason.UNKNOWN_EVENT
    reason = GapReason.UNKNOWN_EVENT if unknown else GapReason.INVALID_EVENT
    data = GapData(from_=before, to=cursor, reason=reason, recoverable=False)
    return text_frame(Gap(data=data).to_bytes())
