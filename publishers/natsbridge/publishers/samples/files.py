"""A service that works on files until they are ready, and now and then has news for everybody."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

from natsbridge.publishers import FileEvents, SystemEvents
from natsbridge.publishers.samples.service import Service, deck, run, short_id

ENDS = ("ready", "ready", "ready", "failed")
NEWS = (
    ("The file store is 82 % full.", "warning"),
    ("Previews are made twice as fast from today.", "info"),
    ("A slow disk was replaced.", "info"),
)


async def serve(service: Service, user: str) -> None:
    """Work on one file of a user after the other, for ever."""
    tell, log = service.tell, service.log
    files = FileEvents(service.publisher)
    for end in deck(ENDS):
        file_id = short_id("file")
        log.info("%s of user %s: processing", file_id, user)
        for progress in range(0, 100, random.choice((10, 20, 25))):
            await tell(files.status(file_id, "processing", progress, to=user))
            await service.pause()
        log.info("%s of user %s: %s", file_id, user, end)
        final = 100 if end == "ready" else None
        await tell(files.status(file_id, end, final, to=user))
        await service.pause(2)


async def announce(service: Service) -> None:
    """Tell everybody the news, and of a maintenance after all of it was told."""
    tell, log = service.tell, service.log
    system = SystemEvents(service.publisher)
    for number, (message, level) in enumerate(deck(NEWS)):
        await service.pause(5 if number == 0 else 30)
        log.info("notification: %s", message)
        await tell(system.notification(message, level))
        if number % len(NEWS) == len(NEWS) - 1:
            starts = datetime.now(UTC) + timedelta(hours=1)
            log.info("maintenance scheduled for %s", starts.strftime("%H:%M UTC"))
            await tell(
                system.maintenance(
                    "The file store will be read-only for ten minutes.",
                    starts_at=starts,
                    ends_at=starts + timedelta(minutes=10),
                )
            )


async def main(service: Service) -> None:
    """Serve all users at the same time."""
    async with asyncio.TaskGroup() as group:
        group.create_task(announce(service))
        for user in service.settings.users:
            group.create_task(serve(service, user))


if __name__ == "__main__":
    run("file-service", main)
