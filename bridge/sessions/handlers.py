"""What is to be done about a client's message. Pure: decisions in, effects out, no I/O.

The session applies the effects; see ``session.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.identity.grants import Grants
from schemas.catalogue import Catalogue
from schemas.codes import ErrorCode, PatternReason
from schemas.commands import (
    AnyClientMessage,
    Authenticate,
    AuthRefresh,
    Heartbeat,
    Ping,
    Subscribe,
    Unsubscribe,
    UploadCancel,
)
from schemas.errors import IdError, PatternError
from schemas.patterns import Pattern
from schemas.replies import (
    Error,
    Pong,
    PongData,
    Reply,
    SubscriptionAcknowledged,
    SubscriptionData,
    UnsubscriptionAcknowledged,
    UnsubscriptionData,
    error,
)
from schemas.subjects import encode_id


@dataclass(frozen=True, slots=True)
class Nothing:
    """The message is a sign of life and no more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Send this."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Change:
    """Want these patterns from now on; send the replies once NATS has them."""

    patterns: dict[str, Pattern]
    replies: tuple[Reply, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the service behind this command; ``resource`` is the subject token of the id."""

    command: str
    resource_id: str
    resource: str
    message: UploadCancel


@dataclass(frozen=True, slots=True)
class Renew:
    """Go on with this token, if it is the same user's."""

    message: AuthRefresh


Effect = Nothing | Answer | Change | Ask | Renew


@dataclass(frozen=True, slots=True)
class View:
    """What a decision needs to know of the session."""

    patterns: Mapping[str, Pattern]
    grants: Grants
    catalogue: Catalogue
    max_subscriptions: int
    max_interests: int


def handle(message: AnyClientMessage, view: View) -> Effect:
    """Return what is to be done about a message."""
    match message:
        case Ping():
            return Answer(Pong(data=PongData(pingId=message.data.pingId), reply_to=message.id))
        case Heartbeat():
            return Nothing()
        case Subscribe():
            return _subscribe(message, view)
        case Unsubscribe():
            return _unsubscribe(message, view)
        case UploadCancel():
            return _command(message, message.data.upload_id, view)
        case AuthRefresh():
            return Renew(message)
        case Authenticate():
            return Answer(
                error(
                    ErrorCode.NOT_PERMITTED,
                    "Already authenticated; use auth.refresh to bring a new token",
                    reply_to=message.id,
                )
            )


def _subscribe(message: Subscribe, view: View) -> Change:
    patterns = dict(view.patterns)
    interests = sum(_units(each, view) for each in patterns.values())
    accepted: dict[str, None] = {}
    reasons: dict[str, PatternReason] = {}
    effective: set[str] = set()
    for text in dict.fromkeys(message.data.events):
        verdict = _judge(text, patterns, view)
        if isinstance(verdict, Pattern) and text not in patterns:
            interests += _units(verdict, view)
            if interests > view.max_interests:
                interests -= _units(verdict, view)
                verdict = PatternReason.TOO_MANY_SUBSCRIPTIONS
        if isinstance(verdict, PatternReason):
            reasons[text] = verdict
        else:
            patterns[text] = verdict
            accepted[text] = None
            effective.update(key.event_type for key in view.grants.resolve(verdict, view.catalogue))
    replies: list[Reply] = [
        SubscriptionAcknowledged(
            data=SubscriptionData(
                events=list(accepted),
                invalid_events=list(reasons),
                effective=sorted(effective),
                reasons=reasons,
            ),
            reply_to=message.id,
        )
    ]
    if not accepted:
        replies.append(_nothing_accepted(message, reasons))
    return Change(patterns, tuple(replies))


def _units(pattern: Pattern, view: View) -> int:
    return len(view.grants.resolve(pattern, view.catalogue))


def _judge(text: str, held: Mapping[str, Pattern], view: View) -> Pattern | PatternReason:
    if text in held:
        return held[text]
    try:
        pattern = Pattern.parse(text)
    except PatternError:
        return PatternReason.MALFORMED_PATTERN
    if not view.catalogue.expand(pattern):
        return PatternReason.UNKNOWN_EVENT
    if not view.grants.resolve(pattern, view.catalogue):
        return PatternReason.NOT_PERMITTED
    if len(held) >= view.max_subscriptions:
        return PatternReason.TOO_MANY_SUBSCRIPTIONS
    return pattern


def _nothing_accepted(message: Subscribe, reasons: dict[str, PatternReason]) -> Error:
    return error(
        ErrorCode.SUBSCRIPTION_FAILED,
        "No event was accepted",
        reply_to=message.id,
        details={"reasons": reasons} if reasons else None,
    )


def _unsubscribe(message: Unsubscribe, view: View) -> Change:
    left = {text: held for text, held in view.patterns.items() if text not in message.data.events}
    reply = UnsubscriptionAcknowledged(
        data=UnsubscriptionData(events=message.data.events), reply_to=message.id
    )
    return Change(left, (reply,))


def _command(message: UploadCancel, resource_id: str, view: View) -> Effect:
    try:
        resource = encode_id(resource_id)
    except IdError as refused:
        return Answer(
            error(
                ErrorCode.INVALID_MESSAGE_FORMAT, f"data.upload_id: {refused}", reply_to=message.id
            )
        )
    if not view.grants.permits_command(message.type, resource):
        return Answer(
            error(
                ErrorCode.NOT_PERMITTED,
                f"{message.type} is not permitted here",
                reply_to=message.id,
            )
        )
    return Ask(message.type, resource_id, resource, message)
