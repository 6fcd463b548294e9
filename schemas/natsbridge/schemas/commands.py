"""Client → bridge messages, and what the bridge asks a service on a client's behalf."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.errors import SchemaError
from natsbridge.schemas.events import Id

Text128 = Annotated[str, Field(max_length=128)]
Text256 = Annotated[str, Field(max_length=256)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**64)]
MAX_PATTERNS: Final = 1000
"""Most patterns in one message; what a connection may hold is a setting."""
MAX_HISTORY: Final = 1000
"""Most stored events that a ``subscribe`` may ask for."""
MAX_REASON: Final = 512
"""Longest reason of a refused command that a client is told, in characters."""


class Strict(BaseModel):
    """Base of what peers send: strict types, unknown fields pass unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class ClientMessage(Strict):
    """Fields that every client message may have. ``id`` comes back as ``reply_to``."""

    id: Text128 | None = None
    timestamp: str | None = None
    traceparent: Text128 | None = None


class PingData(Strict):
    """``pingId`` comes back in the pong, which is no larger than any message may be."""

    pingId: Text256 | Int64 | None = None  # noqa: N815  # as in the first version of the protocol


class Ping(ClientMessage):
    type: Literal["ping"]
    data: PingData = PingData()


class Heartbeat(ClientMessage):
    type: Literal["heartbeat"]


class Pace(Strict):
    """How often events of one type may come: ``max_rate`` a second, the newest of each resource
    kept meanwhile.
    """

    max_rate: Annotated[float, Field(ge=0.01, le=1000)]
    keep: Literal["latest"] = "latest"


class SubscribeData(Strict):
    """``cursor`` or ``history`` (a number of events) asks for stored events of what is new in
    ``events``; ``policy`` maps event types to a :class:`Pace`, or to null to take it back.
    """

    events: Annotated[list[str], Field(max_length=MAX_PATTERNS)] = []
    cursor: str | None = None
    history: Annotated[int, Field(ge=1, le=MAX_HISTORY)] | None = None
    policy: Annotated[dict[str, Any], Field(max_length=MAX_PATTERNS)] | None = None


class Subscribe(ClientMessage):
    type: Literal["subscribe"]
    data: SubscribeData


class UnsubscribeData(Strict):
    events: Annotated[list[str], Field(max_length=MAX_PATTERNS)] = []


class Unsubscribe(ClientMessage):
    type: Literal["unsubscribe"]
    data: UnsubscribeData


class UploadCancelData(Strict):
    upload_id: Id


class UploadCancel(ClientMessage):
    type: Literal["upload.cancel"]
    data: UploadCancelData


class TokenData(Strict):
    token: Annotated[str, Field(min_length=1, repr=False)]


class AuthRefresh(ClientMessage):
    type: Literal["auth.refresh"]
    data: TokenData


class Authenticate(ClientMessage):
    type: Literal["authenticate"]
    data: TokenData


AnyClientMessage = (
    Ping | Heartbeat | Subscribe | Unsubscribe | UploadCancel | AuthRefresh | Authenticate
)

CLIENT_MESSAGE_TYPES: Final = frozenset(
    {
        "ping",
        "heartbeat",
        "subscribe",
        "unsubscribe",
        "upload.cancel",
        "auth.refresh",
        "authenticate",
    }
)

COMMAND_RESOURCES: Final = {"upload.cancel": "upload_id"}
"""The field of each command's data that says what it is about."""

_validate: Final = TypeAdapter[AnyClientMessage](
    Annotated[AnyClientMessage, Field(discriminator="type")],
    # pydantic would keep short values for all that it reads later.
    config=ConfigDict(cache_strings="keys"),
).validator.validate_json


class MessageError(SchemaError):
    """A client message that is refused: its error code, words for its author, its ``id``, and its
    type where that is one of ours.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        reply_to: str | None = None,
        message_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message_type = message_type
        self.code = code
        self.message = message
        self.reply_to = reply_to


def parse_client_message(text: bytes | str) -> AnyClientMessage:
    """Read one client message; raises :class:`MessageError` that says what is wrong with it.

    The words name the field and what was expected, never the value: it may hold a token. Of a name
    that stands twice in an object the last one counts (RFC 8259 §4 leaves that open).
    """
    try:
        message: AnyClientMessage = _validate(text)
    except ValidationError as error:
        raise _explain(text, error) from None
    raw = text.encode() if isinstance(text, str) else text
    if (b"NaN" in raw or b"Infinity" in raw) and _has_constants(raw):
        raise MessageError(
            ErrorCode.INVALID_MESSAGE_FORMAT, "Invalid JSON: NaN and Infinity", message.id
        )
    return message


def _has_constants(text: bytes) -> bool:
    # RFC 8259 §6 has no such numbers, but the compiled check takes them in unknown fields.
    found: list[str] = []
    json.loads(text, parse_constant=found.append, parse_int=str)
    return bool(found)


def message_id(text: bytes | str) -> str | None:
    """Return the ``id`` of a message that is refused unread; None without a good one."""
    try:
        return _id_of(from_json(text))
    except ValueError:
        return None


def _id_of(value: object) -> str | None:
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and len(found) <= 128 else None


def _explain(text: bytes | str, error: ValidationError) -> MessageError:
    try:
        value = from_json(text)
    except ValueError as refused:
        return MessageError(ErrorCode.INVALID_MESSAGE_FORMAT, f"Invalid JSON: {refused}")
    if not isinstance(value, dict):
        return MessageError(ErrorCode.INVALID_MESSAGE_FORMAT, "Message must be an object")
    reply_to = _id_of(value)
    if "type" not in value:
        return MessageError(
            ErrorCode.INVALID_MESSAGE_FORMAT, "Message must have 'type' field", reply_to
        )
    kind = value["type"]
    if kind not in CLIENT_MESSAGE_TYPES if isinstance(kind, str) else True:
        shown = kind[:64] if isinstance(kind, str) else type(kind).__name__
        return MessageError(
            ErrorCode.INVALID_MESSAGE_TYPE, f"Unknown message type: {shown}", reply_to
        )
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(map(str, first["loc"][1:]))
    return MessageError(
        ErrorCode.INVALID_MESSAGE_FORMAT,
        f"{path}: {first['msg']}" if path else first["msg"],
        reply_to,
        kind,
    )


class CommandRequest(Strict):
    """What a service gets on ``commands.<command>.<user>.<resource>``.

    ``user_id`` and ``resource_id`` are in the subject too, which is what permissions guard; a
    service reads them there.
    """

    command: str
    user_id: str
    resource_id: str
    id: str
    timestamp: str
    data: dict[str, Any] = {}
    traceparent: Text128 | None = None


class CommandReply(Strict):
    """What a service answers: accepted, or refused with a reason in words for the user.

    It is how answers are written; the bridge reads them more generously.
    """

    accepted: bool
    code: Literal[ErrorCode.COMMAND_FAILED, ErrorCode.NOT_PERMITTED] = ErrorCode.COMMAND_FAILED
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
