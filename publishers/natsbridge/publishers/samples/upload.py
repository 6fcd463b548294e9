"""A service that takes uploads: they progress, complete, fail, and are cancelled.

A user cancels with the command ``upload.cancel``; then ``upload.cancelled`` goes to that user.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from natsbridge.publishers import BrokerError, Command, Commands, Refused, UploadEvents
from natsbridge.publishers.samples.service import Service, deck, run, short_id
from natsbridge.schemas.codes import ErrorCode

NAMES = ("holiday.jpg", "invoice.pdf", "slides.pptx", "interview.wav", "thesis.docx", "data.csv")
ERRORS = ("the checksum does not match", "the file is too large", "the disk is full")


class Outcome(Enum):
    COMPLETES = "completes"
    FAILS = "fails"
    CANCELLED = "cancelled by the service"


OUTCOMES = [Outcome.COMPLETES] * 5 + [Outcome.FAILS] * 2 + [Outcome.CANCELLED]


@dataclass(eq=False)
class Upload:
    """One upload that is under way; ``stopped`` is set when its user cancels it."""

    id: str
    user: str
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


class Uploads:
    """All uploads that are under way, by id."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._events = UploadEvents(service.publisher)
        self._running: dict[str, Upload] = {}

    async def cancel(self, command: Command) -> None:
        """Stop the upload of the user who asks."""
        upload = self._running.get(command.resource_id)
        if upload is None or upload.user != command.user_id:
            # One answer for both: nobody learns which ids others have.
            self._service.log.info("%s of user %s: refused", command.name, command.user_id)
            raise Refused("you have no such upload", ErrorCode.NOT_PERMITTED)
        del self._running[upload.id]
        upload.stopped.set()

    async def serve(self, user: str, outcomes: Iterator[Outcome]) -> None:
        """Take one upload after the other from a user, for ever."""
        while True:
            upload = Upload(short_id("upload"), user)
            self._running[upload.id] = upload
            await self._take(upload, next(outcomes))
            self._running.pop(upload.id, None)
            await self._service.pause(2)

    async def _take(self, upload: Upload, outcome: Outcome) -> None:
        tell, log, user = self._service.tell, self._service.log, upload.user
        end = 100 if outcome is Outcome.COMPLETES else random.randint(20, 90)
        progress = 0
        log.info("%s of user %s started", upload.id, user)
        while progress < end:
            await tell(self._events.progress(upload.id, progress, to=user))
            if await self._stopped(upload):
                log.info("%s cancelled by user %s at %d %%", upload.id, user, progress)
                reason = "cancelled by its user"
                await tell(self._events.cancelled(upload.id, reason, to=user))
                return
            progress = min(end, progress + random.randint(5, 20))
        # From here on there is nothing left to cancel.
        self._running.pop(upload.id, None)
        await tell(self._events.progress(upload.id, progress, to=user))
        match outcome:
            case Outcome.COMPLETES:
                log.info("%s completed", upload.id)
                result = {"name": random.choice(NAMES), "size": random.randint(10**4, 10**8)}
                await tell(self._events.completed(upload.id, result, to=user))
            case Outcome.FAILS:
                error = random.choice(ERRORS)
                log.info("%s failed at %d %%: %s", upload.id, progress, error)
                await tell(self._events.error(upload.id, error, to=user))
            case Outcome.CANCELLED:
                log.info("%s cancelled by the service at %d %%", upload.id, progress)
                reason = "the user's quota is used up"
                await tell(self._events.cancelled(upload.id, reason, to=user))

    async def _stopped(self, upload: Upload) -> bool:
        """Wait for a step, or until the user cancels; say which it was."""
        waiting = asyncio.ensure_future(upload.stopped.wait())
        try:
            await asyncio.wait([waiting], timeout=self._service.settings.interval)
        finally:
            waiting.cancel()
        return upload.stopped.is_set()


async def main(service: Service) -> None:
    """Serve all users at the same time, and their commands."""
    uploads = Uploads(service)
    commands = Commands(service.publisher)
    commands.on("upload.cancel")(uploads.cancel)
    while True:
        try:
            await commands.start()
            break
        except BrokerError as error:
            service.log.info("trouble, trying again: %s", error)
            await service.pause()
    outcomes = deck(OUTCOMES)
    try:
        async with asyncio.TaskGroup() as group:
            for user in service.settings.users:
                group.create_task(uploads.serve(user, outcomes))
    finally:
        await commands.stop()


if __name__ == "__main__":
    run("upload-service", main)
