"""The events of the system as a whole, and of its users' presence."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Unpack

from natsbridge.publishers.outgoing import (
    EVERYBODY,
    SUBSCRIBERS,
    Receipt,
    To,
    invalid_data,
    time_text,
)
from natsbridge.publishers.service import EventService, Options, happened
from natsbridge.schemas.events import SystemMaintenance, SystemNotification, UserStatusChanged


class SystemEvents(EventService):
    """``system.*`` for everybody, ``user.*`` for subscribers, unless users are named."""

    async def notification(
        self, message: str, level: str = "info", *, to: To = EVERYBODY, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``system.notification``: something to tell people; ``level`` is ``info``, or your own."""
        with invalid_data():
            data = SystemNotification(message=message, level=level, timestamp=happened(options))
        return await self._publish(data, to, options)

    async def maintenance(
        self,
        message: str,
        status: Literal["scheduled", "started", "completed"] = "scheduled",
        *,
        starts_at: datetime | str | None = None,
        ends_at: datetime | str | None = None,
        to: To = EVERYBODY,
        **options: Unpack[Options],
    ) -> list[Receipt]:
        """``system.maintenance``; times are RFC 3339 text, or datetimes with a time zone."""
        with invalid_data():
            data = SystemMaintenance(
                message=message,
                status=status,
                starts_at=time_text(starts_at, "starts_at"),
                ends_at=time_text(ends_at, "ends_at"),
                timestamp=happened(options),
            )
        return await self._publish(data, to, options)

    async def user_status(
        self, user_id: str, status: str, *, to: To = SUBSCRIBERS, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``user.status_changed``: a user came, went, or is away. Ephemeral."""
        with invalid_data():
            data = UserStatusChanged(user_id=user_id, status=status, timestamp=happened(options))
        return await self._publish(data, to, options)
