"""The envelope: what stands around an event's data, and how it becomes bytes and back.

The bytes that a publisher sends are the bytes that clients read. The bridge adds one field, the
cursor, by splicing it in before the closing brace.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from natsbridge.schemas.events import EventData, Timestamp

_Data = TypeVar("_Data", bound=EventData)

MAX_EVENT_ID: Final = 256
"""Longest ``id`` in characters; NATS carries it in a header."""


def _refuse(_: object) -> None:
    # Runs only when the field is there: it would stand beside the one that is spliced in.
    raise ValueError("only the bridge sets the cursor")


class Envelope(BaseModel, Generic[_Data]):
    """``{"type","id","timestamp","data"}`` and what is optional beside them.

    ``id`` is a UUIDv7 from the SDK, any string from others. ``traceparent`` is there only when the
    trace is sampled. Unknown fields pass unread; ``cursor`` is the bridge's alone and refused.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    type: str
    id: Annotated[str, Field(min_length=1, max_length=MAX_EVENT_ID)]
    timestamp: Timestamp
    data: _Data
    source: Annotated[str, Field(max_length=128)] | None = None
    traceparent: Annotated[str, Field(max_length=128)] | None = None
    cursor: Annotated[str | None, BeforeValidator(_refuse)] = None

    def to_bytes(self) -> bytes:
        """Return the JSON text, without the optional fields that are not set."""
        return self.model_dump_json(exclude_none=True).encode()


def splice_cursor(payload: bytes, cursor: bytes) -> bytes:
    """Return an event's JSON text with ``"cursor"`` as its last field.

    ``payload`` is a JSON object that was checked and has at least one field; white space after it
    is dropped. ``cursor`` is ASCII without quotes or backslashes.
    """
    if payload[-1] != 0x7D:  # "}"
        payload = payload.rstrip(b" \t\r\n")
    return payload[:-1] + b',"cursor":"' + cursor + b'"}'


_last_milliseconds = 0
_sequence = 0


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562 §5.7) that sorts after every earlier one of this process.

    The 12 bits of ``rand_a`` count within a millisecond (RFC 9562 §6.2, method 1), from a random
    start; when they run out, the clock is taken one millisecond ahead.
    """
    global _last_milliseconds, _sequence
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    if milliseconds > _last_milliseconds:
        _last_milliseconds = milliseconds
        _sequence = random >> 69  # 11 bits, so that at least half of the counter is left
    else:
        _sequence += 1
        if _sequence > 0xFFF:
            _last_milliseconds += 1
            _sequence = 0
    value = (
        _last_milliseconds << 80
        | 0x7 << 76
        | _sequence << 64
        | 0b10 << 62
        | random & 0x3FFF_FFFF_FFFF_FFFF
    )
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def timestamp() -> str:
    """Return the present time as RFC 3339 in UTC: ``2026-01-08T10:30:00.123456Z``."""
    return _rfc3339(time.time_ns() // 1000)


def rfc3339(seconds: float) -> str:
    """Return a Unix time as RFC 3339 in UTC."""
    return _rfc3339(round(seconds * 1_000_000))


def _rfc3339(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    # What is costly is the calendar, and most times that are written are of the same few seconds.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def schema_header(event_type: str, version: int) -> str:
    """Return the value of the header ``Bridge-Schema``: ``<type>@<version>``."""
    return f"{event_type}@{version}"


def named_schema(headers: bytes, lower: bytes) -> tuple[str, str] | None:
    """Return type and version that a NATS header block names, the last that it does, or None.

    ``lower`` is the block in lower case: its names may be in any. Of a value that is none the type
    is the whole of it.
    """
    at = lower.rfind(_SCHEMA)
    if at < 0:
        return None
    start = at + len(_SCHEMA)
    end = headers.find(b"\r", start)
    value = headers[start:] if end < 0 else headers[start:end]
    name, _, version = value.decode("utf-8", "replace").strip().partition("@")
    return name, version


_SCHEMA: Final = b"\r\nbridge-schema:"

HEADER_ID: Final = "Nats-Msg-Id"
HEADER_SCHEMA: Final = "Bridge-Schema"
HEADER_TRACEPARENT: Final = "traceparent"
HEADER_TRACESTATE: Final = "tracestate"
HEADER_REJECT_REASON: Final = "Bridge-Reject-Reason"
HEADER_REJECT_DETAIL: Final = "Bridge-Reject-Detail"

JsonObject = dict[str, Any]
