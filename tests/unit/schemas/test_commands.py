"""Client messages: each good form, and the words and codes of each wrong one."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import (
    Authenticate,
    CommandReply,
    Heartbeat,
    MessageError,
    Ping,
    Subscribe,
    UploadCancel,
    message_id,
    parse_client_message,
)

FORMAT, TYPE = ErrorCode.INVALID_MESSAGE_FORMAT, ErrorCode.INVALID_MESSAGE_TYPE


def test_the_messages_of_the_first_version_are_read() -> None:
    """With and without what is optional."""
    ping = parse_client_message(b'{"type":"ping","data":{"pingId":"a"},"timestamp":"t","id":"m"}')
    assert ping == Ping(type="ping", data={"pingId": "a"}, timestamp="t", id="m")
    assert parse_client_message(b'{"type":"ping"}') == Ping(type="ping")
    assert parse_client_message(b'{"type":"heartbeat","data":{}}') == Heartbeat(type="heartbeat")
    wish = parse_client_message(b'{"type":"subscribe","data":{"events":["a","b"]},"x":1}')
    assert isinstance(wish, Subscribe)
    assert wish.data.events == ["a", "b"]
    assert isinstance(
        parse_client_message(b'{"type":"upload.cancel","data":{"upload_id":"7"}}'), UploadCancel
    )


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{", FORMAT, "Invalid JSON"),
        ("", FORMAT, "Invalid JSON"),
        ("[]", FORMAT, "Message must be an object"),
        ("null", FORMAT, "Message must be an object"),
        ("{}", FORMAT, "Message must have 'type' field"),
        ('{"type":"upload.progress"}', TYPE, "Unknown message type: upload.progress"),
        ('{"type":5}', TYPE, "Unknown message type: int"),
        ('{"type":null}', TYPE, "Unknown message type: NoneType"),
        ('{"type":["ping"]}', TYPE, "Unknown message type: list"),
        ('{"type":"subscribe"}', FORMAT, "data: "),
        ('{"type":"subscribe","data":[]}', FORMAT, "data: "),
        ('{"type":"subscribe","data":{"events":"a"}}', FORMAT, "data.events: "),
        ('{"type":"subscribe","data":{"events":[1]}}', FORMAT, "data.events.0: "),
        ('{"type":"upload.cancel","data":{}}', FORMAT, "data.upload_id: "),
        ('{"type":"upload.cancel","data":{"upload_id":7}}', FORMAT, "data.upload_id: "),
        ('{"type":"upload.cancel","data":{"upload_id":""}}', FORMAT, "data.upload_id: "),
        ('{"type":"authenticate","data":{"token":""}}', FORMAT, "data.token: "),
        ('{"type":"ping","id":5}', FORMAT, "id: "),
        ('{"type":"ping","data":{"pingId":1.5}}', FORMAT, "data.pingId"),
    ],
)
def test_a_wrong_message_is_described(text: str, code: ErrorCode, words: str) -> None:
    """The code is of the table, and the words name the field."""
    with pytest.raises(MessageError) as refused:
        parse_client_message(text)
    assert refused.value.code is code
    assert refused.value.message.startswith(words)


def test_an_error_answers_the_id_where_one_can_be_read() -> None:
    """``reply_to`` is the message's id; none for an id that is no text, or too long."""
    for text, reply_to in (
        (b'{"type":"x","id":"m1"}', "m1"),
        (b'{"id":"m1"}', "m1"),
        (b'{"type":"x","id":1}', None),
        (b'{"type":"x","id":"' + b"x" * 129 + b'"}', None),
        (b"[", None),
    ):
        with pytest.raises(MessageError) as refused:
            parse_client_message(text)
        assert refused.value.reply_to == reply_to
        assert message_id(text) == reply_to


def test_a_long_unknown_type_is_cut() -> None:
    """What a client wrote as a type is repeated in part only."""
    with pytest.raises(MessageError) as refused:
        parse_client_message(b'{"type":"' + b"x" * 1000 + b'"}')
    assert len(refused.value.message) < 100


def test_a_message_has_a_bound_of_patterns() -> None:
    """A thousand patterns pass, one more is refused."""
    for count, good in ((1000, True), (1001, False)):
        text = json.dumps({"type": "subscribe", "data": {"events": ["a"] * count}})
        if good:
            parse_client_message(text)
        else:
            with pytest.raises(MessageError):
                parse_client_message(text)


@pytest.mark.parametrize(
    ("data", "good"),
    [
        ({"history": 1}, True),
        ({"history": 1000}, True),
        ({"history": None}, True),
        ({"history": 0}, False),
        ({"history": 1001}, False),
        ({"history": -1}, False),
        ({"history": "5"}, False),
        ({"history": 1.5}, False),
        ({"cursor": "5f-7"}, True),
        ({"cursor": 7}, False),
        ({"policy": {}}, True),
        ({"policy": {"a.b": 5}}, True),  # judged type by type, not with the whole message
        ({"policy": []}, False),
        ({"policy": {f"a.b{number}": None for number in range(1001)}}, False),
    ],
)
def test_what_a_subscription_may_ask_for(data: dict[str, object], good: bool) -> None:
    """A number of stored events between 1 and 1,000, a text as cursor, an object as policy."""
    text = json.dumps({"type": "subscribe", "data": {"events": ["review.*"], **data}})
    if good:
        parse_client_message(text)
    else:
        with pytest.raises(MessageError) as refused:
            parse_client_message(text)
        assert refused.value.code is ErrorCode.INVALID_MESSAGE_FORMAT


def test_a_token_does_not_show() -> None:
    """Printing a message with a token does not print the token."""
    message = parse_client_message(b'{"type":"authenticate","data":{"token":"canary"}}')
    assert isinstance(message, Authenticate)
    assert message.data.token == "canary"
    assert "canary" not in repr(message)
    assert "canary" not in str(message)


def test_a_service_answers_with_codes_for_clients_only() -> None:
    """A refusal's code is one of two; a reason may be left away and has a bound."""
    assert CommandReply.model_validate_json(b'{"accepted":true}').accepted
    refused = CommandReply.model_validate_json(b'{"accepted":false}')
    assert refused.code == ErrorCode.COMMAND_FAILED
    for wrong in (
        b'{"accepted":"yes"}',
        b'{"accepted":false,"code":"TOKEN_INVALID"}',
        b'{"accepted":false,"reason":"' + b"x" * 513 + b'"}',
    ):
        with pytest.raises(ValidationError):
            CommandReply.model_validate_json(wrong)
