"""One client's session: who it is, when it opens, what it may have, when it ends.

Owned by its socket, called from the event loop only. Effects reach the rest of the bridge through
the callables and objects in :class:`Surroundings`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from uuid import uuid4

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.bridge.delivery.outbox import Outbox
from natsbridge.bridge.errors import BridgeError, BrokerUnavailable, TicketError, TokenError
from natsbridge.bridge.identity.tokens import Deactivated, Identity, KeyNeeded, NotYetValid, Revoked
from natsbridge.bridge.nats.subscriptions import Unit
from natsbridge.bridge.replay.positions import DIRECT
from natsbridge.bridge.replay.replay import Replay
from natsbridge.bridge.replay.request import Order
from natsbridge.bridge.sessions import flow
from natsbridge.bridge.sessions.context import Introduction, Surroundings
from natsbridge.bridge.sessions.dispatch import receive
from natsbridge.bridge.sessions.greeting import greeting
from natsbridge.bridge.sessions.handlers import cursor_malformed
from natsbridge.bridge.sessions.intake import REFUSED_AT_ONCE, Intake
from natsbridge.bridge.sessions.states import State, advance
from natsbridge.bridge.sessions.subscriptions import Wishes
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.schemas import codes
from natsbridge.schemas.codes import CloseCode, ErrorCode, GapReason
from natsbridge.schemas.commands import (
    Authenticate,
    MessageError,
    parse_client_message,
)
from natsbridge.schemas.envelope import rfc3339
from natsbridge.schemas.patterns import Pattern
from natsbridge.schemas.replies import (
    AuthExpiring,
    AuthExpiringData,
    ConnectionDraining,
    DrainingData,
    Error,
    Gap,
    GapData,
    Message,
    error,
)

log = logging.getLogger(__name__)

MAX_SIGNS: Final = 1000
"""Pings, pongs and fragments between two ticks, before the client is slowed down; a message of the
largest size has fewer.
"""
ENOUGH: Final = 16 * 1024
"""Bytes that a client has to take within the stall timeout while it can't be written to."""
FEW_UNITS: Final = 32
"""Units of a connection that are given back at once when it ends; more wait for their turn."""
AUTHENTICATE: Final = "authenticate"
MAX_EARLY: Final = 100
"""Messages that may come before ``connection.established`` is sent."""


