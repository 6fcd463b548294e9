"""The publisher: validates an event, sends it, and says what became of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Final, Self

from opentelemetry.trace import Span
from pydantic import ValidationError

from natsbridge.publishers import tracing
from natsbridge.publishers.connection import Connection
from natsbridge.publishers.errors import (
    BrokerError,
    BrokerUnavailable,
    NotAcknowledged,
    PublisherClosed,
    SomeNotPublished,
    SpoolFailed,
    StreamMissing,
)
from natsbridge.publishers.forwarder import Forwarder
from natsbridge.publishers.outgoing import Outbox, OutgoingEvent, Receipt, To
from natsbridge.publishers.retry import patience, pause
from natsbridge.publishers.settings import PublisherSettings
from natsbridge.publishers.spool import Spool
from natsbridge.publishers.storing import NotNow, store
from natsbridge.publishers.tracing import Sends
from natsbridge.publishers.waiting import cancelled
from natsbridge.schemas.bus import BusSettings, SettingsError, describe
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.events import EventData

AT_ONCE: Final = 64
"""How many events of one call are under way together."""


class EventPublisher:
    """Publishes events; an async context manager that is connected inside its block.

    One is enough for a service, and any number of tasks may use it at the same time::

        async with EventPublisher.from_environment(source="upload-service") as publisher:
            await publisher.publish(UploadProgress(upload_id="u1", progress=40), to="42")

    In FastAPI the block is the lifespan. While the broker is away the publisher reconnects on its
    own. A durable event is sent until the stream has it, for up to ``settings.publish_deadline``
    seconds, and is then an error that carries the event; an ephemeral one waits for a connection
    for up to ``settings.timeout`` seconds.

    With ``settings.spool`` durable events go to a file first: publishing returns once they are on
    the disk, broker or not, and they are sent in order as soon as that is possible. See
    :mod:`natsbridge.publishers.spool`.
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
        is loaded from the settings. Raises :class:`natsbridge.schemas.bus.SettingsError`,
        :class:`natsbridge.schemas.errors.CatalogueError`, and ValueError for a ``source`` that is
        no name.
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
        self.spool: Final = _spool(self.settings)
        """What is kept on disk, and what was refused; None without the setting."""
        self._forwarding: asyncio.Task[None] | None = None
        self._open = False
        self._closing = asyncio.Event()

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, source: str | None = None
    ) -> Self:
        """Take the settings from environment variables (``BRIDGE_NATS_URL`` and its like).

        Raises :class:`natsbridge.schemas.bus.SettingsError` that names the variable which is wrong.
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
        """Connect; raises :class:`BrokerUnavailable` after ``settings.timeout`` seconds.

        With a spool it raises :class:`SpoolLocked` and :class:`SpoolFailed`; a broker that is away
        is waited for behind the scenes then. Where it is open in another event loop, or was before
        a fork, this and every other method raises :class:`WrongEventLoop`.
        """
        self.connection.owner.check()
        if self._open:
            return
        spool = self.spool
        if spool is None:
            await self.connection.open()
        else:
            await spool.open()
            try:
                await self.connection.open(patient=True)
            except BaseException:
                await spool.close()
                raise
            forwarder = Forwarder(
                spool, self.connection, stream=self.settings.stream, patience=self._patience
            )
            self._forwarding = asyncio.get_running_loop().create_task(forwarder.run())
        self._closing = asyncio.Event()  # of this loop
        self._open = True

    async def close(self, drain: float | None = None) -> None:
        """Let what was sent leave, and disconnect; takes two seconds at most. Can be called twice.

        A publish that is under way elsewhere raises. With a spool, what it holds is sent before,
        if the broker is there, for up to ``drain`` seconds, ``settings.timeout`` unless given. What
        is left stays on the disk, and the log says how much; closing the file takes two seconds
        more at most, and raises :class:`SpoolFailed` when the disk is not in order.
        """
        self.connection.owner.check()
        self._open = False
        self._closing.set()
        try:
            await self._drain(self.settings.timeout if drain is None else drain)
        finally:
            try:
                await self.connection.close()
            finally:
                if self.spool is not None:
                    await self.spool.close()

    async def _drain(self, seconds: float) -> None:
        forwarding, self._forwarding = self._forwarding, None
        if forwarding is None or self.spool is None:
            return
        try:
            if self.connection.is_connected:
                emptied = asyncio.ensure_future(self.spool.emptied())
                try:
                    await asyncio.wait(
                        [emptied, forwarding],
                        timeout=seconds,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    emptied.cancel()
        finally:
            await cancelled(forwarding)

    async def publish(
        self, data: EventData, *, to: To, event_id: str | None = None
    ) -> list[Receipt]:
        """Publish an event; return one receipt, or one a user when ``to`` is several users.

        The receipt of a durable event comes with the stream's acknowledgement, or, with a spool,
        once the event is on the disk. An ephemeral one (``upload.progress``) is sent at most once:
        its receipt says that it was handed to the broker. ``event_id`` makes a retry of your own
        the same event; without it the id is a new UUIDv7.

        Raises :class:`InvalidEvent` before anything is sent, and a :class:`BrokerError` that
        carries the event: after ``settings.publish_deadline`` seconds at most for a durable one,
        ``settings.timeout`` for an ephemeral one, and at once where trying again changes nothing.
        With a spool a durable event raises a :class:`SpoolError` instead. See
        :mod:`natsbridge.publishers.errors`.
        """
        with tracing.sends() as spans:
            events = [
                spans.prepare(data, partial(self._outbox.event, data, *each))
                for each in self._outbox.recipients(data, to, event_id)
            ]
            return await self._send_all(events, spans)

    def prepare(
        self, data: EventData, *, to: To, event_id: str | None = None
    ) -> list[OutgoingEvent]:
        """Validate and encode without sending; raises :class:`InvalidEvent`."""
        return self._outbox.prepare(data, to, event_id)

    async def send_all(self, events: Iterable[OutgoingEvent]) -> list[Receipt]:
        """Send prepared events, and return their receipts in the same order.

        Of several events, one that fails does not keep the others back; which did is told by
        :class:`SomeNotPublished`. A single event raises its own :class:`BrokerError`. Into a spool
        all durable ones go or none, before the others are sent.
        """
        waiting = list(events)
        with tracing.sends() as spans:
            return await self._send_all(waiting, spans)

    async def _send_all(self, waiting: list[OutgoingEvent], spans: Sends) -> list[Receipt]:
        if len(waiting) == 1:
            return [await self._send(waiting[0], spans)]
        await self._keep([event for event in waiting if event.durable])
        receipts: list[Receipt] = []
        failures: list[BrokerError] = []
        while waiting:
            batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            attempts = [self._attempt(event, spans) for event in batch]
            for outcome in await asyncio.gather(*attempts):
                if isinstance(outcome, Receipt):
                    receipts.append(outcome)
                else:
                    failures.append(outcome)
        if failures:
            raise SomeNotPublished(receipts, failures)
        return receipts

    async def _attempt(self, event: OutgoingEvent, spans: Sends) -> Receipt | BrokerError:
        if event.durable and self.spool is not None:
            spans.end(event, receipt := _kept(event))
            return receipt
        try:
            return await self._send(event, spans)
        except BrokerError as error:
            spans.fail(error, event)
            return error

    async def send(self, event: OutgoingEvent) -> Receipt:
        """Send one prepared event, or one that a :class:`BrokerError` carries, with its own id."""
        with tracing.sends() as spans:
            return await self._send(event, spans)

    async def _send(self, event: OutgoingEvent, spans: Sends) -> Receipt:
        span = spans.of(event)
        self._check_open()
        if not event.durable:
            receipt = await self._send_live(event, _now() + self.settings.timeout)
        elif self.spool is None:
            receipt = await self._store(event, span)
        else:
            await self._keep([event])
            receipt = _kept(event)
        spans.end(event, receipt)
        return receipt

    def _check_open(self) -> None:
        if not self._open:
            raise PublisherClosed
        self.connection.owner.check()

    async def _keep(self, durable: list[OutgoingEvent]) -> None:
        if self.spool is None or not durable:
            return
        self._check_open()
        if self._forwarding is not None and self._forwarding.done():
            # Only a fault of ours ends it. Taking more would be silence.
            raise SpoolFailed(f"forwarding has ended: {self._forwarding.exception()!r}", durable)
        await self.spool.put(durable)

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

    @property
    def _patience(self) -> float:
        return patience(self.settings.timeout, self.settings.publish_deadline)

    async def _store(self, event: OutgoingEvent, span: Span) -> Receipt:
        """Send until the stream has acknowledged the event or the deadline has passed."""
        deadline = _now() + self.settings.publish_deadline
        attempts = 0
        doubtful = False
        failure: BrokerError
        for failures in itertools.count(1):
            try:
                await self.connection.ready(deadline)
                attempts += 1
                limit = min(deadline, _now() + self._patience)
                return await store(self.connection, event, limit, attempts)
            except NotNow as reason:
                failure = reason.failure
                doubtful |= reason.doubtful
                missing = isinstance(failure, StreamMissing)
                if missing and self.settings.without_stream == "live" and not doubtful:
                    return await self._send_live(event, deadline)
            except BrokerUnavailable as error:
                failure = BrokerUnavailable(error.detail, event)
            seconds = pause(failures, random.random())  # noqa: S311  # spread, not secret
            if not self._open or _now() + seconds >= deadline:
                break
            tracing.retried(span, failures, failure, seconds)
            await self._pause(seconds)
        if doubtful:
            detail = f"{attempts} attempts in {self.settings.publish_deadline:g} s"
            raise NotAcknowledged(f"no acknowledgement, {detail}", event) from None
        raise failure

    async def _pause(self, seconds: float) -> None:
        """Wait, or until the publisher is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass


def _settings(given: BusSettings | str | None) -> PublisherSettings:
    if isinstance(given, PublisherSettings):
        return given
    values: dict[str, object] = {}
    if isinstance(given, str):
        values["url"] = given
    elif isinstance(given, BusSettings):
        values = dict(given)
    elif given is not None:
        raise SettingsError(f"a publisher takes settings or a URL, not {type(given).__name__}")
    try:
        return PublisherSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(describe(error)) from None


def _spool(settings: PublisherSettings) -> Spool | None:
    if settings.spool is None:
        return None
    return Spool(
        settings.spool,
        max_events=settings.spool_max_events,
        max_bytes=settings.spool_max_bytes,
        deadline=settings.publish_deadline,
    )


def _kept(event: OutgoingEvent) -> Receipt:
    return Receipt(event.id, stored=False, user=event.user, spooled=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
