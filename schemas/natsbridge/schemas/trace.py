"""W3C ``traceparent``: read from NATS headers, written into an envelope that has none.

Trace Context, https://www.w3.org/TR/trace-context/#traceparent-header.
"""

from __future__ import annotations

import re
from typing import Final

from pydantic_core import from_json

LENGTH: Final = 55
"""Characters of a ``traceparent``."""

_NAME: Final = b"\r\ntraceparent:"
_FLAGS: Final = LENGTH - 1
NOT_SAMPLED: Final = frozenset((b"0", b"2", b"4", b"6", b"8", b"a", b"c", b"e"))
"""The last digit of the flags, whose lowest bit says whether the trace is sampled."""
_FORM: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_KEY: Final = b"traceparent"
_SPACE: Final = b" \t\r\n"


def sampled(headers: bytes, lower: bytes) -> bytes:
    """Return the sampled ``traceparent`` of a header block, empty where it has none in order.

    ``lower`` is the block in lower case: Go's and other carriers write names as they like. Of
    repeated ones the last counts.
    """
    at = lower.rfind(_NAME)
    if at < 0:
        return b""
    start = at + len(_NAME)
    if headers[start : start + 1] == b" ":
        start += 1
    # Most are not sampled: a look at one byte is all they cost.
    if headers[start + _FLAGS : start + LENGTH] in NOT_SAMPLED:
        return b""
    end = headers.find(b"\r", start)
    value = headers[start:] if end < 0 else headers[start:end]
    return value if _FORM.fullmatch(value) else b""


def well_formed(value: str | None) -> bytes:
    """Return a ``traceparent`` that somebody gave as bytes, empty where it has not the form."""
    if value is None or len(value) != LENGTH or not value.isascii():
        return b""
    found = value.encode()
    return found if _FORM.fullmatch(found) else b""


def splice_traceparent(payload: bytes, traceparent: bytes) -> bytes:
    """Return an event's JSON text with this ``traceparent``, unless it has one, a null even.

    Of a text that is no JSON object it makes none that is.
    """
    end = payload if payload[-1:] == b"}" else payload.rstrip(_SPACE)
    if end[-1:] != b"}" or (_KEY in payload and _has_one(payload)):
        return payload
    return end[:-1] + b',"traceparent":"' + traceparent + b'"}'


def _has_one(payload: bytes) -> bool:
    try:
        event = from_json(payload)
    except ValueError:
        return True  # it is refused as it is
    return not isinstance(event, dict) or "traceparent" in event
