"""The one connection to NATS: what it is, whether it is up, requests and round trips over it.

nats-py owns TLS, credentials, the list of servers and reconnecting. Its callbacks run inside its
read loop, so those here neither wait nor raise; they set state and call plain functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, ParamSpec

import nats.errors
from nats.aio.client import Client

from natsbridge.bridge.certificates import renew_chain
from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats import ingest
from natsbridge.bridge.telemetry.outage import Outage
from natsbridge.schemas.bus import BusSettings, SettingsError, limit_unacknowledged

log = logging.getLogger(__name__)

P = ParamSpec("P")

PING_INTERVAL: Final = 4
"""Seconds between nats-py's own PINGs."""
OUTSTANDING: Final = 2
"""PINGs that may go without a PONG: a dead peer shows within 12 s."""
CONNECT: Final = 2
"""Seconds that one attempt to connect has: one to a dead peer must not hold up the next."""
FAREWELL: Final = 2.0
"""Seconds that each step of closing may take."""


class Nobody(BrokerUnavailable):
    """Nobody answers requests on this subject (NATS status 503)."""


class Connection:
    """The connection and its state. All in ``on_up`` or ``on_down`` are called on every change, in
    their order; one that fails keeps none of the others from it.
    """

    def __init__(
        self,
        settings: BusSettings,
        name: str,
        receivers: ingest.Receivers,
        reads: ingest.Reads,
    ) -> None:
        """``receivers`` take the messages of their subscription ids; ``reads`` hears of each read
        that may bring some.
        """
        self._settings: Final = settings
        self._name: Final = name
        self._receivers: Final = receivers
        self._reads: Final = reads
        self._outage: Final = Outage(log, "NATS")
        self._client = self._new_client()
        self._tls: ssl.SSLContext | None = None
        self._up = False
        self._was_up = False
        self._began = False
        """Whether nats-py's client was asked to connect: it can't be closed before."""
        self._closing = False
        self._reopening: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.on_up: tuple[Callable[[], None], ...] = ()
        self.on_down: tuple[Callable[[], None], ...] = ()
        self.on_denied: Callable[[str], None] = lambda subject: None
        self.on_socket: Callable[[int], None] = lambda fd: None
        """Told the file descriptor of each connection that comes up, and -1 when it is gone."""

    def _new_client(self) -> Client:
        client = Client()
        ingest.install(client, self._receivers, lambda subject: _tell(self.on_denied, subject))
        return client

    @property
    def is_up(self) -> bool:
        """Whether NATS is connected now, as far as nats-py knows."""
        return self._up and self._client.is_connected

    @property
    def client(self) -> Client:
        """nats-py's client of the moment, for what is not on the hot path.

        It is another one after the server has closed the connection for good; ``on_up`` tells.
        """
        return self._client

    def renew_certificate(self) -> str:
        """Read the client's certificate, its key and the CAs again, for the next connection.

        Tells until when the certificate is good; raises what
        :func:`~natsbridge.bridge.certificates.renew_chain` does.
        """
        settings, context = self._settings, self._tls
        if context is None:
            return ""
        if settings.tls_ca is not None:
            context.load_verify_locations(settings.tls_ca)
        if settings.tls_cert is None or settings.tls_key is None:
            return ""
        return renew_chain(context, settings.tls_cert, settings.tls_key)

    def new_inbox(self) -> str:
        """Return a subject for answers that nobody can guess, under this user's own prefix."""
        return f"{self._settings.inbox_prefix}.bridge-{secrets.token_hex(8)}"

    async def open(self) -> None:
        """Connect; raises :class:`BrokerUnavailable` that says why, within the time allowed."""
        client = self._client
        last: list[str] = []

        async def on_error(error: Exception) -> None:
            last[:] = [str(error).removeprefix("nats: ") or type(error).__name__]
            if self._up:
                self._outage.trouble(last[0])
            else:
                self._outage.failed(last[0])

        async def on_disconnected() -> None:
            self._set(False)
            if (reconnecting := asyncio.current_task()) is not None:
                reconnecting.add_done_callback(partial(self._ended, client))

        async def on_reconnected() -> None:
            self._tap(client)
            self._set(True)

        async def on_closed() -> None:
            self._set(False)
            if client is self._client and self._was_up and not self._closing:
                self._reopen()

        self._was_up = self._began = False
        try:
            options = self._settings.connect_options()
        except SettingsError as error:
            raise BrokerUnavailable(str(error)) from error
        self._began = True
        try:
            async with asyncio.timeout(self._settings.timeout):
                options = self._settings.connect_options()
                self._tls = options.get("tls")
                await client.connect(
                    **options,
                    name=self._name,
                    error_cb=on_error,
                    disconnected_cb=on_disconnected,
                    reconnected_cb=on_reconnected,
                    closed_cb=on_closed,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=PING_INTERVAL,
                    max_outstanding_pings=OUTSTANDING,
                    connect_timeout=max(1, min(CONNECT, int(self._settings.timeout))),
                )
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await _discard(client)
            reason = last[0] if last else str(error) or "no answer"
            raise BrokerUnavailable(f"NATS can't be reached: {reason}") from error
        except Exception as error:
            # What nats-py and nkeys raise on a file that holds no credentials has no common root.
            await _discard(client)
            raise BrokerUnavailable(
                f"BRIDGE_NATS_CREDENTIALS can't be used: {type(error).__name__}"
            ) from error
        self._tap(client)
        self._up = self._was_up = True

    def _tap(self, client: Client) -> None:
        ingest.tap(client, self._receivers, self._reads)
        found = ingest.socket_of(client)
        if found is not None:
            # A dead connection is closed before anything else, which waits for what is unsent: by
            # default for a quarter of an hour.
            _tell(limit_unacknowledged, found, PING_INTERVAL * (OUTSTANDING + 1))
            _tell(self.on_socket, found.fileno())

    def _ended(self, client: Client, reconnecting: asyncio.Task[Any]) -> None:
        # nats-py's task ends, and nothing goes on, with what a credentials file raises that is
        # just being written. Closed, the client is followed by another.
        if client.is_closed or reconnecting.cancelled() or reconnecting.exception() is None:
            return
        self._outage.failed(f"can't reconnect: {type(reconnecting.exception()).__name__}")
        self._ending = asyncio.get_running_loop().create_task(_discard(client))

    def _reopen(self) -> None:
        # nats-py closes for good on most errors that a server tells (facts of nats-py 2.16:
        # ``_process_err``). The clients here must not pay for it.
        if self._reopening is None or self._reopening.done():
            self._reopening = asyncio.get_running_loop().create_task(self._open_again())

    async def _open_again(self) -> None:
        while not self._closing:
            self._client = self._new_client()
            try:
                await self.open()
            except BrokerUnavailable as problem:
                self._outage.failed(str(problem))
                await asyncio.sleep(1 + random.random())  # noqa: S311  # a jitter, no secret
                continue
            self._up = False
            self._set(True)
            return

    def _set(self, up: bool) -> None:
        if up == self._up:
            return
        self._up = up
        if up:
            self._outage.ended()
        else:
            self._outage.began(logging.INFO if self._closing else logging.WARNING)
            _tell(self.on_socket, -1)
        for part in self.on_up if up else self.on_down:
            _tell(part)

    def write(self, operations: bytes) -> None:
        """Put protocol operations on the wire; they are lost when the connection is down."""
        if self.is_up:
            ingest.write(self._client, operations)

    def ping(self, operations: bytes, latch: ingest.Latch) -> None:
        """Write operations and a PING behind them; ``latch`` is told when NATS has done them."""
        ingest.await_pong(self._client, latch)
        ingest.write(self._client, operations + b"PING\r\n")

    async def round_trip(self, timeout: float) -> float:
        """Return the seconds of a PING and its PONG; raises :class:`BrokerUnavailable`."""
        if not self.is_up:
            raise BrokerUnavailable("there is no connection to NATS")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()
        start = loop.time()
        self.ping(b"", answer)
        try:
            async with asyncio.timeout(timeout):
                await answer
        except TimeoutError:
            raise BrokerUnavailable("NATS does not answer") from None
        return loop.time() - start

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> bytes:
        """Ask and return the answer; raises :class:`Nobody` or :class:`BrokerUnavailable`."""
        return (await self.ask(subject, payload, headers))[1]

    async def ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """Do as :meth:`request` does; return the answer's headers too."""
        if not self.is_up:
            raise BrokerUnavailable("there is no connection to NATS")
        try:
            answer = await self._client.request(
                subject, payload, timeout=self._settings.timeout, headers=headers
            )
        except nats.errors.NoRespondersError:
            raise Nobody("nobody answers") from None
        except (nats.errors.Error, OSError) as error:
            raise BrokerUnavailable("no answer in time") from error
        return answer.headers or {}, bytes(answer.data)

    def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish without waiting; for what may be lost, on a connection that is up."""
        head = b""
        if headers:
            block = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"NATS/1.0\r\n{block}\r\n".encode()
        self.send(subject, head, payload)

    def send(self, subject: str, head: bytes, payload: bytes) -> None:
        """Publish with a header block as it is, or none; see :meth:`publish`.

        A payload that would not fit beside its headers is left away.
        """
        if len(head) + len(payload) > self._client.max_payload:
            payload = b""
        size = len(head) + len(payload)
        line = f"HPUB {subject} {len(head)} {size}\r\n" if head else f"PUB {subject} {size}\r\n"
        self.write(b"".join((line.encode(), head, payload, b"\r\n")))

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the system has not taken yet."""
        return ingest.unsent(self._client) if self.is_up else 0

    async def close(self) -> None:
        """Drain and close, within a few seconds even when NATS is frozen; safe to call twice."""
        self._closing = True
        if self._reopening is not None:
            self._reopening.cancel()
        client = self._client
        if client.is_closed or not self._began:
            return
        try:
            # Only a NATS that answers can be drained: nats-py would wait for it without an end.
            await self.round_trip(FAREWELL)
            async with asyncio.timeout(2 * FAREWELL):
                await client.drain()
            return
        except (BrokerUnavailable, TimeoutError, OSError, nats.errors.Error) as problem:
            log.warning("NATS: not drained: %s", str(problem) or type(problem).__name__)
        ingest.cut(client)
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            async with asyncio.timeout(FAREWELL):
                await client.close()


async def _discard(client: Client) -> None:
    with contextlib.suppress(Exception):
        await client.close()


def _tell(call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        call(*args, **kwargs)
    except Exception:
        # Out of its callbacks, nats-py would stop reading, or go on reconnecting for ever.
        log.exception("a change of the connection could not be handled")
