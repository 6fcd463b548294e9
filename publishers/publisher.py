"""The publisher: validates an event, sends it, and says what became of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self

from pydantic import ValidationError

from publishers.connection import Connection, NoResponders
from publishers.errors import (
    BrokerError,
    BrokerUnavailable,
    NotAcknowledged,
    NotPermitted,
    PublisherClosed,
    SomeNotPublished,
    StreamMissing,
    StreamRefused,
)
from publishers.outgoing import Outbox, OutgoingEvent, Receipt, To
from publishers.settings import PublisherSettings
from schemas.bus import BusSettings, SettingsError, describe
from schemas.catalogue import Catalogue
from schemas.events import EventData

TRIES: Final = 4
"""An acknowledgement is waited for this part of the timeout before the event is sent again."""

PAUSE: Final = 0.1
"""Seconds before the next try, when the broker said no at once."""

AT_ONCE: Final = 64
"""How many events of one call are under way together."""


class EventPublisher:
    """Publishes events; an async context manager that is connected inside its block.

    One is enough for a service, and any number of tasks may use it at the same time::

        async with EventPublisher.from_environment(source="upload-service") as publisher:
            await publisher.publish(UploadProgress(upload_id="u1", progress=40), to="42")

    In FastAPI the block is the lifespan. While the broker is away the publisher reconnects on its
    own; a publish waits for it for up to ``settings.timeout`` seconds and then raises.
    """

    def __init__(
        self,
        settings: BusSettings | str | None = None,
        *,
        source: str | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        """Take settings, or a URL (``nats://host:4222``), or the defaults; nothing connects yet.

        ``source`` is the name of the service, which every event carries. Without ``catalogue`` it
        is loaded from the settings. Raises :class:`schemas.bus.SettingsError`,
        :class:`schemas.errors.CatalogueError`, and ValueError for a ``source`` that is no name.
        """
        self.settings: Final = _settings(settings)
        self.source: Final = source
        self.connection: Final = Connection(self.settings, source)
        self._outbox = Outbox(
            self.settings.subjects,
            catalogue or Catalogue.load(self.settings.catalogue),
            source,
            self.settings.max_message_size,
        )
        self._open = False

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, source: str | None = None
    ) -> Self:
        """Take the settings from environment variables (``BRIDGE_NATS_URL`` and its like).

        Raises :class:`schemas.bus.SettingsError` that names the variable which is wrong.
        """
        values = os.environ if environment is None else environment
        return cls(PublisherSettings.from_environment(values), source=source)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; raises :class:`BrokerUnavailable` after ``settings.timeout`` seconds."""
        if not self._open:
            await self.connection.open()
            self._open = True

    async def close(self) -> None:
        """Let what was sent leave, and disconnect; takes two seconds at most. Can be called twice.

        A publish that is under way elsewhere raises.
        """
        self._open = False
        await self.connection.close()

    async def publish(
        self, data: EventData, to: To, *, event_id: str | None = None
    ) -> list[Receipt]:
        """Publish an event; return one receipt, or one a user when ``to`` is several users.

        The receipt of a durable event comes with the stream's acknowledgement. An ephemeral one
        (``upload.progress``) is sent at most once: its receipt says that it was handed to the
        broker. ``event_id`` makes a retry of your own the same event; without it the id is a new
        UUIDv7.

        Raises :class:`InvalidEvent` before anything is sent, and a :class:`BrokerError` after
        ``settings.timeout`` seconds at most; see :mod:`publishers.errors`.
        """
        return await self.send_all(self.prepare(data, to, event_id=event_id))

    def prepare(
        self, data: EventData, to: To, *, event_id: str | None = None
    ) -> list[OutgoingEvent]:
        """Validate and encode without sending; raises :class:`InvalidEvent`."""
        return self._outbox.prepare(data, to, event_id)

    async def send_all(self, events: Iterable[OutgoingEvent]) -> list[Receipt]:
        """Send prepared events, and return their receipts in the same order.

        Of several events, one that fails does not keep the others back; which did is told by
        :class:`SomeNotPublished`. A single event raises its own :class:`BrokerError`.
        """
        waiting = list(events)
        if len(waiting) == 1:
            return [await self.send(waiting[0])]
        receipts: list[Receipt] = []
        failures: list[BrokerError] = []
        while waiting:
            batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            for outcome in await asyncio.gather(*map(self._attempt, batch)):
                if isinstance(outcome, Receipt):
                    receipts.append(outcome)
                else:
                    failures.append(outcome)
        if failures:
            raise SomeNotPublished(receipts, failures)
        return receipts

    async def _attempt(self, event: OutgoingEvent) -> Receipt | BrokerError:
        try:
            return await self.send(event)
        except BrokerError as error:
            return error

    async def send(self, event: OutgoingEvent) -> Receipt:
        """Send one prepared event, or one that a :class:`BrokerError` carries, with its own id."""
        if not self._open:
            raise PublisherClosed
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        if event.durable:
            return await self._store(event, deadline)
        return await self._send_live(event, deadline)

    async def _send_live(self, event: OutgoingEvent, deadline: float) -> Receipt:
        while True:
            try:
                await self.connection.ready(deadline)
                await self.connection.send(
                    event.live_subject, event.payload, event.headers, deadline
                )
            except BrokerUnavailable as error:
                if _now() >= deadline or not self._open:
                    raise BrokerUnavailable(error.detail, event) from None
            else:
                return Receipt(event.id, stored=False, user=event.user)

    async def _store(self, event: OutgoingEvent, deadline: float) -> Receipt:
        """Send until the stream has acknowledged the event or the deadline has passed."""
        attempts = 0
        unanswered = False
        while True:
            failure: BrokerError | None = None
            try:
                await self.connection.ready(deadline)
                attempts += 1
                answer = await self.connection.request(
                    event.subject,
                    event.payload,
                    event.headers,
                    min(deadline, _now() + self.settings.timeout / TRIES),
                )
                return _receipt(event, answer, attempts)
            except NoResponders:
                if self.settings.without_stream == "live" and not unanswered:
                    return await self._send_live(event, deadline)
                failure = StreamMissing(f"no stream stores {event.subject}", event)
            except TimeoutError:
                if self.connection.refused(event.subject):
                    detail = f"this connection may not publish to {event.subject}"
                    raise NotPermitted(detail, event) from None
                unanswered = True
            except BrokerUnavailable as error:
                failure = BrokerUnavailable(error.detail, event)
            except _Busy as error:
                failure = error.refusal
            if not self._open or _now() + PAUSE >= deadline:
                if unanswered or failure is None:
                    detail = f"{attempts} attempts in {self.settings.timeout:g} s"
                    raise NotAcknowledged(f"no acknowledgement, {detail}", event) from None
                raise failure
            if failure is not None:
                await asyncio.sleep(PAUSE)


class _Busy(Exception):
    """The stream can't store now, and may soon."""

    def __init__(self, refusal: StreamRefused) -> None:
        super().__init__()
        self.refusal = refusal


def _receipt(event: OutgoingEvent, answer: bytes, attempts: int) -> Receipt:
    """Read a stream's acknowledgement (``{"stream","seq","duplicate"?}``) or its refusal."""
    try:
        told = json.loads(answer)
        if refusal := told.get("error"):
            refused = StreamRefused(refusal["err_code"], refusal["description"], event)
            # 503 is a stream without a leader or without room, which can change in a moment.
            raise _Busy(refused) if refusal["code"] == 503 else refused
        return Receipt(
            event.id,
            stored=True,
            stream=told["stream"],
            sequence=told["seq"],
            duplicate=told.get("duplicate", False),
            attempts=attempts,
            user=event.user,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"what answers on {event.subject} is not a stream"
        raise NotAcknowledged(detail, event) from None


def _settings(given: BusSettings | str | None) -> PublisherSettings:
    if isinstance(given, PublisherSettings):
        return given
    values: dict[str, object] = {}
    if isinstance(given, str):
        values["url"] = given
    elif given is not None:
        values = dict(given)
    try:
        return PublisherSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(describe(error)) from None


def _now() -> float:
    return asyncio.get_running_loop().time()
