"""The events of a service that keeps reviews."""

from __future__ import annotations

from typing import Any, Unpack

from natsbridge.publishers.outgoing import SUBSCRIBERS, Receipt, To, invalid_data
from natsbridge.publishers.service import EventService, Options, happened
from natsbridge.schemas.events import ReviewCreated, ReviewDeleted, ReviewUpdated


class ReviewEvents(EventService):
    """``review.*``, for subscribers unless users are named."""

    async def created(
        self,
        review_id: str,
        review: dict[str, Any] | None = None,
        *,
        to: To = SUBSCRIBERS,
        **options: Unpack[Options],
    ) -> list[Receipt]:
        """``review.created``; ``review`` is what the review says."""
        with invalid_data():
            data = ReviewCreated(
                review_id=review_id,
                review={} if review is None else review,
                timestamp=happened(options),
            )
        return await self._publish(data, to, options)

    async def updated(
        self,
        review_id: str,
        changes: dict[str, Any],
        *,
        to: To = SUBSCRIBERS,
        **options: Unpack[Options],
    ) -> list[Receipt]:
        """``review.updated``; ``changes`` maps each changed field to its new value."""
        with invalid_data():
            data = ReviewUpdated(review_id=review_id, changes=changes, timestamp=happened(options))
        return await self._publish(data, to, options)

    async def deleted(
        self, review_id: str, *, to: To = SUBSCRIBERS, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``review.deleted``: the review is gone."""
        with invalid_data():
            data = ReviewDeleted(review_id=review_id, timestamp=happened(options))
        return await self._publish(data, to, options)
