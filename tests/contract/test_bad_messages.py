"""What a client can send wrong: each has its named answer, and everybody goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.clients import Client, Clients

MAX = 64 * 1024
FORMAT, TYPE = "INVALID_MESSAGE_FORMAT", "INVALID_MESSAGE_TYPE"

WRONG: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", FORMAT),
    "not JSON": ("not json", FORMAT),
    "half JSON": ('{"type": "ping"', FORMAT),
    "two values": ('{"type": "ping"} {"type": "ping"}', FORMAT),
    "an array": ('["ping"]', FORMAT),
    "a number": ("1", FORMAT),
    "null": ("null", FORMAT),
    "a string": ('"ping"', FORMAT),
    "nested without end": ("[" * 30_000, FORMAT),
    "nested arrays": ("[" * 30_000 + "]" * 30_000, FORMAT),
    "nested data": (
        '{"type":"ping","data":' + '{"a":' * 8_000 + "1" + "}" * 8_000 + "}",
        FORMAT,
    ),
    "half a surrogate": ('{"type": "ping", "data": {"pingId": "\\ud800"}}', FORMAT),
    "binary": (b'{"type": "ping"}', FORMAT),
    "binary noise": (bytes(range(256)), FORMAT),
}

WRONG_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "no type": ({}, FORMAT),
    "unknown type": ({"type": "nonsense"}, TYPE),
    "server's type": ({"type": "pong"}, TYPE),
    "event's type": ({"type": "upload.progress"}, TYPE),
    "type is a number": ({"type": 5}, TYPE),
    "type is null": ({"type": None}, TYPE),
    "type is a list": ({"type": ["ping"]}, TYPE),
    "ping data is a list": ({"type": "ping", "data": []}, FORMAT),
    "ping data is text": ({"type": "ping", "data": "p"}, FORMAT),
    "pingId is an object": ({"type": "ping", "data": {"pingId": {}}}, FORMAT),
    "subscribe without data": ({"type": "subscribe"}, FORMAT),
    "subscribe data is null": ({"type": "subscribe", "data": None}, FORMAT),
    "events is text": ({"type": "subscribe", "data": {"events": "upload.*"}}, FORMAT),
    "events holds numbers": ({"type": "subscribe", "data": {"events": [1]}}, FORMAT),
    "events holds null": ({"type": "unsubscribe", "data": {"events": [None]}}, FORMAT),
    "too many events": ({"type": "subscribe", "data": {"events": ["a.b"] * 1001}}, FORMAT),
    "unsubscribe without data": ({"type": "unsubscribe"}, FORMAT),
    "cancel without data": ({"type": "upload.cancel"}, FORMAT),
    "cancel without id": ({"type": "upload.cancel", "data": {}}, FORMAT),
    "cancel of nothing": ({"type": "upload.cancel", "data": {"upload_id": ""}}, FORMAT),
    "cancel of a number": ({"type": "upload.cancel", "data": {"upload_id": 7}}, FORMAT),
    "cancel of a long id": ({"type": "upload.cancel", "data": {"upload_id": "x" * 129}}, FORMAT),
    "refresh without token": ({"type": "auth.refresh", "data": {}}, FORMAT),
    "refresh with a number": ({"type": "auth.refresh", "data": {"token": 1}}, FORMAT),
    "timestamp is a number": ({"type": "ping", "timestamp": 5}, FORMAT),
}


@pytest.fixture
async def pair(bridge: BridgeProcess) -> AsyncIterator[tuple[Client, Client]]:
    """The client that errs, and one that must not notice."""
    async with Clients(bridge.url) as clients:
        yield await clients.join(), await clients.join()


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_message(pair: tuple[Client, Client], name: str) -> None:
    """A message that can't be read is named, and the connection goes on."""
    client, other = pair
    message, code = WRONG[name]
    await client.send_raw(message)
    await client.expect_error(code)
    await client.ping()
    await other.ping()


@pytest.mark.parametrize("name", WRONG_FIELDS)
async def test_wrong_fields(pair: tuple[Client, Client], name: str) -> None:
    """A message with wrong fields is named, with the ``id`` that it had."""
    client, other = pair
    fields, code = WRONG_FIELDS[name]
    await client.send_raw(json.dumps({**fields, "id": "mine"}))
    await client.expect_error(code, "mine")
    await client.send_raw(json.dumps(fields))
    await client.expect_error(code)
    await client.ping()
    await other.ping()


@pytest.mark.parametrize("message_id", [5, None, {"a": 1}, "x" * 129])
async def test_wrong_id(pair: tuple[Client, Client], message_id: object) -> None:
    """An ``id`` that is none is refused and not echoed; null is as good as none."""
    client, _ = pair
    await client.send_raw(json.dumps({"type": "ping", "id": message_id}))
    if message_id is None:
        assert "reply_to" not in await client.expect("pong")
    else:
        await client.expect_error(FORMAT)
    await client.ping()


