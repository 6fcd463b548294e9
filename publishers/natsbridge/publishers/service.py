"""What the typed events of all services share."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, TypedDict

from natsbridge.publishers.outgoing import Receipt, To, time_text
from natsbridge.schemas.envelope import timestamp
from natsbridge.schemas.events import EventData

if TYPE_CHECKING:
    from natsbridge.publishers.publisher import EventPublisher


class Options(TypedDict, total=False):
    """What every method takes as keywords beside its own parameters.

    ``event_id`` makes a retry of the caller's own the same event; without it the id is new. ``at``
    is when it happened, with a time zone; it becomes ``data.timestamp``, which is now without it.
    """

    event_id: str
    at: datetime | str


class EventService:
    """Base of the typed events of one service.

    Every method validates, publishes, and returns one receipt, or one a user when ``to`` is several
    users. It raises what :meth:`publishers.EventPublisher.publish` raises.
    """

    def __init__(self, publisher: EventPublisher) -> None:
        self.publisher: Final = publisher

    async def _publish(self, data: EventData, to: To, options: Options) -> list[Receipt]:
        return await self.publisher.publish(data, to=to, event_id=options.get("event_id"))


def happened(options: Options) -> str:
    """Return ``data.timestamp``; raises :class:`publishers.InvalidEvent` for a naive datetime."""
    return time_text(options.get("at"), "timestamp") or timestamp()
