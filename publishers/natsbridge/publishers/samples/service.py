"""What the sample services share: settings, logging, start and stop, patience with the broker."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import Field

from natsbridge.publishers import (
    BrokerError,
    BrokerUnavailable,
    EventPublisher,
    OutgoingEvent,
    Receipt,
    SomeNotPublished,
)
from natsbridge.schemas.bus import CommaSeparated, Settings, SettingsError
from natsbridge.schemas.envelope import new_id

_T = TypeVar("_T")


class SampleSettings(Settings):
    """What can be chosen about the sample traffic."""

    users: CommaSeparated = Field(
        ("42", "43"),
        alias="SAMPLE_USERS",
        min_length=1,
        description="users that the sample services act for, comma separated",
    )
    interval: float = Field(
        0.5, alias="SAMPLE_INTERVAL", gt=0, le=3600, description="seconds between two steps"
    )


@dataclass(frozen=True, slots=True)
class Service:
    """What a sample service works with."""

    publisher: EventPublisher
    settings: SampleSettings
    log: logging.Logger

    async def pause(self, steps: float = 1.0) -> None:
        """Wait for some steps of the interval, a little more or less."""
        await asyncio.sleep(self.settings.interval * steps * random.uniform(0.7, 1.3))

    async def tell(self, publishing: Awaitable[list[Receipt]]) -> None:
        """Publish, whatever it takes.

        While the broker is away, a durable event is sent again until it is stored; an ephemeral
        one is dropped, as the next one says more.
        """
        try:
            await publishing
        except SomeNotPublished as error:
            events = [failure.event for failure in error.failures]
        except BrokerError as error:
            self.log.info("trouble, trying again: %s", error)
            events = [error.event]
        else:
            return
        for event in events:
            if event is not None and event.durable:
                await self._insist(event)

    async def _insist(self, event: OutgoingEvent) -> None:
        while True:
            try:
                await self.publisher.send(event)
            except BrokerError as error:
                self.log.info("trouble, trying again: %s", error)
                await self.pause()
            else:
                self.log.info("%s went out at last", event)
                return


def run(name: str, body: Callable[[Service], Awaitable[None]]) -> None:
    """Run a sample service until it is told to stop (SIGTERM, SIGINT); ends the process."""
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        asyncio.run(_main(name, body))
    except SettingsError as error:
        sys.exit(f"{name}: {error}")


async def _main(name: str, body: Callable[[Service], Awaitable[None]]) -> None:
    log = logging.getLogger(name)
    work = asyncio.create_task(_serve(name, log, body))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()
    log.info("stopped")


async def _serve(
    name: str, log: logging.Logger, body: Callable[[Service], Awaitable[None]]
) -> None:
    settings = SampleSettings.from_environment(os.environ)
    publisher = EventPublisher.from_environment(source=name)
    service = Service(publisher, settings, log)
    while True:
        try:
            await publisher.open()
            break
        except BrokerUnavailable as error:
            log.info("no broker yet, trying again: %s", error)
    try:
        log.info("started for users %s", ", ".join(settings.users))
        await body(service)
    finally:
        await publisher.close()


def short_id(kind: str) -> str:
    """Return a fresh id that reads well in a demo: ``upload-3f9a1c22``."""
    return f"{kind}-{new_id()[-8:]}"


def deck(cards: Sequence[_T]) -> Iterator[_T]:
    """Deal these cards for ever, shuffled anew each time they run out: each comes in its share."""
    while True:
        yield from random.sample(cards, len(cards))
