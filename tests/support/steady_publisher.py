"""A publisher that goes on whatever happens, and writes down what was acknowledged.

Each event is sent again under its one id until the stream has acknowledged it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

import nats
import nats.errors
from nats.aio.client import Client as NatsClient

from natsbridge.publishers import BrokerError, EventPublisher, OutgoingEvent
from natsbridge.schemas.bus import BusSettings
from natsbridge.schemas.envelope import HEADER_ID
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects, encode_id
from tests.support.accounting import Event, Ledger
from tests.support.bus import envelope

RESOURCES: Final = ("1", "2", "3", "77", "a.b c")
DURABLE: Final = (
    "upload.completed",
    "upload.error",
    "upload.cancelled",
    "review.created",
    "review.updated",
    "review.deleted",
    "file.ready",
    "system.notification",
    "system.maintenance",
)
ANSWER_DEADLINE: Final = 0.5
PAUSE: Final = 0.05
"""How long an acknowledgement is waited for, and then the next try, in seconds."""

Addresses = Callable[[], Address]


def mixed(users: Sequence[str], seed: int = 0) -> Addresses:
    """Durable events to these users, to topics with and without a resource, and to everybody."""
    dice = random.Random(seed)

    def address() -> Address:
        kind = dice.choice(DURABLE)
        resource = "-" if kind.startswith("system.") else encode_id(dice.choice(RESOURCES))
        audience = dice.choices((Audience.USER, Audience.TOPIC, Audience.ALL), (5, 5, 1))[0]
        user = encode_id(dice.choice(users)) if audience is Audience.USER else ""
        return Address(audience, kind, resource, user)

    return address


class Way(Protocol):
    """How an event gets into the stream, once; None says that it may not be there."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def store(self, subject: str, payload: bytes, event_id: str) -> int | None: ...


class Plain:
    """nats-py and nothing else, as somebody else's service would do it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.troubles: Counter[str] = Counter()
        self.connection: NatsClient

    async def open(self) -> None:
        async def quiet(error: Exception) -> None:
            self.troubles[type(error).__name__] += 1

        self.connection = await nats.connect(
            self._url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet
        )

    async def close(self) -> None:
        await self.connection.close()

    async def store(self, subject: str, payload: bytes, event_id: str) -> int | None:
        try:
            answer = await self.connection.request(
                subject, payload, timeout=ANSWER_DEADLINE, headers={HEADER_ID: event_id}
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self.troubles[type(error).__name__] += 1
            return None
        receipt = json.loads(answer.data)
        if "error" in receipt:
            self.troubles[receipt["error"]["description"]] += 1
            return None
        sequence: int = receipt["seq"]
        return sequence


class Sdk:
    """The project's own publisher, whose errors carry the event for the next try."""

    def __init__(self, url: str) -> None:
        self.publisher = EventPublisher(BusSettings(url=(url,), timeout=2.0), source="test")

    async def open(self) -> None:
        await self.publisher.open()

    async def close(self) -> None:
        await self.publisher.close()

    async def store(self, subject: str, payload: bytes, event_id: str) -> int | None:
        kind = json.loads(payload)["type"]
        headers = {HEADER_ID: event_id}
        event = OutgoingEvent(kind, event_id, None, True, subject, subject, payload, headers)
        try:
            return (await self.publisher.send(event)).sequence
        except BrokerError:
            return None


class SteadyPublisher:
    """Publishes at a rate inside its block, until it is told to finish."""

    def __init__(
        self,
        way: Way,
        subjects: Subjects,
        ledger: Ledger,
        addresses: Addresses,
        *,
        rate: float = 200,
        at_once: int = 8,
        padding: int = 0,
    ) -> None:
        self._way = way
        self._subjects = subjects
        self._ledger = ledger
        self._addresses = addresses
        self._interval = at_once / rate if rate else 0.0
        self._at_once = at_once if rate else 0
        self._padding = "x" * padding
        self._running = True
        self._workers: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self.sent: dict[str, float] = {}
        """When each event was first sent, by the monotonic clock."""

    async def __aenter__(self) -> Self:
        await self._way.open()
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._at_once)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running = False  # nats-py's wait may lose the cancellation on Python 3.11
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._way.close()

    async def _work(self) -> None:
        while self._running:
            began = time.monotonic()
            await self.publish(self._addresses())
            with contextlib.suppress(ValueError):
                await asyncio.sleep(max(0.0, self._interval - (time.monotonic() - began)))

    async def publish(self, address: Address, data: dict[str, Any] | None = None) -> Event:
        """Publish one event, and return when it is acknowledged, however long that takes."""
        body = envelope(address, data)
        if self._padding:
            body["padding"] = self._padding
        event_id: str = body["id"]
        payload = json.dumps(body).encode()
        subject = self._subjects.event(Root.EVENTS, address)
        self.sent[event_id] = time.monotonic()
        sequence = await self._way.store(subject, payload, event_id)
        while sequence is None:
            await asyncio.sleep(PAUSE)  # the answer may be long in coming
            sequence = await self._way.store(subject, payload, event_id)
        event = self._ledger.acknowledge(event_id, sequence, address)
        self._news.set()
        return event

    async def more(self, count: int, deadline: float = 30.0) -> None:
        """Wait until so many more events are acknowledged."""
        goal = len(self._ledger) + count
        try:
            async with asyncio.timeout(deadline):
                while len(self._ledger) < goal:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            missing = goal - len(self._ledger)
            raise AssertionError(f"{missing} events were not acknowledged in time") from None

    async def finish(self, deadline: float = 30.0) -> None:
        """Begin no more events, and wait until all that were begun are acknowledged."""
        self._running = False
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=deadline)
            assert not late, f"{len(late)} events were not acknowledged in {deadline} s"
