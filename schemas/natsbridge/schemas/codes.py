"""The closed tables of codes: errors, refused patterns, refused events, close codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ErrorCode(StrEnum):
    """``error.data.code``: answers one message and leaves the connection open."""

    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    INVALID_MESSAGE_TYPE = "INVALID_MESSAGE_TYPE"
    INVALID_MESSAGE_FORMAT = "INVALID_MESSAGE_FORMAT"
    SUBSCRIPTION_FAILED = "SUBSCRIPTION_FAILED"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    CONNECTION_LIMIT_EXCEEDED = "CONNECTION_LIMIT_EXCEEDED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    NOT_PERMITTED = "NOT_PERMITTED"
    COMMAND_FAILED = "COMMAND_FAILED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    TOKEN_INVALID = "TOKEN_INVALID"


class PatternReason(StrEnum):
    """Why a pattern of a ``subscribe`` was not accepted."""

    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    NOT_PERMITTED = "NOT_PERMITTED"
    MALFORMED_PATTERN = "MALFORMED_PATTERN"
    TOO_MANY_SUBSCRIPTIONS = "TOO_MANY_SUBSCRIPTIONS"


class ResumeReason(StrEnum):
    """Why a client did not get everything after its cursor; in ``resume.completed``."""

    CURSOR_MALFORMED = "CURSOR_MALFORMED"
    STREAM_REPLACED = "STREAM_REPLACED"
    CURSOR_TOO_OLD = "CURSOR_TOO_OLD"
    CURSOR_AHEAD = "CURSOR_AHEAD"
    UNAVAILABLE = "UNAVAILABLE"


class GapReason(StrEnum):
    """Why events did not reach an open connection; in ``gap``."""

    SLOW_CONSUMER = "SLOW_CONSUMER"
    RETENTION = "RETENTION"
    STREAM_REPLACED = "STREAM_REPLACED"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    INVALID_EVENT = "INVALID_EVENT"


class PolicyReason(StrEnum):
    """Why a pace in ``subscribe.policy`` is not kept; in ``subscription.acknowledged``."""

    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    DURABLE = "DURABLE"
    MALFORMED = "MALFORMED"


class RejectReason(StrEnum):
    """Why an event that a service published never reaches a client.

    The event goes to ``rejected.<its subject below live>`` with the reason in the header
    ``Bridge-Reject-Reason`` and the detail in ``Bridge-Reject-Detail``.
    """

    MALFORMED_SUBJECT = "MALFORMED_SUBJECT"
    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    AUDIENCE_NOT_ALLOWED = "AUDIENCE_NOT_ALLOWED"
    INVALID_JSON = "INVALID_JSON"
    INVALID_ENVELOPE = "INVALID_ENVELOPE"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    RESOURCE_MISMATCH = "RESOURCE_MISMATCH"
    INVALID_DATA = "INVALID_DATA"
    TOO_LARGE = "TOO_LARGE"
    NOT_FROM_STREAM = "NOT_FROM_STREAM"
    NOT_DURABLE = "NOT_DURABLE"


@dataclass(frozen=True, slots=True)
class CloseCode:
    """One row of the table of close codes. ``name`` is the reason a client reads."""

    code: int
    name: str

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back: below 4500 it does, from 4500 on it must not."""
        return self.code < 4500


NORMAL: Final = CloseCode(1000, "")
GOING_AWAY: Final = CloseCode(1001, "GOING_AWAY")
PROTOCOL_ERROR: Final = CloseCode(1002, "PROTOCOL_ERROR")
INVALID_UTF8: Final = CloseCode(1007, "INVALID_UTF8")
MESSAGE_TOO_BIG: Final = CloseCode(1009, "MESSAGE_TOO_BIG")
INTERNAL_ERROR: Final = CloseCode(1011, "INTERNAL_ERROR")
TRY_AGAIN_LATER: Final = CloseCode(1013, "TRY_AGAIN_LATER")
HEARTBEAT_TIMEOUT: Final = CloseCode(4000, "HEARTBEAT_TIMEOUT")
TOKEN_EXPIRED: Final = CloseCode(4001, "TOKEN_EXPIRED")
SLOW_CONSUMER: Final = CloseCode(4002, "SLOW_CONSUMER")
RECONNECT: Final = CloseCode(4003, "RECONNECT")
INVALID_TOKEN: Final = CloseCode(4500, "INVALID_TOKEN")
REVOKED: Final = CloseCode(4501, "REVOKED")
REPLACED: Final = CloseCode(4502, "REPLACED")
TOO_MANY_ERRORS: Final = CloseCode(4503, "TOO_MANY_ERRORS")
NOT_AUTHENTICATED: Final = CloseCode(4504, "NOT_AUTHENTICATED")

CLOSE_CODES: Final[dict[int, CloseCode]] = {
    row.code: row
    for row in (
        NORMAL,
        GOING_AWAY,
        PROTOCOL_ERROR,
        INVALID_UTF8,
        MESSAGE_TOO_BIG,
        INTERNAL_ERROR,
        TRY_AGAIN_LATER,
        HEARTBEAT_TIMEOUT,
        TOKEN_EXPIRED,
        SLOW_CONSUMER,
        RECONNECT,
        INVALID_TOKEN,
        REVOKED,
        REPLACED,
        TOO_MANY_ERRORS,
        NOT_AUTHENTICATED,
    )
}
