"""The events of a service that takes uploads."""

from __future__ import annotations

from typing import Any, Unpack

from natsbridge.publishers.outgoing import Receipt, To, invalid_data
from natsbridge.publishers.service import EventService, Options, happened
from natsbridge.schemas.events import UploadCancelled, UploadCompleted, UploadError, UploadProgress


class UploadEvents(EventService):
    """``upload.*``, mostly for the user whose upload it is."""

    async def progress(
        self, upload_id: str, progress: int, *, to: To, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``upload.progress``: the upload moves on; ``progress`` is 0 to 100. Ephemeral."""
        with invalid_data():
            data = UploadProgress(
                upload_id=upload_id, progress=progress, timestamp=happened(options)
            )
        return await self._publish(data, to, options)

    async def completed(
        self, upload_id: str, result: dict[str, Any], *, to: To, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``upload.completed``: the upload is done; ``result`` is JSON that clients read."""
        with invalid_data():
            data = UploadCompleted(upload_id=upload_id, result=result, timestamp=happened(options))
        return await self._publish(data, to, options)

    async def error(
        self, upload_id: str, error: str, *, to: To, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``upload.error``: the upload failed; ``error`` says why, in words for its user."""
        with invalid_data():
            data = UploadError(upload_id=upload_id, error=error, timestamp=happened(options))
        return await self._publish(data, to, options)

    async def cancelled(
        self, upload_id: str, reason: str | None = None, *, to: To, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``upload.cancelled``: the upload was stopped, by its user or by the service."""
        with invalid_data():
            data = UploadCancelled(upload_id=upload_id, reason=reason, timestamp=happened(options))
        return await self._publish(data, to, options)
