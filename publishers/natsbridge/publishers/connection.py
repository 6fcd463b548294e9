"""The connection to NATS: with its client, the one place of this package that knows nats-py.

It stays up on its own for as long as it is open, and tells what nats-py would hide: nothing is
buffered while the broker is away, and every wait ends at the deadline that the caller gives.

Deadlines are times of the running loop's clock (``loop.time()``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import nats.errors

from natsbridge.publishers.client import CLOSE_TIMEOUT, NEVER, NatsClient, close, options, words
from natsbridge.publishers.errors import BrokerUnavailable, NotPermitted
from natsbridge.publishers.outgoing import check_size
from natsbridge.publishers.owner import Owner
from natsbridge.publishers.waiting import Requests, cancellable, cancelled, within
from natsbridge.schemas.bus import SettingsError, renew_inbox

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription as NatsSubscription

    from natsbridge.schemas.bus import BusSettings

log = logging.getLogger("publishers")

MAX_UNSENT: Final = 1 << 20
"""Bytes that may wait for a slow broker before sending waits too."""

_LOST: Final = (nats.errors.StaleConnectionError, OSError)
_REFUSAL: Final = re.compile(r'permissions violation for (?:publish|subscription) to "([^"]+)"')


class NoResponders(Exception):
    """Nobody listens on the subject of a request."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came in. ``reply`` is empty when no answer is wanted."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]


