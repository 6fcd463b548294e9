"""``connection.established``: the first message of an open connection.

Most of it is the same for every client, so the model writes it once, with a mark where each value
of one connection belongs. A property test holds the result and the model together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from pydantic_core import to_json

from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.settings import LimitSettings
from natsbridge.schemas.envelope import new_id, rfc3339, timestamp
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

_REPLAYING: Final = {None: b"null", True: b'{"replaying":true}', False: b'{"replaying":false}'}
_MARK: Final = "@@"
"""Stands nowhere in what is the same for all."""


class Greetings:
    """Writes ``connection.established`` for the clients of one process."""

    def __init__(self, limits: LimitSettings) -> None:
        self._templates: Final = {
            can_resume: _template(limits, can_resume) for can_resume in (False, True)
        }

    def write(
        self,
        *,
        connection_id: str,
        user_id: str,
        expires_at: float,
        cursor: str | None,
        replaying: bool | None,
        can_resume: bool,
        reply_to: str | None,
    ) -> bytes:
        """Return the JSON text. ``replaying`` is None where no cursor was given."""
        now = timestamp().encode()
        return self._templates[can_resume] % (
            now,
            new_id().encode(),
            b"" if reply_to is None else b',"reply_to":' + to_json(reply_to),
            connection_id.encode(),
            to_json(user_id),
            now,
            rfc3339(expires_at).encode(),
            to_json(cursor),
            _REPLAYING[replaying],
        )


def greeting(session: Session, identity: Identity, reply_to: str | None) -> bytes:
    """Return the text of the message for a session that opens now."""
    env = session.env
    return env.greetings.write(
        connection_id=session.id,
        user_id=identity.user_id,
        expires_at=identity.expires_at,
        cursor=_first_cursor(session),
        replaying=None if session.intro.after is None else not env.is_away(),
        can_resume=env.can_resume(),
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


def features(can_resume: bool) -> list[str]:
    """Return what this bridge can do."""
    return [*FEATURES, RESUME] if can_resume else list(FEATURES)


def _template(limits: LimitSettings, can_resume: bool) -> bytes:
    """Return the text with ``%b`` for each value of one connection, in the order of the model."""
    model = ConnectionEstablished(
        timestamp=_MARK,
        id=_MARK,
        data=EstablishedData(
            connection_id=_MARK,
            user_id=_MARK,
            server_time=_MARK,
            features=features(can_resume),
            limits=announced(limits),
            expires_at=_MARK,
            cursor=_MARK,
            resume={_MARK: _MARK},
        ),
    )
    text = model.to_bytes().replace(b"%", b"%%")
    text = text.replace(b'{"@@":"@@"}', b"%b")  # resume
    text = text.replace(b'"cursor":"@@"', b'"cursor":%b')
    text = text.replace(b'"user_id":"@@"', b'"user_id":%b')
    text = text.replace(b'"id":"@@",', b'"id":"@@"%b,', 1)  # reply_to, where there is one
    return text.replace(b"@@", b"%b")


def _first_cursor(session: Session) -> str | None:
    # Until the first stored event has come, what the client brought is what it must keep.
    order, brought = session.env.hub.order, session.intro.after
    if brought is not None and order.identity.decode() in ("", brought.stream):
        return session.intro.cursor
    if not order.identity:
        return None
    return order.cursor(order.position)
