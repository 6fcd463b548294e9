"""The events of a service that works on files."""

from __future__ import annotations

from typing import Unpack

from natsbridge.publishers.outgoing import Receipt, To, invalid_data
from natsbridge.publishers.service import EventService, Options, happened
from natsbridge.schemas.events import FileProcessing, FileReady


class FileEvents(EventService):
    """``file.*``, mostly for the user whose file it is."""

    async def status(
        self,
        file_id: str,
        status: str,
        progress: int | None = None,
        *,
        to: To,
        **options: Unpack[Options],
    ) -> list[Receipt]:
        """Publish what has become of a file.

        The status ``processing`` is ``file.processing``, every other one (``ready``, ``failed``)
        is ``file.ready``. ``progress`` is 0 to 100.
        """
        if status == "processing":
            return await self.processing(file_id, progress, to=to, **options)
        return await self.ready(file_id, status, progress, to=to, **options)

    async def processing(
        self, file_id: str, progress: int | None = None, *, to: To, **options: Unpack[Options]
    ) -> list[Receipt]:
        """``file.processing``: the file is being worked on. Ephemeral."""
        with invalid_data():
            data = FileProcessing(file_id=file_id, progress=progress, timestamp=happened(options))
        return await self._publish(data, to, options)

    async def ready(
        self,
        file_id: str,
        status: str = "ready",
        progress: int | None = None,
        *,
        to: To,
        **options: Unpack[Options],
    ) -> list[Receipt]:
        """``file.ready``: work on the file has ended; ``status`` says how."""
        with invalid_data():
            data = FileReady(
                file_id=file_id, status=status, progress=progress, timestamp=happened(options)
            )
        return await self._publish(data, to, options)