Handler = Callable[[Message], Awaitable[None]]
Unsubscribe = Callable[[], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Subscription:
    subject: str
    queue: str
    handler: Handler
    current: NatsSubscription | None = None


class Connection:
    """One connection to the broker, made anew whenever it is lost, until :meth:`close`."""

    def __init__(self, settings: BusSettings, name: str | None) -> None:
        self._settings = settings
        self._name = name
        self.owner: Final = Owner()
        self._client: NatsClient | None = None
        self._closing = False
        self._patient = False
        self._reopening: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._subscriptions: list[_Subscription] = []
        self._resubscribing: asyncio.Task[None] | None = None
        self._last_error: Exception | None = None
        self._refusals: deque[str] = deque(maxlen=100)
        self._requests = Requests()
        self._renew()

    def _renew(self) -> None:
        # Each belongs to the loop in which something first waited for it.
        self._up = asyncio.Event()
        self._subscribing = asyncio.Lock()
        self._turns = asyncio.Lock()  # of those who wait for room to send

    @property
    def is_connected(self) -> bool:
        """Whether the broker is reachable as far as is known now."""
        return self._client is not None and self._client.is_connected

    async def open(self, *, patient: bool = False) -> None:
        """Connect; raises :class:`BrokerUnavailable` after ``settings.timeout`` seconds.

        With ``patient`` it goes on trying instead, after a warning in the log, and so it does for
        what is subscribed to. Raises :class:`WrongEventLoop` where it is open elsewhere.
        """
        self.owner.take()
        self._renew()
        self._closing = False
        self._patient = patient
        try:
            self._client = await self._connect()
        except BaseException as error:
            if not (patient and isinstance(error, BrokerUnavailable)):
                self.owner.release()
                raise
            log.warning("the broker is waited for: %s", error.detail)
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def close(self) -> None:
        """Let what was sent leave, as far as that is possible in a second, and disconnect."""
        self.owner.check()
        self._closing = True
        self._up.set()
        self._requests.end()
        try:
            await cancelled(self._reopening, self._resubscribing)
            client, self._client = self._client, None
            if client is not None and client.is_connected:
                with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                    await within(CLOSE_TIMEOUT / 2, client.flush())
            if client is not None and not client.is_closed:
                await close(client)
        finally:
            self.owner.release()

    async def ready(self, deadline: float) -> None:
        """Wait for the broker; raises :class:`BrokerUnavailable` at the deadline."""
        self.owner.check()
        while not self.is_connected:
            if self._closing:
                raise BrokerUnavailable("the publisher was closed meanwhile")
            # What is not connected now will say later that it is.
            self._up.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._up.wait()
            except TimeoutError:
                raise BrokerUnavailable(self._trouble()) from None

    async def request(
        self, subject: str, payload: bytes, headers: Mapping[str, str], deadline: float
    ) -> Message:
        """Send, and return the answer.

        Raises :class:`NoResponders`; :class:`NotPermitted` as soon as the broker says so;
        :class:`TimeoutError` at the deadline, or as soon as the connection is lost or closed; and
        :class:`BrokerUnavailable` when there is none now.
        """
        client = self._connected()
        check_size(payload, headers, client.max_payload)
        try:
            with cancellable():
                async with self._requests.until(subject, deadline):
                    answer = await client.request(
                        subject, payload, timeout=NEVER, headers=dict(headers) or None
                    )
        except nats.errors.NoRespondersError:
            raise NoResponders(subject) from None
        except nats.errors.Error as error:
            raise BrokerUnavailable(str(error)) from None
        return Message(answer.subject, answer.reply, answer.data, answer.headers or {})

    async def send(
        self, subject: str, payload: bytes, headers: Mapping[str, str], deadline: float
    ) -> None:
        """Send at most once: no answer tells whether it arrived.

        Raises :class:`BrokerUnavailable` when there is no connection now, or when a broker that
        does not read leaves no room until the deadline.
        """
        client = self._connected()
        check_size(payload, headers, client.max_payload)
        try:
            with cancellable():
                if client.pending_data_size > MAX_UNSENT or self._turns.locked():
                    async with asyncio.timeout_at(deadline), self._turns:
                        if client.pending_data_size > MAX_UNSENT:
                            await client.written()
                        await client.publish(subject, payload, headers=dict(headers) or None)
                else:
                    await client.publish(subject, payload, headers=dict(headers) or None)
        except TimeoutError:
            raise BrokerUnavailable("the broker does not read what is sent") from None
        except nats.errors.Error as error:
            raise BrokerUnavailable(str(error)) from None

    async def answers(self, deadline: float) -> bool:
        """Whether the broker answers a PING until the deadline."""
        try:
            with cancellable():
                async with asyncio.timeout_at(deadline):
                    await self._connected().flush()
        except (BrokerUnavailable, nats.errors.Error, OSError, TimeoutError):
            return False
        return True

    def refused(self, subject: str) -> bool:
        """Whether the broker has said that this connection may not use this subject."""
        return subject.lower() in self._refusals

    async def subscribe(self, subject: str, queue: str, handler: Handler) -> Unsubscribe:
        """Subscribe, over every reconnect, until the returned function is called.

        Returns when the broker has the subscription, or, where it is away and waited for, at once.
        ``handler`` is awaited for one message after the other and must not raise. Raises
        :class:`BrokerUnavailable` and :class:`NotPermitted`.
        """
        self.owner.check()
        client = self._client
        subscription = _Subscription(subject, queue, handler)
        if client is None or not client.is_connected:
            if not self._patient or self._closing:
                raise BrokerUnavailable(self._trouble())
            self._subscriptions.append(subscription)
            log.warning("%s is subscribed to once the broker is there", subject)
            return partial(self._unsubscribe, subscription)
        self._subscriptions.append(subscription)
        try:
            with cancellable():
                async with asyncio.timeout(self._settings.timeout):
                    await self._subscribe_waiting(client)
                    await client.flush()  # the broker has told its refusals
            if self.refused(subject):
                raise NotPermitted(f"this connection may not subscribe to {subject}")
        except (nats.errors.Error, TimeoutError):
            if self._patient and not self._closing:
                log.warning("%s is subscribed to once the broker is there again", subject)
                return partial(self._unsubscribe, subscription)
            await self._unsubscribe(subscription)
            raise BrokerUnavailable(self._trouble()) from None
        except BaseException:
            await self._unsubscribe(subscription)
            raise
        return partial(self._unsubscribe, subscription)

    async def _subscribe_waiting(self, client: NatsClient) -> None:
        """Subscribe to what is wanted and not subscribed to on this client."""
        async with self._subscribing:
            for subscription in list(self._subscriptions):
                if subscription.current is None and client is self._client:
                    await self._subscribe(client, subscription)

    async def _subscribe(self, client: NatsClient, subscription: _Subscription) -> None:
        handler = subscription.handler

        async def receive(message: Msg) -> None:
            await handler(
                Message(message.subject, message.reply, message.data, message.headers or {})
            )

        subscription.current = await client.subscribe(
            subscription.subject, queue=subscription.queue, cb=receive
        )

    async def _unsubscribe(self, subscription: _Subscription) -> None:
        """Take no more, and hand over what has come in; takes half a second at most."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        if (current := subscription.current) is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                ended = current.drain() if self.is_connected else current.unsubscribe()  # type: ignore[no-untyped-call]  # nats-py's
                await within(CLOSE_TIMEOUT / 2, ended)

    def _connected(self) -> NatsClient:
        self.owner.check()
        if self._client is None or not self._client.is_connected:
            raise BrokerUnavailable(self._trouble())
        return self._client

    async def _connect(self) -> NatsClient:
        client = NatsClient()

        async def failed(error: Exception) -> None:
            self._on_error(client, error)

        async def disconnected() -> None:
            self._on_disconnected(client)

        async def reconnected() -> None:
            self._on_reconnected(client)

        async def closed() -> None:
            self._on_closed(client)

        how = self._settings.connect_options() | options(self._settings.timeout)
        try:
            # nats-py tries the servers for ever; the time limit is set here.
            connecting = client.connect(
                **how,
                name=self._name,
                error_cb=failed,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
                closed_cb=closed,
            )
            await within(self._settings.timeout, connecting)
        except BaseException as error:
            await close(client)
            if isinstance(error, TimeoutError):
                raise BrokerUnavailable(self._trouble()) from None
            if isinstance(error, nats.errors.Error):
                raise BrokerUnavailable(f"{self._servers()}: {error}") from None
            if isinstance(error, Exception):
                # Network errors stay inside nats-py; these are about the credentials file, and
                # what nats-py and nkeys raise has no common root.
                raise SettingsError(f"BRIDGE_NATS_CREDENTIALS: {words(error)}") from error
            raise
        return client

    # nats-py awaits these inside its own loops: they must neither raise nor wait.

    def _on_error(self, client: NatsClient, error: Exception) -> None:
        if not client.is_connected and not client.is_closed:
            # nats-py forgets the socket of a peer that accepted and then did not speak NATS.
            transport = getattr(client, "_transport", None)
            if transport is not None:
                transport.close()
        if not (isinstance(error, _LOST) and self._said_by_broker()):
            self._last_error = error
        told = words(error)
        if refusal := _REFUSAL.search(told):
            self._refusals.append(refusal[1])
            self._requests.deny(refusal[1])
            renew_inbox(client, refusal[1])
            log.warning("the broker refused: %s", told)
        elif client.is_connected and not isinstance(error, _LOST):
            log.warning("trouble with the broker: %s", told)

    def _on_reconnected(self, client: NatsClient) -> None:
        self._back()
        if any(each.current is None for each in self._subscriptions):
            loop = asyncio.get_running_loop()
            self._resubscribing = loop.create_task(self._resubscribe(client))

    async def _resubscribe(self, client: NatsClient) -> None:
        # Where it fails the connection is lost, and this comes again.
        with contextlib.suppress(nats.errors.Error):
            await self._subscribe_waiting(client)

    def _on_disconnected(self, client: NatsClient) -> None:
        if (reconnecting := asyncio.current_task()) is not None:
            reconnecting.add_done_callback(partial(self._ended, client))
        if client is self._client and not self._closing:
            self._requests.end()
            log.warning("the connection to the broker is lost: %s", words(self._last_error))

    def _ended(self, client: NatsClient, reconnecting: asyncio.Task[Any]) -> None:
        # nats-py's task ends, and nothing goes on, with what a credentials file raises that is
        # just being written. Closed, the client is followed by another.
        if client.is_closed or reconnecting.cancelled() or reconnecting.exception() is None:
            return
        log.warning("can't reconnect to the broker: %s", words(reconnecting.exception()))
        self._ending = asyncio.get_running_loop().create_task(close(client))

    def _on_closed(self, client: NatsClient) -> None:
        # nats-py gives up for good on most errors that a broker sends, such as expired credentials.
        waiting = self._reopening is not None and not self._reopening.done()
        if client is self._client and not self._closing and not waiting:
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        while self._client is None or self._client.is_closed:
            await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311  # spread, not secret
            with contextlib.suppress(BrokerUnavailable, SettingsError, nats.errors.Error):
                self._client = client = await self._connect()
                for subscription in self._subscriptions:
                    subscription.current = None  # that was another client's
                await self._subscribe_waiting(client)
        self._back()

    def _back(self) -> None:
        self._last_error = None
        self._refusals.clear()
        self._up.set()
        log.info("connected to the broker again")

    def _trouble(self) -> str:
        return f"no connection to {self._servers()}: {words(self._last_error)}"

    def _said_by_broker(self) -> bool:
        # Such as a wrong password: it says more than the reset connection that comes with it.
        return self._last_error is not None and not isinstance(self._last_error, _LOST)

    def _servers(self) -> str:
        # Without user names and passwords, which a URL may hold.
        return ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in self._settings.url)
