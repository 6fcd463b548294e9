"""What is to be done about a client's message. Pure: decisions in, effects out, no I/O.

The session applies the effects; see ``session.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from natsbridge.bridge.identity.grants import Grants, Holding, Key
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import ErrorCode, PatternReason, PolicyReason, ResumeReason
from natsbridge.schemas.commands import (
    AnyClientMessage,
    Authenticate,
    AuthRefresh,
    Heartbeat,
    Pace,
    Ping,
    Subscribe,
    Unsubscribe,
    UploadCancel,
)
from natsbridge.schemas.cursors import CURSOR_ROOM, Cursor
from natsbridge.schemas.errors import CursorError, IdError, PatternError
from natsbridge.schemas.patterns import Pattern
from natsbridge.schemas.replies import (
    Error,
    Message,
    Pong,
    PongData,
    PreparedAcknowledgement,
    Reply,
    ResumeCompleted,
    ResumeData,
    SubscriptionAcknowledged,
    SubscriptionData,
    UnsubscriptionAcknowledged,
    UnsubscriptionData,
    error,
)
from natsbridge.schemas.subjects import encode_id

BESIDE_PATTERNS: Final = 2048
"""Bytes of a message beside the patterns that it names: whatever the client's own ``id`` is."""
MAX_NAME: Final = 64
"""Characters of an unknown event type that an answer repeats."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The message is a sign of life and no more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Send this."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Change:
    """Want these patterns from now on; send the replies once NATS has them.

    ``cursor`` or ``history``, not both, ask for stored events of what is new. ``paces`` are events
    a second by type, None for no pace any more.
    """

    patterns: Mapping[str, Pattern]
    replies: tuple[Message, ...]
    cursor: Cursor | None = None
    history: int = 0
    paces: Mapping[str, float | None] = field(default_factory=dict)


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
    max_message_size: int
    units: int = 0
    """Units that the patterns come to."""
    units_left: int = sys.maxsize
    """Units that the user may hold beside those."""


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


def _subscribe(message: Subscribe, view: View) -> Change | Answer:
    known = _known(message, view)
    if known is not None:
        answer = PreparedAcknowledgement(message.data.events, known.acknowledged, message.id)
        return _with_past(message, known.patterns, [answer], {}, view)
    patterns = dict(view.patterns)
    units, left = view.units, view.units_left
    # Together they fit into one message, whatever takes all of them away.
    room = view.max_message_size - BESIDE_PATTERNS - sum(len(held) + 3 for held in patterns)
    accepted: list[str] = []
    reasons: dict[str, PatternReason] = {}
    effective: set[str] = set()
    for text in dict.fromkeys(message.data.events):
        wish = patterns.get(text) or _judge(text, len(patterns), view)
        if isinstance(wish, PatternReason):
            reasons[text] = wish
            continue
        keys = _resolve(wish, view)
        if text not in patterns:
            if not keys:
                reasons[text] = PatternReason.NOT_PERMITTED
                continue
            fits = len(text) + 3 <= room and units + len(keys) <= view.max_interests
            if not fits or len(keys) > left:
                reasons[text] = PatternReason.TOO_MANY_SUBSCRIPTIONS
                continue
            room -= len(text) + 3
            units += len(keys)
            left -= len(keys)
            patterns[text] = wish
        accepted.append(text)
        effective.update(key.event_type for key in keys)
    paces, policy = _paces(message.data.policy, view)
    replies: list[Message] = [
        SubscriptionAcknowledged(
            data=SubscriptionData(
                events=accepted,
                invalid_events=list(reasons),
                effective=sorted(effective),
                reasons=reasons,
                policy=policy,
            ),
            reply_to=message.id,
        )
    ]
    if not accepted and (message.data.events or policy is None):
        replies.append(_nothing_accepted(message, reasons))
    return _with_past(message, patterns, replies, paces, view)


def _known(message: Subscribe, view: View) -> Holding | None:
    """Return what a first subscription comes to, where others with these grants had the same."""
    shared = view.grants.holdings
    if not shared or view.patterns or message.data.policy is not None:
        return None
    names = tuple(message.data.events)
    known = shared.get(names)
    if (
        known is None
        or known.count > min(view.max_interests, view.units_left)
        or known.size > view.max_message_size - BESIDE_PATTERNS
        or len(names) > view.max_subscriptions
    ):
        return None
    return known


def _with_past(
    message: Subscribe,
    patterns: Mapping[str, Pattern],
    replies: list[Message],
    paces: Mapping[str, float | None],
    view: View,
) -> Change | Answer:
    """Return the change with the stored events that are asked for."""
    cursor, history = None, message.data.history or 0
    if message.data.cursor is not None:
        history = 0
        try:
            cursor = Cursor.parse(message.data.cursor)
        except CursorError:
            replies.append(cursor_malformed(message.id))
    return _fitting(Change(patterns, tuple(replies), cursor, history, paces), view)


def cursor_malformed(reply_to: str | None, cursor: str | None = None) -> ResumeCompleted:
    """Return what a client is told whose cursor is none, with one to go on from."""
    data = ResumeData(
        recovered=False, replayed=0, cursor=cursor, reason=ResumeReason.CURSOR_MALFORMED
    )
    return ResumeCompleted(data=data, reply_to=reply_to)


def _paces(
    policy: Mapping[str, Any] | None, view: View
) -> tuple[dict[str, float | None], dict[str, Any] | None]:
    """Return the paces by type, and what to answer."""
    if policy is None:
        return {}, None
    paces: dict[str, float | None] = {}
    applied: dict[str, Any] = {}
    refused: dict[str, PolicyReason] = {}
    for event_type, asked in policy.items():
        kind = view.catalogue.get(event_type)
        if kind is None:
            refused[event_type[:MAX_NAME]] = PolicyReason.UNKNOWN_EVENT
        elif kind.traits.durable:
            refused[event_type] = PolicyReason.DURABLE
        elif asked is None:
            paces[event_type] = applied[event_type] = None
        else:
            try:
                pace = Pace.model_validate(asked)
            except ValidationError:
                refused[event_type] = PolicyReason.MALFORMED
                continue
            paces[event_type] = pace.max_rate
            applied[event_type] = pace.model_dump()
    return paces, {"applied": applied, "refused": refused}


def _judge(text: str, held: int, view: View) -> Pattern | PatternReason:
    # What is cheap to tell comes first: a message may bring a thousand of these.
    if held >= view.max_subscriptions:
        return PatternReason.TOO_MANY_SUBSCRIPTIONS
    try:
        pattern = Pattern.parse(text)
    except PatternError:
        return PatternReason.MALFORMED_PATTERN
    return pattern if view.catalogue.expand(pattern) else PatternReason.UNKNOWN_EVENT


def _resolve(pattern: Pattern, view: View) -> tuple[Key, ...]:
    return view.grants.resolve(pattern, view.catalogue)


def _nothing_accepted(message: Subscribe, reasons: dict[str, PatternReason]) -> Error:
    return error(
        ErrorCode.SUBSCRIPTION_FAILED,
        "No event was accepted",
        reply_to=message.id,
        details={"reasons": reasons} if reasons else None,
    )


def _unsubscribe(message: Unsubscribe, view: View) -> Change | Answer:
    left = {text: held for text, held in view.patterns.items() if text not in message.data.events}
    reply = UnsubscriptionAcknowledged(
        data=UnsubscriptionData(events=message.data.events), reply_to=message.id
    )
    return _fitting(Change(left, (reply,)), view)


def _fitting(change: Change, view: View) -> Change | Answer:
    # The answer repeats what was asked, so a client chooses its size; its cursor comes later.
    first = change.replies[0]
    most = view.max_message_size - CURSOR_ROOM
    if isinstance(first, PreparedAcknowledgement) and len(change.replies) == 1:
        return change  # a client's own ``id`` and what fits into its message are far below it
    if all(len(reply.to_bytes()) <= most for reply in change.replies):
        return change
    return Answer(
        error(
            ErrorCode.MESSAGE_TOO_LARGE,
            "The answer would be too large: name fewer patterns at a time",
            reply_to=first.reply_to,
        )
    )


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
