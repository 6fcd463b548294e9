"""What is done about a client's message: the one place that applies what the handlers decide.

Called by the session from the event loop; nothing here blocks. A fault of ours is told to the
client as ``INTERNAL_ERROR``, and the connection goes on; one that may have left a subscription half
done ends it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.errors import TokenError
from natsbridge.bridge.identity.tokens import Identity, KeyNeeded, NotYetValid
from natsbridge.bridge.replay.request import Order
from natsbridge.bridge.sessions import flow
from natsbridge.bridge.sessions.handlers import (
    Answer,
    Ask,
    Change,
    Effect,
    Nothing,
    Renew,
    View,
    handle,
)
from natsbridge.bridge.sessions.states import State
from natsbridge.schemas import codes
from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import AuthRefresh, MessageError, message_id, parse_client_message
from natsbridge.schemas.envelope import rfc3339
from natsbridge.schemas.replies import (
    AuthRefreshed,
    AuthRefreshedData,
    Error,
    PreparedAcknowledgement,
    ResumeCompleted,
    SubscriptionAcknowledged,
    error,
)
from natsbridge.schemas.trace import well_formed

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.session import Session

ACKNOWLEDGEMENTS: Final = (SubscriptionAcknowledged, PreparedAcknowledgement)
FEW_UNITS: Final = 32
"""Units up to which other grants are no heavy work."""

log = logging.getLogger(__name__)


def receive(session: Session, data: bytes, is_text: bool) -> None:
    """Handle one message of an open session: rate → size → parse → handle → apply."""
    env, identity = session.env, session.identity
    assert identity is not None
    now = env.wall()
    if not env.rates.allow(identity.user_id, now):
        _refuse(
            session,
            error(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                "Too many messages",
                reply_to=message_id(data),
                reset_time=env.rates.reset_time(identity.user_id),
            ),
        )
        session.slow_down()
        return
    if len(data) > env.limits.max_message_size:
        _refuse(
            session,
            error(
                ErrorCode.MESSAGE_TOO_LARGE,
                f"Message is over {env.limits.max_message_size} bytes",
                reply_to=message_id(data),
            ),
        )
        return
    if not is_text:
        _refuse(session, error(ErrorCode.INVALID_MESSAGE_FORMAT, "Message must be text"))
        return
    try:
        message = parse_client_message(data)
    except MessageError as refused:
        _refuse(session, error(refused.code, refused.message, reply_to=refused.reply_to))
        return
    env.observer.received(session, message.type)
    session.last_heartbeat = session.last_seen
    view = View(
        session.wishes.patterns,
        identity.grants,
        env.catalogue,
        env.limits.max_subscriptions,
        env.limits.max_interests,
        env.limits.max_message_size,
        session.wishes.units,
        env.units.left(identity.user),
    )
    effect: Effect | None = None
    try:
        effect = handle(message, view)
        _apply(session, effect, identity, message.traceparent)
    except Exception:
        sorry = error(ErrorCode.INTERNAL_ERROR, "Internal server error", reply_to=message.id)
        if isinstance(effect, Change):
            session.send(sorry)
            session.fail()
        else:
            log.exception("a message of type %s could not be handled", message.type)
            _refuse(session, sorry)


MALFORMED: Final = frozenset(
    {
        ErrorCode.INVALID_MESSAGE_FORMAT,
        ErrorCode.INVALID_MESSAGE_TYPE,
        ErrorCode.MESSAGE_TOO_LARGE,
    }
)
"""What only a faulty client sends, again and again: it would do so after a reconnect too."""


def _refuse(session: Session, answer: Error) -> None:
    session.error_count += 1
    session.send(answer)
    if answer.data.code in MALFORMED:
        session.errors_in_row += 1
        if session.errors_in_row >= session.env.limits.max_errors:
            session.close(codes.TOO_MANY_ERRORS)
    elif answer.data.code is not ErrorCode.RATE_LIMIT_EXCEEDED:
        session.errors_in_row = 0  # the message itself was in order


def _apply(session: Session, effect: Effect, identity: Identity, trace: str | None) -> None:
    match effect:
        case Answer(Error() as reply):
            _refuse(session, reply)
        case Answer(reply):
            session.errors_in_row = 0
            session.send(reply)
        case Change():
            if any(reply.type == "error" for reply in effect.replies):
                session.error_count += 1
            session.errors_in_row = 0
            _change(session, effect, trace)
        case Ask():
            _ask(session, effect, identity)
        case Renew(message):
            session.refreshes += 1
            _renew(session, message, identity, session.refreshes)
        case Nothing():
            session.errors_in_row = 0


def _change(session: Session, change: Change, trace: str | None) -> None:
    identity, replies = session.identity, change.replies
    began = session.env.clock()
    assert identity is not None
    before = frozenset(session.wishes.keys)
    # Stored events come before live ones: what comes in from here on waits for them.
    replay = flow.replay(session) if change.cursor or change.history else None
    session.wishes.become(change.patterns, identity.grants)
    session.env.observer.subscribed(session, change.patterns, len(change.patterns))
    wanted = frozenset(session.wishes.keys)
    named = replies[0].data.events if isinstance(replies[0], ACKNOWLEDGEMENTS) else ()
    order: Order | None
    if replay is None:
        order, replay = flow.follow(session, before), session.replay
    else:
        new = replay.positions.inherit(wanted, before)
        order = Order(new, change.cursor, last=change.history)
        replay.expect(order)

    def confirmed(done: bool) -> None:
        if session.state is not State.OPEN or session.identity is None:
            return
        if sent := session.wishes.confirmed(named, done, session.identity.grants):
            session.wishes.begin(wanted - before)
            flow.set_paces(session, change.paces)
            for reply in replies:
                if isinstance(reply, (*ACKNOWLEDGEMENTS, ResumeCompleted)):
                    reply.data.cursor = session.cursor
                session.send(reply)
            if order is not None:
                order.reply_to = replies[0].reply_to
        else:
            if order is not None:
                order.quiet = True
            session.send(
                error(
                    ErrorCode.SERVICE_UNAVAILABLE,
                    "The event bus is not available",
                    reply_to=replies[0].reply_to,
                )
            )
        failed = next((each for each in replies if isinstance(each, Error)), None)
        session.env.observer.acknowledged(
            trace,
            len(session.wishes.patterns),
            session.env.clock() - began,
            ("" if failed is None else failed.data.code) if sent else ErrorCode.SERVICE_UNAVAILABLE,
        )
        if replay is not None and order is not None:
            order.trace = well_formed(trace)
            replay.order(order)

    # Also where nothing is new: answers keep their order, and a pattern may still be waiting.
    session.when_confirmed(confirmed)


# What takes time: a task each, bounded by the rate limit and the waits' deadlines.


def _ask(session: Session, effect: Ask, identity: Identity) -> None:
    if session.waiting_commands >= session.env.limits.max_commands:
        _refuse(
            session,
            error(
                ErrorCode.COMMAND_FAILED,
                "Too many commands wait for an answer",
                reply_to=effect.message.id,
            ),
        )
        return
    session.errors_in_row = 0
    session.waiting_commands += 1
    session.env.spawn(_command(session, effect, identity))


async def _command(session: Session, effect: Ask, identity: Identity) -> None:
    try:
        reply = await session.env.ask(effect, identity)
    finally:
        session.waiting_commands -= 1
    outcome = reply.data.code if isinstance(reply, Error) else "accepted"
    session.env.observer.commanded(session, effect.command, effect.resource_id, outcome)
    if session.state is State.OPEN:
        session.send(reply)


def _renew(session: Session, message: AuthRefresh, before: Identity, number: int) -> None:
    # Here and not in a task: a token with many grants takes a while, of this message's share.
    checked: Identity | TokenError
    try:
        checked = session.env.verify(message.data.token)
    except KeyNeeded:
        session.env.spawn(_renew_later(session, message, before, number))
        return
    except TokenError as problem:
        checked = problem
    _renewed(session, message, before, number, checked)


async def _renew_later(
    session: Session, message: AuthRefresh, before: Identity, number: int
) -> None:
    checked: Identity | TokenError
    try:
        checked = await session.env.verify_or_fetch(message.data.token)
    except TokenError as problem:
        checked = problem
    if session.state is State.OPEN:
        _renewed(session, message, before, number, checked)


def _renewed(
    session: Session,
    message: AuthRefresh,
    before: Identity,
    number: int,
    checked: Identity | TokenError,
) -> None:
    if isinstance(checked, KeyNeeded | NotYetValid):
        # The token may be good: a client that takes this for a refusal would sign its user out.
        session.send(error(ErrorCode.SERVICE_UNAVAILABLE, checked.reason, reply_to=message.id))
        return
    refused = ""
    if isinstance(checked, TokenError):
        refused = checked.reason
    elif checked.user_id != before.user_id:
        refused = "the token is another user's"
    elif session.env.is_revoked(checked):
        refused = "the token is revoked"
    if isinstance(checked, TokenError) or refused:
        _refuse(session, error(ErrorCode.TOKEN_INVALID, refused, reply_to=message.id))
        return
    session.errors_in_row = 0
    if number < session.refreshed:
        # A key had to be fetched for this one, and meanwhile the token after it came into force.
        assert session.identity is not None
        session.send(_refreshed(session.identity, [], message.id))
        return
    session.refreshed = number

    def go_on() -> None:
        if session.state is not State.OPEN or session.identity is None:
            return
        if session.refreshed != number:  # the one after it had its turn first
            session.send(_refreshed(session.identity, [], message.id))
            return
        try:
            _go_on_as(session, checked, message.id)
        except Exception:
            session.fail()

    session.env.share.run(go_on, heavy=len(session.wishes.keys) > FEW_UNITS)


def _go_on_as(session: Session, identity: Identity, reply_to: str | None) -> None:
    had = frozenset(session.wishes.keys)
    removed = session.renew(identity)
    order, replay = flow.follow(session, had), session.replay
    wanted = frozenset(session.wishes.keys)
    reply = _refreshed(identity, removed, reply_to)

    def confirmed(_: bool) -> None:
        if session.state is State.OPEN:
            session.wishes.begin(wanted - had)
            session.send(reply)
            if replay is not None and order is not None:
                replay.order(order)

    session.when_confirmed(confirmed)


def _refreshed(identity: Identity, removed: list[str], reply_to: str | None) -> AuthRefreshed:
    return AuthRefreshed(
        data=AuthRefreshedData(expires_at=rfc3339(identity.expires_at), removed=removed),
        reply_to=reply_to,
    )
