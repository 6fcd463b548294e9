"""Events at the edge of what JSON, NATS and the envelope allow: all of it or none of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from natsbridge.schemas.subjects import Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import (
    Bus,
    envelope,
    everyone,
    next_message,
    protocol,
    to_user,
    with_header,
)
from tests.support.clients import Clients, http, mint, new_user

DATA = {"message": "MARK", "level": "info"}
OK = json.dumps(envelope(to_user("x", "system.notification"), DATA)).encode()

# What a browser's JSON.parse refuses must not be sent to it, in whatever field it stands.
NOT_JSON = {
    "control character": OK.replace(b"MARK", b"a\x01b"),
    "line feed in a string": OK.replace(b"MARK", b"a\nb"),
    "null byte": OK.replace(b"MARK", b"a\x00b"),
    "null byte at the end": OK + b"\x00",
    "byte order mark": b"\xef\xbb\xbf" + OK,
    "trailing comma": OK[:-1] + b",}",
    "single quotes": OK.replace(b'"MARK"', b"'MARK'"),
    "leading zero": OK[:-1] + b', "more": 01}',
    "plus sign": OK[:-1] + b', "more": +1}',
    "no digits": OK[:-1] + b', "more": 1.}',
    "hex": OK[:-1] + b', "more": 0x10}',
    "NaN unread": OK[:-1] + b', "more": [NaN]}',
    "minus infinity unread": OK[:-1] + b', "more": {"a": -Infinity}}',
    "bad escape": OK.replace(b"MARK", b"\\x41"),
    "comment": OK[:-1] + b"/* */}",
    "overlong UTF-8": OK.replace(b"MARK", b"\xc0\xaf"),
    "surrogate in UTF-8": OK.replace(b"MARK", b"\xed\xa0\x80"),
    "two objects": OK + OK,
    "two lines": OK + b"\n" + OK,
}

HIDDEN_CURSOR = {
    "escaped": OK[:-1] + b', "\\u0063ursor": "1-1"}',
    "first": b'{"cursor": "1-1", ' + OK[1:],
    "twice": OK[:-1] + b', "cursor": null, "cursor": null}',
}


@pytest.mark.parametrize("name", [*NOT_JSON, *HIDDEN_CURSOR])
async def test_never_delivered(bridge: BridgeProcess, name: str) -> None:
    """What is not JSON for every reader, or hides a cursor, is refused."""
    payload, reason = {
        **{name: (data, "INVALID_JSON") for name, data in NOT_JSON.items()},
        **{name: (data, "INVALID_ENVELOPE") for name, data in HIDDEN_CURSOR.items()},
    }[name]
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        rejected = await bus.watch_rejected()
        subject = bus.subjects.event(Root.SERVICE, to_user(client.user, "system.notification"))
        await bus.raw(subject, payload)
        marker = await bus.marker(client.user)
        assert await client.until(marker) == []
        headers = (await next_message(rejected)).headers
        assert headers is not None
        assert headers["Bridge-Reject-Reason"] == reason


@pytest.mark.parametrize(
    "data",
    [
        {"message": "NaN and Infinity and -Infinity", "level": "info"},
        {"message": "x", "level": "x", "NaN": {"Infinity": ["NaN"]}},
        {"message": "x", "level": "x", "cursor": "mine", "data": {"cursor": None}},
        {"message": '"}, {"cursor":"', "level": "info"},
        {"message": "\u2028 \u0000 \U0001f600 \ufeff", "level": "info"},
        {"message": "", "level": "x" * 32},
        {"message": "x", "level": "x", "big": 10**30, "small": -1e-300, "n": [[[[[]]]]]},
        {"message": "MARK" * 15_000, "level": "info"},
    ],
)
async def test_always_delivered(bridge: BridgeProcess, data: dict[str, Any]) -> None:
    """What looks odd and is in order arrives unchanged, with and without the stream."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        for root in (Root.SERVICE, Root.EVENTS):
            event = await bus.publish(to_user(client.user, "system.notification"), data, root=root)
            assert (await client.expect_event(event))["data"] == data


