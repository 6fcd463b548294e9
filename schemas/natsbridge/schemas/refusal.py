"""Why an event is refused, in words for its publisher: the reason, the field, what is wrong.

Nothing here is on the way of an event that is in order. No value of an event is told.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from pydantic import ValidationError

from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.events import TIMESTAMP
from natsbridge.schemas.fast_validator import OUT_OF_RANGE

MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Byte order marks: of UTF-8, and of UTF-16 both ways."""

_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_PLACE: Final = re.compile(r" at line \d+ column \d+$")


def event_error(error: ValidationError, payload: bytes) -> EventError:
    """Tell pydantic's refusal of an envelope in this contract's words, first error first."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = first["loc"]
    kind = first["type"]
    if kind == "json_invalid":
        return EventError(RejectReason.INVALID_JSON, _not_json(first["msg"], payload))
    if path == ("type",) and kind == "literal_error":
        reason = RejectReason.TYPE_MISMATCH
    elif kind == OUT_OF_RANGE:
        reason = RejectReason.INVALID_JSON
    elif path[:1] == ("data",) and len(path) > 1:
        reason = RejectReason.INVALID_DATA
    else:
        reason = RejectReason.INVALID_ENVELOPE
    return EventError(reason, words(first), ".".join(map(str, path)))


def words(first: Any) -> str:
    """Return what one error of pydantic's says, without a regular expression for a time."""
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] == TIMESTAMP:
        return "is not an RFC 3339 time with a zone, such as 2026-01-08T10:30:00Z"
    return str(first["msg"]).removeprefix("Value error, ")


def refuse_constants(payload: bytes) -> None:
    """Raise :class:`EventError` where NaN or Infinity stands as a number.

    The compiled check reads them as numbers; JSON (RFC 8259 §6) and browsers don't.
    """

    def refuse(name: str) -> None:
        raise EventError(RejectReason.INVALID_JSON, f"{name} is not JSON")

    try:
        json.loads(payload, parse_constant=refuse)
    except EventError:
        raise
    except RecursionError:
        raise EventError(RejectReason.INVALID_JSON, _not_json("recursion limit", payload)) from None
    except ValueError as error:
        raise EventError(RejectReason.INVALID_JSON, _not_json(str(error), payload)) from None


def _not_json(told: str, payload: bytes) -> str:
    found = _PLACE.search(told)
    place = found[0] if found else ""
    if payload.startswith(MARKS):
        return "a byte order mark stands before the text; it has to be UTF-8 without one"
    if b"\0" in payload[:4]:
        return "the text is not UTF-8"
    if "unicode code point" in told or "utf-8" in told:
        return f"the text is not UTF-8{place}"
    if "hex escape" in told and _HALF.search(payload):
        return f"half of a surrogate pair, as where a text is cut inside an emoji{place}"
    if "recursion limit" in told:
        return f"nested deeper than 200 levels{place}"
    if "number out of range" in told:
        return f"a number has over 4,300 digits{place}"
    return f"not JSON: {told.removeprefix('Invalid JSON: ')}"
