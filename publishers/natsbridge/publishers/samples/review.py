"""A service that keeps reviews: written, edited, moderated, sometimes deleted.

Everything goes to subscribers; what the moderators decide goes to the review's author too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

from natsbridge.publishers import ReviewEvents, SystemEvents
from natsbridge.publishers.samples.service import Service, deck, run, short_id

TEXTS = ("Clear and thorough.", "Needs more sources.", "A pleasure to read.", "Too long by half.")
ENDS = ("stays", "stays", "deleted")


async def serve(service: Service, user: str) -> None:
    """Let one user write one review after the other, for ever."""
    tell, log = service.tell, service.log
    reviews, system = ReviewEvents(service.publisher), SystemEvents(service.publisher)
    for end in deck(ENDS):
        await tell(system.user_status(user, "online"))
        review_id = short_id("review")
        review = {"author": user, "rating": random.randint(1, 5), "text": random.choice(TEXTS)}
        log.info("%s created by user %s", review_id, user)
        await tell(reviews.created(review_id, review))
        for changes in edits():
            await service.pause()
            log.info("%s updated: %s", review_id, ", ".join(changes))
            await tell(reviews.updated(review_id, changes))
        await service.pause()
        decision = {"status": random.choice(("approved", "approved", "rejected"))}
        log.info("%s %s, user %s is told", review_id, decision["status"], user)
        await tell(reviews.updated(review_id, decision, to=user))
        if end == "deleted":
            await service.pause()
            log.info("%s deleted", review_id)
            await tell(reviews.deleted(review_id))
        await tell(system.user_status(user, "away"))
        await service.pause(3)


def edits() -> Iterator[dict[str, Any]]:
    """Yield what the author changes, edit by edit."""
    for _ in range(random.randint(1, 3)):
        if random.random() < 0.5:
            yield {"rating": random.randint(1, 5)}
        else:
            yield {"text": random.choice(TEXTS)}


async def main(service: Service) -> None:
    """Serve all users at the same time."""
    async with asyncio.TaskGroup() as group:
        for user in service.settings.users:
            group.create_task(serve(service, user))


if __name__ == "__main__":
    run("review-service", main)
