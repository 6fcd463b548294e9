"""What replicas may ask of each other on an administrator's behalf, and in which form.

A question that has another is refused by ValueError before anything is done: other replicas of this
version have checked what an administrator sent, and nobody else has business here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from natsbridge.bridge.nats.control import Operation
from natsbridge.schemas.errors import IdError
from natsbridge.schemas.subjects import encode_id

if TYPE_CHECKING:
    from natsbridge.bridge.http.admin import Administration

MAX_CONNECTION_ID: Final = 128
"""Characters."""


def operations(administration: Administration, max_message: int) -> dict[str, Operation]:
    """Return the operations by name; ``max_message`` is the most bytes of a broadcast."""

    def broadcast(args: dict[str, Any]) -> int:
        text = _text(args, "text")
        if len(text.encode()) > max_message:
            raise ValueError("the message is too large")
        message = json.loads(text)
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ValueError("is no message")
        return administration.broadcast(text)

    def disconnect(args: dict[str, Any]) -> int:
        user, revoke = _text(args, "user"), args["revoke"]
        try:
            encode_id(user)
        except IdError as problem:
            raise ValueError(str(problem)) from None
        if not isinstance(revoke, bool):
            raise ValueError("revoke is true or false")
        return administration.disconnect(user, revoke)

    return {
        "broadcast": Operation(broadcast, _is_count),
        "connection": Operation(
            lambda args: administration.connection(_connection(args)),
            lambda result: result is None or isinstance(result, Mapping),
        ),
        "close": Operation(
            lambda args: administration.close(_connection(args)),
            lambda result: isinstance(result, bool),
        ),
        "disconnect": Operation(disconnect, _is_count),
    }


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is text")
    value.encode()  # raises ValueError for half a character
    return value


def _connection(args: Mapping[str, Any]) -> str:
    name = args["id"]
    if not isinstance(name, str):
        raise ValueError("id is text")
    return name if len(name) <= MAX_CONNECTION_ID else ""  # which no connection has


def _is_count(result: object) -> bool:
    return isinstance(result, int) and not isinstance(result, bool) and 0 <= result < 2**31
