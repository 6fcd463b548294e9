"""Client messages: whatever a client sends is a message or a named error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import (
    CLIENT_MESSAGE_TYPES,
    AnyClientMessage,
    MessageError,
    message_id,
    parse_client_message,
)

SECRET = "eyJhbGciOiJIUzI1NiJ9.canary"

names = st.sampled_from(
    ("type", "data", "id", "timestamp", "events", "token", "upload_id", "pingId", "cursor", "x")
)
kinds = st.sampled_from((*sorted(CLIENT_MESSAGE_TYPES), "nothing", ""))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=10)
    | kinds
    | st.just("x" * 200),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(names, children, max_size=5),
    max_leaves=10,
)
messages = st.fixed_dictionaries(
    {"type": kinds},
    optional={"data": values, "id": values, "timestamp": values, "traceparent": values},
)
secrets = st.sampled_from(
    (SECRET, [SECRET], {SECRET: 1}, {"token": SECRET}, [[SECRET], 1], SECRET * 100)
)
"""The token where it belongs, and in shapes that are refused."""


def outcome(text: bytes) -> AnyClientMessage | MessageError:
    """What the parser makes of this, as a message or as the error that it raises."""
    try:
        return parse_client_message(text)
    except MessageError as refused:
        return refused


def check(text: bytes) -> None:
    """One message: a model, or an error of the table that answers the message's id."""
    found = outcome(text)
    if isinstance(found, MessageError):
        assert found.code in (ErrorCode.INVALID_MESSAGE_FORMAT, ErrorCode.INVALID_MESSAGE_TYPE)
        assert found.message
        assert found.reply_to == message_id(text)
    else:
        assert found.id == message_id(text)
        assert json.loads(text)["type"] == found.type


@given(st.binary(max_size=60))
@example(b"")
@example(b"\xff\xfe")
@example(b"\xed\xa0\x80")
@example(b'{"type":"ping"')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"type":"ping","data":{"pingId":' + b"9" * 5000 + b"}}")
@example(b'{"type":"ping","id":"\\ud800"}')
def test_any_bytes_are_a_message_or_a_named_error(text: bytes) -> None:
    """Nothing but MessageError leaves the parser, with a code of the table."""
    check(text)


@given(values | messages)
def test_any_json_is_a_message_or_a_named_error(value: Any) -> None:
    """Every JSON value has its answer, and a readable ``id`` comes back with it."""
    check(json.dumps(value).encode())


@given(
    st.sampled_from(("authenticate", "auth.refresh", "ping", "subscribe", "nothing")),
    st.fixed_dictionaries({"token": secrets}, optional={"events": values}),
    st.none() | st.integers() | st.text(max_size=5),
    st.integers(0, 300),
)
def test_words_about_a_message_never_hold_its_token(
    kind: str, data: dict[str, Any], message: object, cut: int
) -> None:
    """Whole or cut short, of any shape: an error's words don't repeat what a token field holds."""
    text = json.dumps({"type": kind, "data": data, "id": message}).encode()
    for written in (text, text[:cut], text + b"x"):
        found = outcome(written)
        assert SECRET not in str(found)
        assert SECRET not in repr(found)
        if isinstance(found, MessageError):
            assert SECRET not in found.message


def test_a_message_that_is_too_deep_is_refused_at_once() -> None:
    """Nesting beyond the parser's bound is INVALID_MESSAGE_FORMAT, no exhausted stack."""
    text = b'{"type":"subscribe","data":{"events":' + b"[" * 500 + b"]" * 500 + b"}}"
    with pytest.raises(MessageError) as refused:
        parse_client_message(text)
    assert refused.value.code is ErrorCode.INVALID_MESSAGE_FORMAT
