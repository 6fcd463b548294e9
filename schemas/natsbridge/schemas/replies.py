"""Bridge → client messages: everything the bridge itself says. Events are in ``events.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from natsbridge.schemas.codes import ErrorCode, GapReason, PatternReason, ResumeReason
from natsbridge.schemas.envelope import new_id, timestamp


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Reply(_Model):
    """Fields of every message of the bridge. ``reply_to`` is the ``id`` of what it answers."""

    type: str
    timestamp: str = Field(default_factory=timestamp)
    id: str = Field(default_factory=new_id)
    reply_to: str | None = None

    def to_bytes(self) -> bytes:
        """Return the JSON text; a ``reply_to`` that is not set is left out."""
        if self.reply_to is None:
            return self.model_dump_json(exclude={"reply_to"}).encode()
        return self.model_dump_json().encode()


class Limits(_Model):
    """The limits that a client should know, in bytes, messages and whole seconds."""

    max_message_size: int
    rate_limit_messages: int
    rate_limit_window: int
    heartbeat_interval: int
    connection_timeout: int
    replay_messages: int
    max_subscriptions: int
    subscription_units: int


class EstablishedData(_Model):
    connection_id: str
    user_id: str
    server_time: str = Field(default_factory=timestamp)
    features: list[str]
    limits: Limits
    expires_at: str
    cursor: str | None = None
    resume: dict[str, Any] | None = None


class ConnectionEstablished(Reply):
    type: Literal["connection.established"] = "connection.established"
    data: EstablishedData


class PongData(_Model):
    timestamp: str = Field(default_factory=timestamp)
    pingId: str | int | None = None  # noqa: N815  # as in the first version of the protocol


class Pong(Reply):
    type: Literal["pong"] = "pong"
    data: PongData


class SubscriptionData(_Model):
    """``events`` as the client wrote them; ``effective`` the event types they come to now.

    ``cursor`` is set when it is sent; it is not there while stored events are still to come.
    ``policy`` is ``{"applied": {type: pace}, "refused": {type: reason}}``.
    """

    model_config = ConfigDict(frozen=False)

    events: list[str]
    invalid_events: list[str]
    effective: list[str]
    reasons: dict[str, PatternReason]
    cursor: str | None = None
    policy: dict[str, Any] | None = None


class SubscriptionAcknowledged(Reply):
    type: Literal["subscription.acknowledged"] = "subscription.acknowledged"
    data: SubscriptionData

    def to_bytes(self) -> bytes:
        """Return the JSON text without what was not asked for."""
        return self.model_dump_json(exclude_none=True).encode()


def acknowledged_data(events: Sequence[str], effective: Sequence[str]) -> bytes:
    """Return how the data of an acknowledgement begins that accepts all patterns: without a brace
    at its end, for a cursor may follow.
    """
    data = SubscriptionData(
        events=list(events), invalid_events=[], effective=list(effective), reasons={}
    )
    return data.model_dump_json(exclude_none=True).encode()[:-1]


class PreparedAcknowledgement:
    """What :class:`SubscriptionAcknowledged` is, for an answer that is given again and again.

    Its text is the model's; it takes a tenth of the time.
    """

    __slots__ = ("_begun", "cursor", "events", "reply_to")

    type: Final = "subscription.acknowledged"

    def __init__(self, events: Sequence[str], begun: bytes, reply_to: str | None) -> None:
        self.events = events
        self._begun = begun
        self.reply_to = reply_to
        self.cursor: str | None = None

    @property
    def data(self) -> PreparedAcknowledgement:
        """What the model has below ``data``: ``events``, ``cursor``."""
        return self

    def to_bytes(self) -> bytes:
        """Return the JSON text without what was not asked for."""
        return b'{"type":"subscription.acknowledged","timestamp":"%b","id":"%b"%b,"data":%b%b}}' % (
            timestamp().encode(),
            new_id().encode(),
            b"" if self.reply_to is None else b',"reply_to":' + to_json(self.reply_to),
            self._begun,
            b"" if self.cursor is None else b',"cursor":' + to_json(self.cursor),
        )


class UnsubscriptionData(_Model):
    events: list[str]


class UnsubscriptionAcknowledged(Reply):
    type: Literal["unsubscription.acknowledged"] = "unsubscription.acknowledged"
    data: UnsubscriptionData


class Missing(_Model):
    """Events after the cursor ``from``, up to and with the one of ``to``."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    from_: str = Field(alias="from")
    to: str


class ResumeData(_Model):
    """How a replay ended. ``cursor`` is where the client stands when it is sent; ``missing`` names
    what the stream no longer holds.
    """

    model_config = ConfigDict(frozen=False)

    recovered: bool
    replayed: int
    cursor: str | None = None
    reason: ResumeReason | None = None
    missing: Missing | None = None


class ResumeCompleted(Reply):
    type: Literal["resume.completed"] = "resume.completed"
    data: ResumeData

    def to_bytes(self) -> bytes:
        """Return the JSON text without what there is none of."""
        return self.model_dump_json(exclude_none=True, by_alias=True).encode()


class GapData(_Model):
    """What was not delivered: durable events after the cursor ``from`` up to ``to``, or numbers of
    other events by type in ``dropped``. What is ``recoverable`` follows, and ``resume.completed``.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    from_: str | None = Field(None, alias="from")
    to: str | None = None
    reason: GapReason
    recoverable: bool
    dropped: dict[str, int] | None = None


class Gap(Reply):
    type: Literal["gap"] = "gap"
    data: GapData

    def to_bytes(self) -> bytes:
        """Return the JSON text, with ``from`` and ``to`` even where they are null."""
        leave = {"reply_to": True} if self.reply_to is None else {}
        if self.data.dropped is None:
            return self.model_dump_json(
                by_alias=True, exclude={**leave, "data": {"dropped"}}
            ).encode()
        return self.model_dump_json(by_alias=True, exclude=leave).encode()


class CommandAcceptedData(_Model):
    command: str
    upload_id: str


class CommandAccepted(Reply):
    type: Literal["command.accepted"] = "command.accepted"
    data: CommandAcceptedData


class AuthRefreshedData(_Model):
    """``removed`` are the patterns that the new token no longer permits."""

    expires_at: str
    removed: list[str]


class AuthRefreshed(Reply):
    type: Literal["auth.refreshed"] = "auth.refreshed"
    data: AuthRefreshedData


class AuthExpiringData(_Model):
    expires_at: str


class AuthExpiring(Reply):
    type: Literal["auth.expiring"] = "auth.expiring"
    data: AuthExpiringData


class DrainingData(_Model):
    reconnect_after_ms: int


class ConnectionDraining(Reply):
    type: Literal["connection.draining"] = "connection.draining"
    data: DrainingData


class ErrorData(_Model):
    """``reset_time`` is a Unix time in seconds, there with ``RATE_LIMIT_EXCEEDED`` only."""

    code: ErrorCode
    message: str
    reset_time: float | None = None
    details: dict[str, Any] | None = None


class Error(Reply):
    type: Literal["error"] = "error"
    data: ErrorData

    def to_bytes(self) -> bytes:
        """Return the JSON text without the optional fields that are not set."""
        return self.model_dump_json(exclude_none=True).encode()


Message = Reply | PreparedAcknowledgement
"""What a session sends."""


def error(
    code: ErrorCode,
    message: str,
    *,
    reply_to: str | None = None,
    reset_time: float | None = None,
    details: dict[str, Any] | None = None,
) -> Error:
    """Return an error answer."""
    data = ErrorData(code=code, message=message, reset_time=reset_time, details=details)
    return Error(data=data, reply_to=reply_to)
