"""``connection.established``: what a client is told when it comes in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.settings import LimitSettings
from natsbridge.schemas.envelope import rfc3339
from natsbridge.schemas.replies import ConnectionEstablished, EstablishedData, Limits

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.session import Session

FEATURES: Final = (
    "heartbeat",
    "subscriptions",
    "rate_limiting",
    "message_validation",
    "patterns",
    "commands",
    "auth_refresh",
    "policy",
)
RESUME: Final = "resume"
"""Is among the features while stored events can be read."""


def greeting(session: Session, identity: Identity, reply_to: str | None) -> ConnectionEstablished:
    """Return the message for a session that opens now."""
    env = session.env
    return ConnectionEstablished(
        data=EstablishedData(
            connection_id=session.id,
            user_id=identity.user_id,
            features=[*FEATURES, RESUME] if env.can_resume() else list(FEATURES),
            limits=announced(env.limits),
            expires_at=rfc3339(identity.expires_at),
            cursor=_first_cursor(session),
            resume=None if session.intro.after is None else {"replaying": not env.is_away()},
        ),
        reply_to=reply_to,
    )


def announced(limits: LimitSettings) -> Limits:
    """Return the limits as clients are told them: seconds are whole ones, rounded up."""
    return Limits(
        max_message_size=limits.max_message_size,
        rate_limit_messages=limits.rate_limit_messages,
        rate_limit_window=math.ceil(limits.rate_limit_window),
        heartbeat_interval=math.ceil(limits.heartbeat_interval),
        connection_timeout=math.ceil(limits.connection_timeout),
        max_subscriptions=limits.max_subscriptions,
        subscription_units=limits.subscription_units,
        replay_messages=limits.replay_messages,
    )


def _first_cursor(session: Session) -> str | None:
    # Until the first stored event has come, what the client brought is what it must keep.
    order, brought = session.env.hub.order, session.intro.after
    if brought is not None and order.identity.decode() in ("", brought.stream):
        return session.intro.cursor
    if not order.identity:
        return None
    return order.cursor(order.position)