async def test_unknown_fields_pass(pair: tuple[Client, Client]) -> None:
    """Fields that the contract does not know yet are no error."""
    client, _ = pair
    await client.send_raw('{"type": "ping", "more": [1], "data": {"pingId": "a", "x": {}}}')
    assert (await client.expect("pong"))["data"]["pingId"] == "a"


def sized(size: int) -> str:
    """Return a good message of so many bytes."""
    empty = len(json.dumps({"type": "ping", "id": "big", "padding": ""}))
    return json.dumps({"type": "ping", "id": "big", "padding": "x" * (size - empty)})


async def test_largest_message(pair: tuple[Client, Client]) -> None:
    """64 KiB are not too large."""
    client, _ = pair
    await client.send_raw(sized(MAX))
    assert (await client.expect("pong"))["reply_to"] == "big"


@pytest.mark.parametrize("size", [MAX + 1, 2 * MAX, 4 * MAX])
async def test_message_too_large(pair: tuple[Client, Client], size: int) -> None:
    """Above 64 KiB and up to four times that, an error answers and the connection lives."""
    client, other = pair
    await client.send_raw(sized(size))
    error = await client.expect("error")
    assert error["data"]["code"] == "MESSAGE_TOO_LARGE"
    assert error.get("reply_to") in (None, "big")
    await client.ping()
    await other.ping()


async def test_message_too_large_in_bytes(pair: tuple[Client, Client]) -> None:
    """The limit counts bytes, not characters, and fragments together."""
    client, _ = pair
    await client.send_raw(json.dumps({"type": "ping", "x": "é" * 40_000}, ensure_ascii=False))
    await client.expect_error("MESSAGE_TOO_LARGE")
    text = sized(MAX + 1)
    await client.socket.send([text[:40_000], text[40_000:]])
    error = await client.expect("error")
    assert error["data"]["code"] == "MESSAGE_TOO_LARGE"
    await client.socket.send(list(sized(200)))
    assert (await client.expect("pong"))["reply_to"] == "big"


@pytest.mark.parametrize("fragments", [1, 8])
async def test_message_over_the_hard_cap(pair: tuple[Client, Client], fragments: int) -> None:
    """Over four times 64 KiB the connection is closed with 1009."""
    client, other = pair
    text = sized(4 * MAX + 1)
    size = -(-len(text) // fragments)
    await client.socket.send([text[at : at + size] for at in range(0, len(text), size)])
    await client.expect_close(codes.MESSAGE_TOO_BIG)
    await other.ping()


async def test_invalid_utf8(pair: tuple[Client, Client]) -> None:
    """Text that is not UTF-8 closes the connection with 1007."""
    client, other = pair
    await client.socket.send(b'{"type": "ping", "id": "\xff"}', text=True)
    code, _ = await client.closed()
    assert code == codes.INVALID_UTF8.code
    await other.ping()


async def test_size_limit_is_a_setting(start_bridge: StartBridge) -> None:
    """``BRIDGE_MAX_MESSAGE_SIZE`` moves both bounds."""
    bridge = start_bridge(BRIDGE_MAX_MESSAGE_SIZE="4096")
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        assert client.established["data"]["limits"]["max_message_size"] == 4096
        await client.send_raw(sized(4096))
        await client.expect("pong")
        await client.send_raw(sized(4097))
        assert (await client.expect("error"))["data"]["code"] == "MESSAGE_TOO_LARGE"
        await client.send_raw(sized(4 * 4096 + 1))
        await client.expect_close(codes.MESSAGE_TOO_BIG)


async def test_too_many_errors(bridge: BridgeProcess) -> None:
    """20 refused messages in a row close the connection with 4503, each one answered."""
    async with Clients(bridge.url) as clients:
        client, other = await clients.join(), await clients.join()
        for number in range(20):
            await client.send("nonsense", id=str(number))
        messages = await client.until_closed()
        assert client.socket.close_code == codes.TOO_MANY_ERRORS.code
        assert client.socket.close_reason == codes.TOO_MANY_ERRORS.name
        answers = [(each["type"], each["reply_to"]) for each in messages]
        assert answers == [("error", str(number)) for number in range(20)]
        await other.ping()


async def test_good_message_resets_the_count(bridge: BridgeProcess) -> None:
    """A good message between refused ones starts the count anew; a heartbeat is one."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        for reset in ("ping", "heartbeat", "ping"):
            for _ in range(19):
                await client.send("nonsense")
                await client.expect_error(TYPE)
            await client.send(reset)
            if reset == "ping":
                await client.expect("pong")
        await client.ping()


async def test_error_limit_is_a_setting(start_bridge: StartBridge) -> None:
    """Whatever is malformed counts: its form, its size, its kind."""
    bridge = start_bridge(BRIDGE_MAX_ERRORS="3")
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        await client.send("nonsense")
        await client.send_raw(sized(MAX + 1))
        await client.send_raw(b"{}")
        messages = await client.until_closed()
        found = [message["data"]["code"] for message in messages]
        assert found == [TYPE, "MESSAGE_TOO_LARGE", "INVALID_MESSAGE_FORMAT"]
        assert client.socket.close_code == codes.TOO_MANY_ERRORS.code