@pytest.mark.parametrize("depth", [50, 150, 1_000, 10_000])
async def test_deep_events(bridge: BridgeProcess, depth: int) -> None:
    """A deeply nested event arrives or goes back; the next one arrives."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        rejected = await bus.watch_rejected()
        nested = b"[" * depth + b"]" * depth
        payload = OK[:-1] + b', "more": ' + nested + b"}"
        subject = bus.subjects.event(Root.SERVICE, to_user(client.user, "system.notification"))
        await bus.raw(subject, payload)
        marker = await bus.marker(client.user)
        texts = []
        while marker not in (text := await client.receive_text()):
            texts.append(text.encode())
        if texts:
            assert texts == [payload]
        else:
            assert (await next_message(rejected)).data == payload


async def test_largest_payload_of_the_broker(bridge: BridgeProcess) -> None:
    """An event as large as NATS takes is refused, though it can't go back with a header more."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        rejected = await bus.watch_rejected()
        address = to_user(client.user, "system.notification")
        subject = bus.subjects.event(Root.SERVICE, address)
        for size in (bus.connection.max_payload, bus.connection.max_payload - 10):
            await bus.raw(subject, b"x" * size)
            marker = await bus.marker(client.user)
            assert await client.until(marker) == []
            headers = (await next_message(rejected)).headers
            assert headers is not None
            assert headers["Bridge-Reject-Reason"] == "TOO_LARGE"


ODD_HEADERS: list[dict[str, str]] = [
    {"Nats-Sequence": "abc"},
    {"Nats-Sequence": "-1", "Nats-Stream": "x"},
    {"Nats-Sequence": "9" * 40, "Nats-Stream": "EVENTS", "Nats-Subject": "a.b"},
    {"Nats-Stream": "EVENTS", "Nats-Sequence": '1","x":"y'},
    {"Nats-Last-Sequence": "5", "Nats-Subject": ""},
    {"traceparent": "garbage", "tracestate": "=,=" * 300},
    {"X-Long": "x" * 20_000},
    {"X-Unicode": "ünï ☃"},
]


@pytest.mark.parametrize("headers", ODD_HEADERS)
async def test_odd_headers(bridge: BridgeProcess, headers: dict[str, str]) -> None:
    """Headers of a foreign publisher change nothing in what clients read, and stop nothing."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "system.notification")
        event = envelope(address)
        payload = json.dumps(event).encode()
        await bus.raw(bus.subjects.event(Root.SERVICE, address), payload, headers)
        marker = await bus.marker(client.user)
        for message in await client.until(marker):
            assert {name: message[name] for name in event} == event
            assert set(message) - set(event) <= {"cursor"}
        await client.ping()


BROKEN_HEADERS = [
    b"",
    b"\r\n",
    b"NATS/1.0",
    b"NATS/1.0\r\n",
    b"NATS/1.0\r\nno colon here\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle\r\nNats-Last-Consumer: 1\r\n\r\n",
    b"NATS/9.9\r\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"\xff\xfe\x00" * 20,
    b"NATS/1.0\r\nNats-Sequence: \xff\xff\r\nNats-Stream: \x00\r\n\r\n",
    b"NATS/1.0\nNats-Sequence:5\n\n",
    b"NATS/1.0\r\nNats-Sequence: 5\r\nMSG a.b 1 5\r\nhello\r\n\r\n",
]


@pytest.mark.parametrize("header", BROKEN_HEADERS)
async def test_broken_headers(bridge: BridgeProcess, header: bytes) -> None:
    """The broker does not look into headers; the bridge survives whatever stands there."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = bus.subjects.event(Root.SERVICE, to_user(client.user, "system.notification"))
        await protocol(bridge.nats_url, with_header(subject.encode(), header, OK))
        marker = await bus.marker(client.user)
        for message in await client.until(marker):
            assert message["data"] == DATA
        event = await bus.publish(everyone("system.notification"), root=Root.EVENTS)
        await client.expect_event(event)
        await client.ping()


async def test_flood_of_wrong_events(bridge: BridgeProcess) -> None:
    """Thousands of wrong events between good ones: each good one arrives, and of the wrong ones the
    first hundreds go back: nobody doubles what is on NATS. All are counted.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(new_user())
        rejected = await bus.watch_rejected()
        address = to_user(client.user, "system.notification")
        subject = bus.subjects.event(Root.SERVICE, address)
        good = []
        for number in range(3_000):
            await bus.connection.publish(subject, b"wrong %d" % number)
            if number % 100 == 0:
                event = envelope(address)
                good.append(event["id"])
                await bus.connection.publish(subject, json.dumps(event).encode())
        await bus.settle()
        for event_id in good:
            await client.expect_event(event_id)
        for number in range(400):
            assert (await next_message(rejected)).data == b"wrong %d" % number
        await client.ping()
        await bus.settle()
        assert rejected.pending_msgs < 2_000
        async with http(bridge.url, mint("admin", role="admin")) as admin:
            metrics = (await admin.get("/metrics")).text
        counts = dict(re.findall(r"^(bridge_\w+)(?:\{.*\})? (\d+)", metrics, re.MULTILINE))
        assert int(counts["bridge_rejects_unsent_total"]) > 0