class Session:
    """A connection and everything the bridge knows of it."""

    __slots__ = (
        "_early",
        "_intake",
        "_notified",
        "_socket",
        "_unit",
        "_untaken",
        "connected_at",
        "deadline",
        "env",
        "error_count",
        "errors_in_row",
        "id",
        "identity",
        "intro",
        "last_heartbeat",
        "last_seen",
        "message_count",
        "next_ping",
        "outbox",
        "pacer",
        "refreshed",
        "refreshes",
        "replay",
        "signs",
        "stalled_since",
        "state",
        "waiting_commands",
        "wishes",
    )

    def __init__(self, env: Surroundings, socket: Socket, intro: Introduction) -> None:
        now = env.clock()
        self.env = env
        self._socket = socket
        self.intro = intro
        self.id = str(uuid4())
        self.identity: Identity | None = None
        self.state = State.AWAITING
        self.outbox = Outbox(socket.write, self._overflowed, self._faulted)
        socket.lend(self.outbox)
        self.wishes = Wishes(env.catalogue, env.hub, env.topics, self.outbox, env.units)
        self.replay: Replay | None = None
        self.pacer: flow.Pacer | None = None
        self._unit: Unit | None = None
        self._early: list[tuple[bytes, bool]] | None = None
        self._intake: Intake | None = None
        self._notified = False
        self.waiting_commands = 0
        self.refreshes = self.refreshed = 0
        """How many ``auth.refresh`` came, and the number of the one that is in force."""
        self.connected_at = time.time()
        self.last_seen = now
        self.last_heartbeat = now
        self.next_ping = now + env.limits.heartbeat_interval
        self.deadline = self.connected_at + env.identity.auth_timeout
        """Unix time in seconds at which :meth:`on_deadline` is due."""
        self.message_count = 0
        self.error_count = 0
        self.errors_in_row = 0
        self.signs = 0
        """Frames that were no messages since the keeper's last tick."""
        self.stalled_since: float | None = None
        """Since when it can't be written to, or since it last took :data:`ENOUGH`."""
        self._untaken = 0
        env.registry.add(self)
        socket.start(self)

    # Life: who it is, when it opens, when it ends.

    def identify(self, identity: Identity, reply_to: str | None = None) -> None:
        """The client is known: count it, and open once NATS has its user's interest."""
        env = self.env
        self.state = advance(self.state, State.CONFIRMING)
        self.identity = identity
        if env.interests.missing:
            self.close(codes.TRY_AGAIN_LATER)
            return
        if self._ends_at(identity) <= time.time():
            self.close(codes.TOKEN_EXPIRED)  # a ticket can outlive its token
            return
        self._set_deadline()
        self._socket.known(identity.user_id)
        for oldest in env.registry.identify(self, identity.user_id):
            oldest.close(codes.TRY_AGAIN_LATER)
        self.wishes.user = identity.user
        route = env.hub.hold_user(identity.user)
        self._unit = env.interests.hold(env.user_subject(identity.user), route.receive)
        self.when_confirmed(partial(self._confirmed, reply_to=reply_to))

    def when_confirmed(self, then: Callable[[bool], None]) -> None:
        """Call once NATS has all that is held so far, or has not said so in time.

        A fault in it ends the connection.
        """

        def confirmed(done: bool) -> None:
            try:
                then(done)
            except Exception:
                self.fail()

        self.env.interests.confirm(confirmed)

    def fail(self) -> None:
        """End the connection after a fault of ours, which is being handled: what it left half done
        can't stay. A client comes back, and has what it missed if it resumes.
        """
        log.exception("connection %s is ended after a fault", self.id)
        self.close(codes.INTERNAL_ERROR)

    def identify_later(self, answer: Awaitable[Identity], reply_to: str | None = None) -> None:
        """Who it is takes a while to find out; until then nothing of the client is read.

        It counts as failed until it is known: whoever sends what nobody can tell to be good is not
        to evade the limit by coming faster than it is found out.
        """
        counted = self.env.failed_handshake(self.intro.address)
        self._early = []
        self.deadline = math.inf  # what it waits for has a deadline of its own
        self._socket.hold()
        self.env.spawn(self._identify(answer, counted, reply_to))

    async def _identify(
        self, answer: Awaitable[Identity], counted: bool, reply_to: str | None
    ) -> None:
        try:
            identity = await answer
            if self.env.is_revoked(identity):
                raise Revoked
        except BridgeError as problem:
            if counted and isinstance(problem, NotYetValid | BrokerUnavailable):
                self.env.forgive_handshake(self.address)
            self._refuse(problem, reply_to)
            return
        if counted:
            self.env.forgive_handshake(self.address)
        if self.state is State.AWAITING:
            self.identify(identity, reply_to)

    def _refuse(self, problem: BridgeError, reply_to: str | None) -> None:
        close = close_code_of(problem)
        self.env.observer.token_refused(
            str(problem), self.address, code=close.code, connection_id=self.id
        )
        if self.state is not State.AWAITING:
            return
        if close is codes.INVALID_TOKEN:
            reply = error(ErrorCode.TOKEN_INVALID, str(problem), reply_to=reply_to)
            self.env.hub.flush.offer(self.outbox, text_frame(reply.to_bytes()))
        self.close(close)

    def _confirmed(self, done: bool, reply_to: str | None) -> None:
        if self.state is not State.CONFIRMING:
            return
        identity = self.identity
        assert identity is not None
        env, after = self.env, self.intro.after
        if not done or env.interests.missing:
            self.close(codes.TRY_AGAIN_LATER)
            return
        self.state = advance(self.state, State.OPEN)
        for oldest in env.registry.over(identity.user_id):
            oldest.replace()  # not before: nobody goes for one that is never opened
        self._set_permits(identity)
        replay = None if after is None else flow.replay(self)
        env.hub.users[identity.user].add(self.outbox)
        env.hub.everybody.add(self.outbox)
        self._socket.put(text_frame(greeting(self, identity, reply_to)))
        if replay is not None:
            replay.order(Order(frozenset({DIRECT}), after, trace=self.intro.trace))
        elif self.intro.cursor is not None:
            self.send(cursor_malformed(None, self.cursor))
        registry = env.registry
        of_user = registry.count_of(identity.user_id)
        env.observer.opened(self, len(registry), of_user, identity.email, self.intro.trace)
        early, self._early = self._early, None
        if early is not None:
            self._socket.start(self)
            for data, is_text in early:
                self.on_message(data, is_text)

    def close(self, close: CloseCode) -> None:
        """Say goodbye: what was offered is written, then the close frame. Safe to call twice."""
        if self.state is State.CLOSED:
            return
        self._leave((close.code, "bridge"))
        self._socket.put()
        if close is not codes.SLOW_CONSUMER:
            self.env.hub.flush.drain(self.outbox)
        self.env.hub.flush.forget(self.outbox)
        self._socket.close(close)

    def replace(self) -> None:
        """The user has a newer connection and is over the limit."""
        self.send(
            error(ErrorCode.CONNECTION_LIMIT_EXCEEDED, "A newer connection takes this one's place")
        )
        self.close(codes.REPLACED)

    def drain(self, reconnect_after_ms: int) -> None:
        """The process is going away."""
        self.send(ConnectionDraining(data=DrainingData(reconnect_after_ms=reconnect_after_ms)))
        self.close(codes.GOING_AWAY)

    def cut(self) -> None:
        """End the connection without a word; for the end of a drain."""
        self._socket.abort()

    def _leave(self, ended: tuple[int, str]) -> None:
        # Nothing is delivered from here on, and NATS interest is given back.
        env, identity = self.env, self.identity
        never_open = None if self.state is State.OPEN else self.intro.trace
        self.state = advance(self.state, State.CLOSED)
        self._early = self._intake = None
        if self.replay is not None:
            self.replay.stop()
            self.replay = None
        if self.pacer is not None:
            self.pacer.stop()
            self.pacer = None
        if len(self.wishes.keys) <= FEW_UNITS:
            self._give_back()
        else:
            # Nothing is written to it any more, and many may go at once.
            env.share.run(self._give_back, heavy=True)
        if identity is not None:
            env.hub.everybody.receivers.pop(self.outbox, None)
        if self._unit is not None and identity is not None:
            env.hub.users[identity.user].receivers.pop(self.outbox, None)
            env.hub.release_user(identity.user)
            env.interests.release(self._unit)
            self._unit = None
        env.registry.remove(self, self.user_id)
        total, sent = len(env.registry), self._socket.acknowledged
        env.observer.ended(self, *ended, total, sent, never_open)

    def _give_back(self) -> None:
        try:
            self.wishes.clear()
        except Exception:
            # The rest of the connection must not stay for it.
            log.exception("connection %s could not give back all that it held", self.id)

    # What the socket calls.

    def on_message(self, data: bytes, is_text: bool) -> None:
        """A message of the client: size → rate → parse → handle → apply."""
        self.last_seen = self.env.clock()
        if self.state is State.OPEN:
            self.message_count += 1
            intake = self._intake
            if self.env.share.is_free and (intake is None or intake.is_open):
                self.env.share.run(partial(receive, self, data, is_text))
            else:
                self._queue().put(data, is_text)
        elif self.state is State.AWAITING and self._early is None:
            self._first_message(data, is_text)
        elif self.state is not State.CLOSED:
            self._wait_early(data, is_text)

    def _wait_early(self, data: bytes, is_text: bool) -> None:
        # What came along before ``connection.established`` is handled after it, in order.
        if self._early is None:
            self._early = []
            self._socket.hold()
        self._early.append((data, is_text))
        if len(self._early) > MAX_EARLY:
            self.close(codes.TRY_AGAIN_LATER)

    def on_sign_of_life(self) -> None:
        """A frame that is no message: a ping, a pong, a fragment."""
        self.last_seen = self.env.clock()
        self.signs += 1
        if self.signs > MAX_SIGNS and self.state is State.OPEN:
            self.signs = 0
            self.slow_down(REFUSED_AT_ONCE)
        elif self.signs > MAX_SIGNS:
            self.close(codes.TRY_AGAIN_LATER)

    def slow_down(self, count: int = 1) -> None:
        """So many messages are over the rate: read more slowly, and end what goes on."""
        self._queue().refused(count)

    def _queue(self) -> Intake:
        if self._intake is None:
            self._intake = Intake(self)
        return self._intake

    def hold(self) -> None:
        """Read nothing more for now; safe to call twice."""
        self._socket.hold()

    def read_on(self) -> None:
        """Read again."""
        self._socket.start(self)

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """The patterns that it is subscribed to, as the client wrote them."""
        return self.wishes.patterns

    def depends_on(self, subject: str) -> bool:
        """Whether events come to it by this subscription of NATS."""
        if self._unit is not None and self._unit.subject == subject:
            return True
        topics = self.env.topics
        return any(topics.subject_of(*key) == subject for key in self.wishes.keys)

    def when_gone(self, gone: Callable[[], None]) -> None:
        """Call once the connection itself is over, not just told to be; at once if it is."""
        self._socket.when_lost(gone)

    @property
    def user_id(self) -> str | None:
        """Whose connection it is, once that is known."""
        return None if self.identity is None else self.identity.user_id

    @property
    def address(self) -> str:
        """The client's address, past the proxies that are trusted."""
        return self.intro.address

    @property
    def idle(self) -> float:
        """Seconds since the last sign of life."""
        return self.env.clock() - self.last_seen

    @property
    def idle_heartbeat(self) -> float:
        """Seconds since the last message that was in order."""
        return self.env.clock() - self.last_heartbeat

    def on_pause(self) -> None:
        """The client reads too slowly for now."""
        self.env.observer.stalled(self)
        flow.pause(self)
        self._untaken = self._socket.untaken

    def on_resume(self) -> None:
        """The client reads again."""
        flow.resume(self)

    def on_lost(self) -> None:
        """The connection is over, by whichever side."""
        if self.state is State.AWAITING and self._early is None:
            self.env.failed_handshake(self.intro.address)
        if self.state is not State.CLOSED:
            self._leave(self._socket.ended or (1006, "client"))
        self.env.hub.flush.forget(self.outbox)

    def _overflowed(self) -> None:
        self.close(codes.SLOW_CONSUMER)

    def _faulted(self) -> None:
        self.close(codes.INTERNAL_ERROR)

    # What the keeper calls.

    def has_taken(self, now: float) -> bool:
        """Whether it is slow, but has taken :data:`ENOUGH` since it was last asked: a sign of life,
        where pings wait behind what it has not read yet.
        """
        if self.stalled_since is None:
            return False
        untaken = self._socket.untaken
        if untaken > self._untaken - ENOUGH:
            return False
        self.last_seen = self.stalled_since = now
        self._untaken = untaken
        return True

    def ping(self, now: float) -> None:
        """Send a WebSocket ping; ``now`` is of the clock that never goes back."""
        self.next_ping = now + self.env.limits.heartbeat_interval
        self._socket.ping()

    def on_deadline(self, now: float) -> None:
        """Something is due at this Unix time: the first message, the notice, or the expiry."""
        identity = self.identity
        if identity is None and not self._notified:
            # What came in time may not be read yet, where this process was busy or stopped: it is
            # by the next tick, and this code tells its client never to come back.
            self._notified = True
        elif identity is None:
            self.env.failed_handshake(self.intro.address)
            self.close(codes.NOT_AUTHENTICATED)
        elif now >= self._ends_at(identity):
            self.close(codes.TOKEN_EXPIRED)
        elif not self._notified and self.state is State.OPEN:
            self._notified = True
            self.deadline = self._ends_at(identity)
            self.send(AuthExpiring(data=AuthExpiringData(expires_at=rfc3339(identity.expires_at))))

    def _ends_at(self, identity: Identity) -> float:
        # Clocks differ: the token counts for as long past its ``exp`` as at the handshake.
        return identity.expires_at + self.env.identity.jwt_leeway

    def _set_deadline(self) -> None:
        assert self.identity is not None
        self._notified = False
        self.deadline = self.identity.expires_at - self.env.identity.expiring_notice

    # Messages.

    def send(self, reply: Message) -> None:
        """Offer a message of the bridge, behind the events that were offered before."""
        if isinstance(reply, Error):
            self.env.observer.answered(self, reply.data.code, reply.data.message)
        self.env.hub.flush.offer(self.outbox, text_frame(reply.to_bytes()))

    def say(self, reply: Message) -> None:
        """Send a message of the bridge at once, right behind what was written last."""
        frame = text_frame(reply.to_bytes())
        backlog = self.outbox.backlog
        if backlog is None:
            self.env.hub.flush.offer(self.outbox, frame)
        else:
            backlog.say(frame)

    def tell_gap(
        self, after: int | None, upto: int | None, reason: GapReason, *, recoverable: bool = False
    ) -> None:
        """Tell that durable events in this range of the stream did not come; those that are
        ``recoverable`` follow.
        """
        cursor = self.env.hub.order.cursor
        self.say(
            Gap(
                data=GapData(
                    from_=None if after is None else cursor(after),
                    to=None if upto is None else cursor(upto),
                    reason=reason,
                    recoverable=recoverable,
                )
            )
        )

    @property
    def cursor(self) -> str | None:
        """Where the session stands; None while stored events are on their way to it."""
        order, backlog = self.env.hub.order, self.outbox.backlog
        if not order.identity or self.replay is not None:
            return None
        if backlog is not None and not (backlog.lost_after is backlog.topics_at is None):
            return None
        return order.cursor(order.position)

    def send_frame(self, frame: bytes) -> None:
        """Offer a ready frame."""
        self.env.hub.flush.offer(self.outbox, frame)

    def renew(self, identity: Identity) -> list[str]:
        """Go on as this identity, of the same user; returns the patterns that it may not have."""
        self.identity = identity
        self._set_deadline()
        self._set_permits(identity)
        return self.wishes.regrant(
            identity.grants, self.env.limits.max_interests, self.env.units.left(identity.user)
        )

    def _set_permits(self, identity: Identity) -> None:
        if not self.intro.direct:
            self.outbox.permits = self.wishes.covers
        else:
            grants = identity.grants
            self.outbox.permits = None if grants.unrestricted else grants.permits

    def _first_message(self, data: bytes, is_text: bool) -> None:
        try:
            if not is_text or len(data) > self.env.limits.max_message_size:
                raise MessageError(ErrorCode.INVALID_MESSAGE_FORMAT, "not authenticate")
            message = parse_client_message(data)
        except MessageError as refused:
            if refused.message_type == AUTHENTICATE:
                # Who means to say who it is learns which field is wrong.
                self.env.failed_handshake(self.intro.address)
                self._refuse(TokenError(f"authenticate: {refused.message}"), refused.reply_to)
                return
            message = None
        if not isinstance(message, Authenticate):
            self.env.failed_handshake(self.intro.address)
            self.close(codes.NOT_AUTHENTICATED)
            return
        self.identify_later(self.env.verify_or_fetch(message.data.token), message.id)


def close_code_of(problem: BridgeError) -> CloseCode:
    """Return how a connection ends whose token or ticket was refused, or could not be checked.

    Only what the same client can't mend by coming back, with a new token or ticket if it must, is a
    code from 4500 on.
    """
    if isinstance(problem, Deactivated | Revoked):
        return codes.REVOKED
    if isinstance(problem, KeyNeeded | NotYetValid | BrokerUnavailable):
        return codes.TRY_AGAIN_LATER
    if isinstance(problem, TicketError) or (isinstance(problem, TokenError) and problem.expired):
        return codes.TOKEN_EXPIRED
    return codes.INVALID_TOKEN
