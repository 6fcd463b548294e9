"""What a service answers to a command, read as services of any language write it.

A service says ``{"accepted": bool, "code"?, "reason"?, "data"?}``, or an error in the headers of
NATS's own services (ADR-32). What is no fault of the command's is not made one: ``null`` is absent,
a reason that is too long is cut, a code that clients don't know is ``COMMAND_FAILED``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import MAX_REASON

SERVICE_ERROR: Final = "nats-service-error"
SERVICE_ERROR_CODE: Final = "nats-service-error-code"
"""Headers of NATS's own services, in lower case (ADR-32, "Error Handling")."""

UNREADABLE: Final = "The service gave an answer that can't be read"

_CODES: Final = {
    "COMMAND_FAILED": ErrorCode.COMMAND_FAILED,
    "NOT_PERMITTED": ErrorCode.NOT_PERMITTED,
    # What HTTP calls it, which the codes of NATS's services mostly are.
    "401": ErrorCode.NOT_PERMITTED,
    "403": ErrorCode.NOT_PERMITTED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """``code`` and ``reason`` are for the client; ``wrong`` says what the service should mend, and
    is empty where the answer is in order. It repeats no value.
    """

    accepted: bool
    code: ErrorCode = ErrorCode.COMMAND_FAILED
    reason: str = ""
    wrong: str = ""


def read_answer(payload: bytes, headers: Mapping[str, str]) -> Answer:
    """Return what a service answered; never raises."""
    lower = {name.lower(): value for name, value in headers.items()}
    if SERVICE_ERROR_CODE in lower or SERVICE_ERROR in lower:
        code = lower.get(SERVICE_ERROR_CODE, "")
        reason = lower.get(SERVICE_ERROR, "")
        # nats-py reads headers as ASCII and keeps what is not, byte by byte, as surrogates.
        reason = reason.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return Answer(False, _CODES.get(code, ErrorCode.COMMAND_FAILED), reason[:MAX_REASON])
    try:
        value = from_json(payload, allow_inf_nan=False)
    except ValueError:
        return _unreadable("it is not JSON" if payload else "it is empty")
    if not isinstance(value, dict):
        return _unreadable("it is no JSON object")
    accepted = value.get("accepted")
    if accepted is None:
        return _unreadable('"accepted" is missing')
    if not isinstance(accepted, bool):
        return _unreadable('"accepted" is neither true nor false')
    if accepted:
        return Answer(True)
    return _refusal(value)


def _refusal(value: dict[str, Any]) -> Answer:
    code, reason, wrong = value.get("code"), value.get("reason"), []
    known = ErrorCode.COMMAND_FAILED
    if isinstance(code, str) and code in _CODES:
        known = _CODES[code]
    elif code is not None:
        wrong.append('"code" is not COMMAND_FAILED or NOT_PERMITTED')
    if reason is None:
        reason = ""
    elif not isinstance(reason, str):
        reason = ""
        wrong.append('"reason" is no text')
    elif len(reason) > MAX_REASON:
        wrong.append(f'"reason" has over {MAX_REASON} characters')
    return Answer(False, known, reason[:MAX_REASON], ", ".join(wrong))


def _unreadable(wrong: str) -> Answer:
    return Answer(False, reason=UNREADABLE, wrong=wrong)
