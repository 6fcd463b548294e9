"""The composition root: makes the parts, joins them, starts and stops them in order.

The only file that knows everything. :mod:`natsbridge.bridge.runtime.process` gives it the life of a
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

import nats.errors

from natsbridge.bridge.certificates import renew
from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Flush
from natsbridge.bridge.errors import BrokerUnavailable, StartError, TokenError
from natsbridge.bridge.http import admin, health, metrics, tickets
from natsbridge.bridge.http.api import Context
from natsbridge.bridge.http.listeners import Listeners, Routes
from natsbridge.bridge.identity.failures import Failures
from natsbridge.bridge.identity.keys import JwksKeys, load_keys, reload_keys
from natsbridge.bridge.identity.origins import client_address, counted_address
from natsbridge.bridge.identity.revocations import Revocations
from natsbridge.bridge.identity.tickets import LocalTickets, Tickets
from natsbridge.bridge.identity.tokens import Identity, KeyNeeded, Revoked, TokenVerifier
from natsbridge.bridge.limits.budget import Budget
from natsbridge.bridge.limits.rates import SlidingWindow, steady_clock
from natsbridge.bridge.limits.share import Share
from natsbridge.bridge.limits.units import Units
from natsbridge.bridge.nats.buckets import Bucket, tickets_shape
from natsbridge.bridge.nats.connection import Connection
from natsbridge.bridge.nats.continuity import Continuity
from natsbridge.bridge.nats.control import Control
from natsbridge.bridge.nats.history import History
from natsbridge.bridge.nats.ingest import Receive
from natsbridge.bridge.nats.rejects import Rejects
from natsbridge.bridge.nats.shape import wanted
from natsbridge.bridge.nats.stream import Stream
from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.bridge.nats.topics import Topics
from natsbridge.bridge.replay.budget import Turns
from natsbridge.bridge.replay.reads import Reads
from natsbridge.bridge.replay.shared_reader import Recent
from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.bridge.runtime.memory import Trimmer
from natsbridge.bridge.sessions.admission import Admission, Doors
from natsbridge.bridge.sessions.commands import Commands
from natsbridge.bridge.sessions.context import Surroundings
from natsbridge.bridge.sessions.drain import drain
from natsbridge.bridge.sessions.greeting import Greetings
from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.sessions.states import State
from natsbridge.bridge.sessions.sweeper import Keeper
from natsbridge.bridge.settings import BridgeSettings
from natsbridge.bridge.telemetry import export, families, setup
from natsbridge.bridge.telemetry.observer import Observer
from natsbridge.bridge.telemetry.pulse import Pulse
from natsbridge.bridge.telemetry.tracing import Tracing
from natsbridge.bridge.telemetry.way_down import WayDown
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.upgrade import Upgrades
from natsbridge.schemas import codes
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import GapReason
from natsbridge.schemas.errors import SchemaError
from natsbridge.schemas.subjects import Audience, Root

log = logging.getLogger(__name__)


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
        networks = settings.server.proxy_networks
        self._observer: Final = Observer(rate=settings.server.log_rate, networks=networks)
        try:
            catalogue = Catalogue.load(settings.bus.catalogue)
        except SchemaError as problem:
            raise StartError(f"BRIDGE_CATALOGUE: {problem}") from problem
        limits, subjects = settings.limits, settings.bus.subjects
        live = subjects.root(Root.ANY_LIVE)

        # Identity.
        self._keys: Final = load_keys(settings.identity)
        self._verifier: Final = TokenVerifier(settings.identity, catalogue, self._keys)
        self._revocations: Final = Revocations()
        self._local_tickets: Final = LocalTickets(
            settings.identity.ticket_ttl, settings.identity.max_tickets, self._replica, self._wall
        )

        # The way down: NATS → hub → outboxes.
        self._flush: Final = Flush(
            loop.call_soon,
            max_frames=limits.queue_messages,
            max_bytes=limits.queue_bytes,
            clock=loop.time,
        )
        receivers: dict[bytes, Receive] = {}
        self._connection: Final = Connection(
            settings.bus, f"bridge-{self._replica}", receivers, self._flush
        )
        self._stream: Final = Stream(
            self._connection,
            subjects,
            wanted(
                settings.bus.stream,
                subjects,
                settings.stream,
                catalogue=catalogue,
                max_message_size=limits.max_message_size,
            ),
            create=settings.stream.create,
        )
        self._ticket_bucket: Final = Bucket(
            self._connection, tickets_shape(settings), clock=loop.time
        )
        self._tickets: Final = Tickets(
            self._ticket_bucket, self._local_tickets, self._verifier.policy
        )
        self._interests: Final = Interests(
            self._connection,
            receivers,
            clock=loop.time,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            linger=limits.linger,
            patience=settings.bus.timeout,
        )
        self._topics: Final = Topics(
            self._interests, subjects, clock=loop.time, linger=limits.linger
        )
        self._rejects: Final = Rejects(self._connection, subjects, loop.time)
        self._hub: Final = Hub(
            catalogue,
            self._flush,
            subjects=subjects,
            stream=settings.bus.stream,
            reject=self._rejects.publish,
            max_size=limits.max_message_size,
        )
        self._provider: Final = setup.tracer_provider(os.environ, self._replica)
        self._tracing: Final = (
            None
            if self._provider is None
            else Tracing(
                self._provider.get_tracer(setup.SCOPE), subjects, cursor=self._hub.order.cursor
            )
        )
        self._observer.spans = self._tracing
        self._way_down: Final = WayDown(self._hub, self._tracing)
        self._flush.watcher = self._way_down
        self._pulse: Final = Pulse(loop)
        self._reconnects = 0
        self._history: Final = History(
            self._connection, self._interests, settings.bus.stream, settings.bus.timeout
        )
        self._continuity: Final = Continuity(
            self._stream,
            self._history,
            self._hub.order,
            roots=(subjects.root(Root.EVENTS), subjects.root(Root.STREAM)),
            confirmed=self._interests_confirmed,
            tell=self._tell_gap,
            spawn=self._spawn,
        )
        self._replay_budget: Final = Budget(
            limits.replay_messages, limits.rate_limit_window, loop.time
        )
        self._turns: Final = Turns(is_light=self._replay_budget.is_light)
        self._replay_budget.on_heavy = self._turns.reading.give
        self._recent: Final = Recent(
            self._history,
            subjects.root(Root.EVENTS),
            lambda: self._turns.waiting,
            self._turns.needed,
            self._spawn,
        )
        self._hub.order.on_missed = self._continuity.on_missed
        self._hub.order.on_doubt = self._continuity.on_doubt
        self._everybody: Final = f"{live}.{Audience.ALL}.>"
        if isinstance(loop, FairLoop):
            self._connection.on_socket = loop.prefer
        self._connection.on_down = (
            self._interests.on_down,
            self._history.on_down,
            self._stream.on_down,
            self._continuity.on_down,
        )
        self._connection.on_up = (
            self._interests.on_up,
            self._continuity.on_up,
            self._ticket_bucket.on_up,
            self._count_reconnect,
            lambda: self._spawn(self._listen_again()),
        )
        self._connection.on_denied = self._interests.on_denied
        self._interests.on_refused = self._on_refused

        # The way up: sockets → sessions → commands.
        self._registry: Final = Registry(
            max_connections=limits.max_connections, max_per_user=limits.max_connections_per_user
        )
        self._rates: Final = SlidingWindow(limits.rate_limit_messages, limits.rate_limit_window)
        self._units: Final = Units(
            limits.subscription_units, max(limits.rate_limit_window, 2 * limits.linger), loop.time
        )
        self._ticket_rates: Final = SlidingWindow(
            limits.rate_limit_messages, limits.rate_limit_window
        )
        self._failures: Final = Failures(limits.failed_handshakes, self._wall)
        self._commands: Final = Commands(
            self._connection.ask,
            subjects,
            self._observer.lines,
            self._observer.command_times,
            self._tracing,
        )
        env = Surroundings(
            greetings=Greetings(limits),
            catalogue=catalogue,
            limits=limits,
            identity=settings.identity,
            hub=self._hub,
            interests=self._interests,
            topics=self._topics,
            stream=self._stream,
            history=self._history,
            reads=Reads(self._history, self._replay_budget),
            continuity=self._continuity,
            recent=self._recent,
            turns=self._turns,
            subjects=subjects,
            registry=self._registry,
            rates=self._rates,
            units=self._units,
            verify=self._verifier.verify,
            verify_or_fetch=self._verifier.verify_or_fetch,
            is_revoked=self._revocations.is_revoked,
            ask=self._commands.ask,
            failed_handshake=self._failures.failed,
            forgive_handshake=self._failures.forgive,
            user_subject=lambda token: f"{live}.{Audience.USER}.{token}.>",
            spawn=self._spawn,
            share=Share(
                loop.call_soon, loop.call_later, is_behind=lambda: self._interests.is_behind
            ),
            call_later=loop.call_later,
            clock=loop.time,
            can_resume=lambda: self._connection.is_up and not self._stream.problem,
            is_away=lambda: self._stream.is_away,
            wall=self._wall,
            observer=self._observer,
        )
        self._admission: Final = Admission(
            settings.server,
            Doors(
                verify=self._verifier.verify,
                verify_or_fetch=self._verifier.verify_or_fetch,
                want_keys=self._want_keys,
                redeem=self._tickets.redeem,
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
                self._continuity.tick,
                self._recent.tick,
                self._local_tickets.purge,
                self._replay_budget.sweep,
                self._units.sweep,
                lambda: self._rates.sweep(self._wall()),
                lambda: self._ticket_rates.sweep(self._wall()),
                self._failures.sweep,
                self._refresh_keys,
                self._rejects.tick,
                lambda: self._control.report(),
                self._observer.lines.tick,
                lambda: self._observer.look_at_evictions(self._evicted),
                Trimmer(lambda: self._server.pending + self._parsers.sockets, loop.time).tick,
            ),
        )

        # HTTP.
        self._control: Final = Control(
            self._connection,
            subjects,
            self._replica,
            # A broadcast in JSON within JSON: escaping makes at most three of one byte.
            max_question=3 * limits.max_message_size + 1024,
            clock=loop.time,
        )
        self._administration: Final = admin.Administration(
            registry=self._registry,
            hub=self._hub,
            revocations=self._revocations,
            limits=limits,
            replica=self._replica,
            wall=self._wall,
        )
        numbers = families.Numbers(self._read_numbers, self._observer, self._way_down, self._pulse)
        registry = metrics.registry_of(numbers)
        self._exporter: Final = export.exporter(os.environ, self._replica, registry.collect, loop)
        routes = Routes(
            health=health.router(
                self._connection.round_trip,
                lambda: self._draining,
                lambda: self._stream.problem,
                lambda: self._continuity.state,
                lambda: self._interests.missing,
                lambda: self._stream.clock.words,
                lambda: self._keys.problem if isinstance(self._keys, JwksKeys) else "",
            ),
            tickets=tickets.router(
                self._tickets, settings.identity.ticket_ttl, self._ticket_rates, self._wall
            ),
            metrics=partial(metrics.router, registry),
            admin=admin.router(self._administration, self._control, limits),
        )
        strangers = max(1, limits.max_connections // 4)  # all of them; see Registry.is_crowded
        self._parsers: Final = Parsers(
            max_size=4 * limits.max_message_size,
            strangers_per_address=min(strangers, max(8, strangers // 2)),
            max_lingering=limits.max_connections,
        )
        self._server: Final = Listeners(
            settings.server,
            routes,
            Context(
                self._check_token,
                self._observer,
                partial(client_address, networks=networks),
                self._failures,
            ),
            Upgrades(
                self._admission,
                self._parsers,
                self._observer,
                partial(counted_address, networks=networks),
            ),
            max_body=2 * limits.max_message_size,
            is_good=self._is_good,
            make_room=self._parsers.lingering.make_room,
        )

    async def start(self) -> str:
        """Bring everything up, in order; return the base URL. Raises :class:`StartError`."""
        # 1. The ports: what is taken is told before anything else is touched.
        listeners = self._server.bind()
        try:
            # 2. NATS, the stream, and what every replica is subscribed to.
            await self._connection.open()
            self._interests.hold(self._everybody, self._hub.everybody.receive, lasting=True)
            self._history.open()
            await self._confirmed()
            await self._find_stream()
            self._continuity.on_up()
            self._control.offer(self._administration.operations)
            await self._control.listen()
            # 3. Keys: known before the first client comes, but a source that is away is waited out.
            if isinstance(self._keys, JwksKeys) and not await self._keys.refresh():
                log.warning("the JWKS URL does not answer yet; tokens wait for it")
            # 4. Clients.
            url = await self._server.start(listeners)
        except (BrokerUnavailable, StartError) as problem:
            await self._server.stop()
            for listener in listeners:
                listener.close()
            await self._connection.close()
            raise StartError(str(problem)) from problem
        self._keeper.start()
        self._pulse.start()
        if self._exporter is not None:
            self._exporter.start()
        return url

    async def stop(self) -> None:
        """Take everything down, in order, within 30 s."""
        # 1. Not ready any more: load balancers look away, new handshakes get 503.
        self._draining = True
        # 2. Clients go, spread over the drain so that they don't come back all at once elsewhere.
        await drain(self._registry, self._settings.server.drain_seconds)
        # 3. No more HTTP.
        await self._server.stop()
        # 4. What still waits for an answer is given up, NATS is drained and closed.
        self._keeper.stop()
        self._pulse.stop()
        self._rejects.flush()
        self._observer.lines.flush()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # With a deadline: nats-py's waits can lose a cancellation on Python 3.11.
            await asyncio.wait(self._tasks, timeout=2)
        await self._connection.close()
        # 5. The last spans and numbers leave, if somebody takes them.
        if self._exporter is not None:
            self._exporter.stop()
            await asyncio.to_thread(setup.finish, self._exporter.close)
        if self._provider is not None:
            await asyncio.to_thread(setup.finish, self._provider.shutdown)

    def reload(self) -> None:
        """Read certificates and public keys again; what can't be used stays as it was."""
        renew("BRIDGE_TLS_CERT, BRIDGE_TLS_KEY", self._server.renew_certificate)
        renew("BRIDGE_NATS_TLS_*", self._connection.renew_certificate)
        renew("BRIDGE_JWT_PUBLIC_KEY", partial(reload_keys, self._keys, self._settings.identity))
        self._want_keys()

    def work(self) -> int:
        """Return a number that changes when there is something to do: events, connections."""
        return self._hub.counts.events + len(self._registry)

    # Small joints between the parts.

    @property
    def _evicted(self) -> int:
        return self._server.evicted + self._parsers.strangers.evicted

    def _read_numbers(self) -> families.Reading:
        counts, head = self._hub.counts, self._stream.head
        backlogs = [each.backlog.size for each in self._flush.detours if each.backlog is not None]
        return families.Reading(
            connections=len(self._registry),
            closing=max(0, self._parsers.sockets - len(self._registry)),
            pending=self._server.pending + len(self._parsers.strangers),
            evicted=self._evicted,
            events=counts.events,
            deliveries=counts.deliveries,
            rejected=counts.rejected,
            rejects_unsent=self._rejects.unsent,
            schemas=self._hub.schemas.counts,
            spared=self._flush.counts,
            ignored=self._control.ignored,
            replays=self._turns.waiting,
            caught_up=self._continuity.completed,
            nats_up=self._connection.is_up,
            stream_up=not self._stream.problem,
            clock_behind=self._stream.clock.behind,
            catching_up=bool(self._continuity.state),
            interests=len(self._interests),
            tasks=len(asyncio.all_tasks(self._loop)),
            timers=self._loop.timers if isinstance(self._loop, FairLoop) else 0,
            users=self._registry.users,
            ages=families.ages((each.connected_at for each in self._registry), time.time()),
            queued=sum(messages for messages, _ in backlogs),
            queued_bytes=sum(size for _, size in backlogs),
            queued_worst=max((size for _, size in backlogs), default=0),
            writes=self._flush.writes,
            written_bytes=self._flush.written,
            reconnects=self._reconnects,
            round_trip=self._stream.clock.round_trip,
            lag=0 if head is None else max(0, head.last - self._hub.order.position),
            limits={
                name: float(value) for name, value in self._settings.limits.model_dump().items()
            },
        )

    async def _confirmed(self) -> None:
        if not await self._interests_confirmed():
            raise BrokerUnavailable(
                f"NATS does not answer, or denies the subscription to {self._everybody}"
            )

    async def _interests_confirmed(self) -> bool:
        answer: asyncio.Future[bool] = self._loop.create_future()

        def confirmed(done: bool) -> None:
            if not answer.done():
                answer.set_result(done)

        self._interests.confirm(confirmed)
        try:
            async with asyncio.timeout(self._settings.bus.timeout):
                return await answer
        except TimeoutError:
            return False

    def _count_reconnect(self) -> None:
        self._reconnects += 1

    def _tell_gap(self, after: int | None, upto: int | None, reason: GapReason) -> None:
        for session in self._registry:
            if session.state is State.OPEN:
                session.tell_gap(after, upto, reason)

    def _on_refused(self, subject: str) -> None:
        # Those that came back would wait in vain on an open connection; coming in, they are told.
        for session in list(self._registry):
            if subject == self._everybody or session.depends_on(subject):
                session.close(codes.TRY_AGAIN_LATER)

    async def _listen_again(self) -> None:
        try:
            await self._control.listen()
        except (nats.errors.Error, OSError) as problem:
            # Down again; the next time it comes up this is tried again.
            log.warning("control: not listening: %s", problem)

    async def _find_stream(self) -> None:
        # Without it delivery is live only; the stream says why, and is looked for again.
        with contextlib.suppress(BrokerUnavailable):
            await self._continuity.look()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())

    def _refresh_keys(self) -> None:
        if isinstance(self._keys, JwksKeys) and self._keys.due:
            self._spawn(self._refresh(self._keys))

    def _want_keys(self) -> None:
        if isinstance(self._keys, JwksKeys) and self._keys.may_ask:
            self._spawn(self._refresh(self._keys))

    async def _refresh(self, keys: JwksKeys) -> None:
        await keys.refresh()

    def _is_good(self, token: str) -> bool:
        try:
            self._verifier.verify(token)
        except KeyNeeded:
            return True  # nobody knows yet, and its owner may be an admin
        except TokenError:
            return False
        return True

    async def _check_token(self, token: str) -> Identity:
        identity = await self._verifier.verify_or_fetch(token)
        if self._revocations.is_revoked(identity):
            raise Revoked
        return identity
