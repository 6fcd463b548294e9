"""The composition root: makes the parts, joins them, starts and stops them in order.

The only file that knows everything. ``serve`` is the whole life of one bridge process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import secrets
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final

import nats.errors
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from bridge.broker.connection import Connection, Nobody
from bridge.broker.control import Control
from bridge.broker.ingest import Receive
from bridge.broker.interests import Interests
from bridge.broker.streams import Stream
from bridge.broker.topics import Topics
from bridge.delivery.hub import Hub
from bridge.delivery.outbox import Flush
from bridge.errors import BrokerUnavailable, StartError, TicketError, TokenError
from bridge.http import admin, health, tickets
from bridge.http.refusals import refuse_request
from bridge.identity.keys import JwksKeys, load_keys
from bridge.identity.revocations import Revocations
from bridge.identity.tickets import Tickets, identity_from_json, identity_to_json, owner
from bridge.identity.tokens import Identity, TokenVerifier
from bridge.limits.rates import SlidingWindow, steady_clock
from bridge.sessions.admission import Admission, Doors
from bridge.sessions.commands import Commands
from bridge.sessions.keeper import Keeper
from bridge.sessions.registry import Registry
from bridge.sessions.surroundings import Surroundings
from bridge.settings import BridgeSettings
from bridge.sockets.listener import bounded_http
from bridge.sockets.socket import Parsers
from bridge.sockets.upgrade import Upgrades
from schemas.catalogue import Catalogue
from schemas.envelope import HEADER_REJECT_DETAIL, HEADER_REJECT_REASON
from schemas.errors import EventError, SchemaError
from schemas.subjects import Audience, Root

log = logging.getLogger(__name__)

BACKLOG: Final = 2048
"""Connections that the kernel completes while the loop is busy."""
ACCEPTS: Final = 2
"""Connections that one loop iteration accepts: a storm of them must not hold up deliveries."""
CLOSE_PATIENCE: Final = 5.0
"""Seconds at the end of a drain for clients to answer their close frame."""
KEY_REFRESH: Final = 300.0
"""Seconds between two looks at the JWKS URL."""
MAX_REJECTED_SUBJECT: Final = 1024
"""Longest subject in bytes under which a rejected event is published again."""
REPORT: Final = 10.0
"""Seconds between two log lines about rejected events."""


class Bridge:
    """One process: its parts and their order of life."""

    def __init__(self, settings: BridgeSettings, loop: asyncio.AbstractEventLoop) -> None:
        """Make all parts; nothing is connected yet. Raises :class:`StartError`."""
        self._settings: Final = settings
        self._loop: Final = loop
        self._replica: Final = secrets.token_hex(6)
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._draining = False
        self._wall: Final = steady_clock()
        self._reported = (0, 0.0)
        try:
            catalogue = Catalogue.load(settings.bus.catalogue)
        except SchemaError as problem:
            raise StartError(f"BRIDGE_CATALOGUE: {problem}") from problem
        limits, subjects = settings.limits, settings.bus.subjects
        live = subjects.root(Root.LIVE)

        # Identity.
        self._keys: Final = load_keys(settings.identity)
        self._verifier: Final = TokenVerifier(settings.identity, catalogue, self._keys)
        self._revocations: Final = Revocations()
        self._tickets: Final = Tickets(
            settings.identity.ticket_ttl, settings.identity.max_tickets, self._replica
        )
        self._keys_due = 0.0

        # The way down: NATS → hub → outboxes.
        self._flush: Final = Flush(
            loop.call_soon, max_frames=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        receivers: dict[bytes, Receive] = {}
        self._connection: Final = Connection(
            settings.bus, f"bridge-{self._replica}", receivers, self._flush
        )
        self._stream: Final = Stream(self._connection, settings.bus.stream, subjects)
        self._interests: Final = Interests(
            self._connection,
            receivers,
            clock=loop.time,
            call_soon=loop.call_soon,
            linger=limits.linger,
            patience=settings.bus.timeout,
        )
        self._topics: Final = Topics(
            self._interests, subjects, clock=loop.time, linger=limits.linger
        )
        self._hub: Final = Hub(
            catalogue,
            self._flush,
            live_root=live,
            events_root=subjects.root(Root.EVENTS),
            stream_header=f"Nats-Stream: {settings.bus.stream}\r\n".encode(),
            reject=self._reject,
            max_size=limits.max_message_size,
        )
        self._everybody: Final = f"{live}.{Audience.ALL}.>"
        self._connection.on_down = self._interests.on_down
        self._connection.on_up = self._on_up
        self._connection.on_denied = self._interests.on_denied

        # The way up: sockets → sessions → commands.
        self._registry: Final = Registry(
            max_connections=limits.max_connections, max_per_user=limits.max_connections_per_user
        )
        self._rates: Final = SlidingWindow(limits.rate_limit_messages, limits.rate_limit_window)
        self._ticket_rates: Final = SlidingWindow(
            limits.rate_limit_messages, limits.rate_limit_window
        )
        self._failures: Final = SlidingWindow(limits.failed_handshakes, 60.0)
        self._commands: Final = Commands(self._connection.request, subjects)
        env = Surroundings(
            catalogue=catalogue,
            limits=limits,
            identity=settings.identity,
            hub=self._hub,
            interests=self._interests,
            topics=self._topics,
            registry=self._registry,
            rates=self._rates,
            verify=self._verifier.verify_or_fetch,
            is_revoked=self._revocations.is_revoked,
            ask=self._commands.ask,
            failed_handshake=lambda address: self._admission.failed(address),
            user_subject=lambda token: f"{live}.{Audience.USER}.{token}.>",
            spawn=self._spawn,
            clock=loop.time,
            wall=self._wall,
        )
        self._admission: Final = Admission(
            settings.server,
            Doors(
                verify=self._verifier.verify,
                verify_or_fetch=self._verifier.verify_or_fetch,
                redeem=self._redeem,
                redeem_elsewhere=self._redeem_elsewhere,
                is_draining=lambda: self._draining,
            ),
            env,
            self._failures,
        )
        self._keeper: Final = Keeper(
            self._registry,
            limits,
            loop,
            (
                self._topics.tick,
                self._interests.tick,
                self._tickets.purge,
                lambda: self._rates.sweep(self._wall()),
                lambda: self._ticket_rates.sweep(self._wall()),
                lambda: self._failures.sweep(self._wall()),
                self._refresh_keys,
                self._report,
            ),
        )

        # HTTP.
        self._control: Final = Control(self._connection, subjects, self._replica)
        self._administration: Final = admin.Administration(
            registry=self._registry,
            hub=self._hub,
            revocations=self._revocations,
            limits=limits,
            replica=self._replica,
            wall=self._wall,
        )
        self._upgrades: Final = Upgrades(
            self._admission, Parsers(max_size=4 * limits.max_message_size)
        )
        self._server: Final = self._make_server()

    async def start(self) -> str:
        """Bring everything up, in order; return the base URL. Raises :class:`StartError`."""
        settings = self._settings
        # 1. The port: what is taken is told before anything else is touched.
        listener = _bind(settings.server.host, settings.server.port)
        try:
            # 2. NATS, the stream, and what every replica is subscribed to.
            await self._connection.open()
            await self._find_stream()
            self._interests.hold(self._everybody, self._hub.everybody.receive)
            await self._confirmed()
            self._control.offer(self._operations())
            await self._control.listen()
            # 3. Keys: known before the first client comes, but a source that is away is waited out.
            if isinstance(self._keys, JwksKeys) and not await self._keys.refresh():
                log.warning("the JWKS URL does not answer yet; tokens wait for it")
            # 4. Clients.
            self._server.lifespan = self._server.config.lifespan_class(self._server.config)
            await self._server.startup(sockets=[])
            self._server.servers.append(await self._listen(listener))
        except BrokerUnavailable as problem:
            listener.close()
            await self._connection.close()
            raise StartError(str(problem)) from problem
        self._spawn(self._server.main_loop())
        self._keeper.start()
        host, port = listener.getsockname()[:2]
        scheme = "https" if settings.server.tls_cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        # As uvicorn does it, but with a deadline for TLS handshakes and few accepts at a time.
        server, config = self._server, self._server.config

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(
                config=config,  # type: ignore[call-arg]  # uvicorn's own protocols take these
                server_state=server.server_state,
                app_state=server.lifespan.state,
            )

        made = await self._loop.create_server(
            connection,
            sock=listener,
            ssl=config.ssl,
            backlog=ACCEPTS,
            ssl_handshake_timeout=self._settings.server.handshake_timeout if config.ssl else None,
        )
        # asyncio accepts as many at a time as the backlog it is given; the kernel holds more.
        listener.listen(BACKLOG)
        return made

    async def stop(self) -> None:
        """Take everything down, in order, within 30 s."""
        # 1. Not ready any more: load balancers look away, new handshakes get 503.
        self._draining = True
        # 2. Clients go, spread over the drain so that they don't come back all at once elsewhere.
        await self._drain_clients()
        # 3. No more HTTP.
        if self._server.started:
            self._server.should_exit = True
            self._server.config.timeout_graceful_shutdown = 2
            await self._server.shutdown()
        # 4. What still waits for an answer is given up, NATS is drained and closed.
        self._keeper.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # With a deadline: nats-py's waits can lose a cancellation on Python 3.11.
            await asyncio.wait(self._tasks, timeout=2)
        await self._connection.close()

    async def _drain_clients(self) -> None:
        seconds = self._settings.server.drain_seconds
        sessions = list(self._registry)
        random.shuffle(sessions)
        log.info("draining %d connections over %g s", len(sessions), seconds)
        start = self._loop.time()
        for done, session in enumerate(sessions):
            due = start + seconds * done / len(sessions)
            if due > self._loop.time():
                await asyncio.sleep(due - self._loop.time())
            session.drain(random.randrange(200, 2000))  # noqa: S311  # a jitter, no secret
        for session in self._registry:
            session.drain(0)  # who slipped in meanwhile
        waiting = [session for session in sessions if not session.is_gone]
        deadline = self._loop.time() + CLOSE_PATIENCE
        while waiting and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
            waiting = [session for session in waiting if not session.is_gone]
        for session in waiting:
            session.cut()

    # Small joints between the parts.

    async def _confirmed(self) -> None:
        answer: asyncio.Future[bool] = self._loop.create_future()

        def confirmed(done: bool) -> None:
            if not answer.done():
                answer.set_result(done)

        self._interests.confirm(confirmed)
        try:
            async with asyncio.timeout(self._settings.bus.timeout):
                done = await answer
        except TimeoutError:
            done = False
        if not done:
            raise BrokerUnavailable(
                f"NATS does not answer, or denies the subscription to {self._everybody}"
            )

    def _on_up(self) -> None:
        self._interests.on_up()
        self._spawn(self._find_stream())
        self._spawn(self._listen_again())

    async def _listen_again(self) -> None:
        try:
            await self._control.listen()
        except (nats.errors.Error, OSError) as problem:
            # Down again; the next time it comes up this is tried again.
            log.warning("control: not listening: %s", problem)

    async def _find_stream(self) -> None:
        await self._stream.ensure()
        self._hub.stream_identity = self._stream.identity

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())

    def _reject(self, subject: bytes, payload: bytes, error: EventError) -> None:
        subjects = self._settings.bus.subjects
        detail = f"{error.field}: {error.detail}" if error.field else error.detail
        shown = subject.decode("ascii", "replace")
        if len(subject) <= MAX_REJECTED_SUBJECT and shown.isascii() and shown.isprintable():
            target = subjects.rejected(shown)
        else:
            # What NATS would not take back as a subject, or not beside the prefix in one line.
            target = f"{subjects.root(Root.REJECTED)}.unnameable"
        self._connection.publish(
            target,
            payload,
            {
                HEADER_REJECT_REASON: error.reason,
                HEADER_REJECT_DETAIL: " ".join(detail.split())[:256],
            },
        )

    def _report(self) -> None:
        """Say now and then that events were rejected; never a line for each."""
        total = sum(self._hub.counts.rejected.values())
        before, at = self._reported
        if total > before and self._loop.time() >= at + REPORT:
            self._reported = (total, self._loop.time())
            log.warning(
                "%d events rejected since the last report, by reason in all: %s",
                total - before,
                self._hub.counts.rejected,
            )

    def _refresh_keys(self) -> None:
        if isinstance(self._keys, JwksKeys) and self._loop.time() >= self._keys_due:
            self._keys_due = self._loop.time() + KEY_REFRESH
            self._spawn(self._refresh(self._keys))

    async def _refresh(self, keys: JwksKeys) -> None:
        await keys.refresh()

    async def _check_token(self, token: str) -> Identity:
        identity = await self._verifier.verify_or_fetch(token)
        if self._revocations.is_revoked(identity):
            raise TokenError("the token is revoked")
        return identity

    def _redeem(self, ticket: str) -> Identity | None:
        return self._tickets.redeem(ticket) if owner(ticket) == self._replica else None

    async def _redeem_elsewhere(self, ticket: str) -> Identity:
        try:
            found = await self._control.ask(owner(ticket), "redeem", {"ticket": ticket})
        except Nobody:
            raise TicketError("the ticket's replica is gone") from None
        if found is None:
            raise TicketError("the ticket is unknown, used or expired")
        return identity_from_json(found, self._verifier.policy)

    def _redeem_for(self, args: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return identity_to_json(self._tickets.redeem(str(args["ticket"])))
        except TicketError:
            return None

    def _operations(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {**self._administration.operations, "redeem": self._redeem_for}

    def _make_server(self) -> uvicorn.Server:
        settings = self._settings
        api = FastAPI(
            title="NATS WebSocket bridge",
            description="Admin, tickets and health of the bridge. Clients connect to `/ws`.",
        )
        api.state.check_token = self._check_token
        api.add_exception_handler(RequestValidationError, refuse_request)
        limits = settings.limits
        api.include_router(
            health.router(
                self._connection.round_trip, lambda: self._draining, lambda: self._stream.problem
            )
        )
        api.include_router(
            tickets.router(
                self._tickets, settings.identity.ticket_ttl, self._ticket_rates, self._wall
            )
        )
        api.include_router(admin.router(self._administration, self._control, limits))

        @api.get("/ws", include_in_schema=False)
        async def websocket_only(_: Request) -> JSONResponse:
            return JSONResponse(
                {"code": "UPGRADE_REQUIRED", "message": "This is a WebSocket endpoint"},
                status_code=426,
                headers={"Upgrade": "websocket"},
            )

        # What uvicorn warns of is a peer's mistake, and was answered.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            api,
            http=bounded_http(settings.server.handshake_timeout, 2 * limits.max_message_size),
            ws=self._upgrades,  # type: ignore[arg-type]  # called like the class it stands for
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=settings.server.tls_cert,
            ssl_keyfile=settings.server.tls_key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as problem:
            raise StartError(f"BRIDGE_TLS_CERT or BRIDGE_TLS_KEY: {problem}") from problem
        return uvicorn.Server(config)


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        listener = socket.socket(family, kind, number)
    except OSError as problem:
        raise StartError(f"{host}: {problem.strerror or problem}") from problem
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as problem:
        listener.close()
        raise StartError(
            f"port {port} on {host}: {(problem.strerror or str(problem)).lower()}"
        ) from problem
    return listener


async def serve(settings: BridgeSettings, on_ready: Callable[[str], None]) -> None:
    """Run one bridge until SIGTERM or SIGINT, and stop it in order.

    ``on_ready`` gets the base URL once clients can connect. Raises :class:`StartError` for what its
    owner can mend. A second signal cuts the drain short.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        bridge = Bridge(settings, loop)
        starting = loop.create_task(bridge.start())
        stopped = loop.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            url = await starting
            _tame_collector()
            on_ready(url)
            await stopped
        else:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StartError):
                await starting
        stopping = loop.create_task(bridge.stop())
        hurried = loop.create_task(hurry.wait())
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _tame_collector() -> None:
    """Keep the cycle collector from holding up deliveries.

    A full collection walks every object: some 80 ms with 5,000 connections, whenever a quarter more
    objects have come. What the start made stays for good, so it is taken out of its sight; the
    young are still collected, and cycles that grow old are few, since connections are taken apart
    by reference counting.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1000)
