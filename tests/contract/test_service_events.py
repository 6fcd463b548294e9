"""What a service can publish wrong never reaches a client; what it publishes right is untouched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from natsbridge.schemas.envelope import splice_cursor
from natsbridge.schemas.subjects import Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, envelope, everyone, next_message, to_user, topic
from tests.support.clients import Client, Clients

PROGRESS = "upload.progress"


def progress(**fields: Any) -> dict[str, Any]:
    """Return an ``upload.progress`` that is in order, but for these fields."""
    return envelope(to_user("x", PROGRESS, "1"), **fields)


def without(field: str) -> dict[str, Any]:
    """Return an ``upload.progress`` that lacks a field."""
    return {name: value for name, value in progress().items() if name != field}


def data(**fields: Any) -> dict[str, Any]:
    """Return an ``upload.progress`` with other data."""
    return progress(data={"upload_id": "1", "progress": 40, **fields})


OK = json.dumps(progress()).encode()

PAYLOADS: dict[str, tuple[object, str]] = {
    "nothing": (b"", "INVALID_JSON"),
    "not JSON": (b"not json", "INVALID_JSON"),
    "half": (OK[:-1], "INVALID_JSON"),
    "more after the end": (OK + b"}", "INVALID_JSON"),
    "not UTF-8": (OK.replace(b'"id": "', b'"id": "\xff'), "INVALID_JSON"),
    "NaN": (json.dumps(data(more=float("nan"))).encode(), "INVALID_JSON"),
    "infinity": (json.dumps(progress(more=float("inf"))).encode(), "INVALID_JSON"),
    "an array": ([progress()], "INVALID_ENVELOPE"),
    "a number": (1, "INVALID_ENVELOPE"),
    "no type": (without("type"), "INVALID_ENVELOPE"),
    "type is a number": (progress(type=1), "TYPE_MISMATCH"),
    "other type": (progress(type="upload.error"), "TYPE_MISMATCH"),
    "unknown type": (progress(type="no.such"), "TYPE_MISMATCH"),
    "no id": (without("id"), "INVALID_ENVELOPE"),
    "empty id": (progress(id=""), "INVALID_ENVELOPE"),
    "id is a number": (progress(id=5), "INVALID_ENVELOPE"),
    "no timestamp": (without("timestamp"), "INVALID_ENVELOPE"),
    "timestamp is a number": (progress(timestamp=1767225600), "INVALID_ENVELOPE"),
    "timestamp without zone": (progress(timestamp="2026-01-08T10:30:00"), "INVALID_ENVELOPE"),
    "timestamp is a date": (progress(timestamp="2026-01-08"), "INVALID_ENVELOPE"),
    "no data": (without("data"), "INVALID_ENVELOPE"),
    "own cursor": (progress(cursor="1-1"), "INVALID_ENVELOPE"),
    "own empty cursor": (progress(cursor=None), "INVALID_ENVELOPE"),
    "no progress": (progress(data={"upload_id": "1"}), "INVALID_DATA"),
    "progress of 101": (data(progress=101), "INVALID_DATA"),
    "progress as text": (data(progress="40"), "INVALID_DATA"),
    "no upload": (progress(data={"progress": 1}), "INVALID_DATA"),
    "upload is a number": (data(upload_id=1), "INVALID_DATA"),
    "too large": (data(more="x" * 64 * 1024), "TOO_LARGE"),
}


def encoded(payload: object) -> bytes:
    """Return a payload as bytes."""
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


async def expect_rejected(
    bus: Bus, client: Client, subject: str, payload: bytes, reason: str, *, stored: bool = False
) -> None:
    """Publish, and see that the event goes back with its reason and not to the client, which is
    told of a stored one.
    """
    rejected = await bus.watch_rejected()
    await (bus.store if stored else bus.raw)(subject, payload, {"X-Mine": "kept"})
    marker = await bus.marker(client.user, Root.EVENTS if stored else Root.SERVICE)
    told = [(each["type"], each["data"]["reason"]) for each in await client.until(marker)]
    assert told == ([("gap", "INVALID_EVENT")] if stored else [])
    message = await next_message(rejected)
    assert message.subject == bus.subjects.rejected(subject)
    assert message.headers is not None
    assert message.headers["Bridge-Reject-Reason"] == reason, message.headers
    assert message.data == payload
    await rejected.unsubscribe()
    await client.ping()


@pytest.mark.parametrize("name", PAYLOADS)
async def test_wrong_payload(bridge: BridgeProcess, name: str) -> None:
    """An event that its envelope or model refuses goes to ``rejected.…``, not to its user."""
    payload, reason = PAYLOADS[name]
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = bus.subjects.event(Root.SERVICE, to_user(client.user, PROGRESS, "1"))
        await expect_rejected(bus, client, subject, encoded(payload), reason)


SUBJECTS: dict[str, tuple[str, str]] = {
    "unknown type": ("no.such.1", "UNKNOWN_EVENT"),
    "unknown action": ("upload.nonsense.1", "UNKNOWN_EVENT"),
    "no resource": (PROGRESS, "MALFORMED_SUBJECT"),
    "no action": ("upload", "MALFORMED_SUBJECT"),
    "a token more": (f"{PROGRESS}.1.2", "MALFORMED_SUBJECT"),
    "upper case": ("Upload.progress.1", "UNKNOWN_EVENT"),
    "resource that is no token": (f"{PROGRESS}.=zz", "MALFORMED_SUBJECT"),
    "resource that is not canonical": (f"{PROGRESS}.=41", "MALFORMED_SUBJECT"),
    "resource with a foreign sign": (f"{PROGRESS}.a+b", "MALFORMED_SUBJECT"),
    "resource too long": (f"{PROGRESS}." + "x" * 129, "MALFORMED_SUBJECT"),
}


@pytest.mark.parametrize("audience", ["user", "all"])
@pytest.mark.parametrize("name", SUBJECTS)
async def test_wrong_subject(bridge: BridgeProcess, name: str, audience: str) -> None:
    """A good event on a subject that is none goes to ``rejected.…``."""
    rest, reason = SUBJECTS[name]
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        place = f"user.{client.user}" if audience == "user" else "all"
        subject = f"{bus.subjects.root(Root.SERVICE)}.{place}.{rest}"
        await expect_rejected(bus, client, subject, OK, reason)


async def test_wrong_topic_event(bridge: BridgeProcess) -> None:
    """The same holds for topics; subscribers of other kinds go on."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe("review.*", "review.updated.77")
        subject = bus.subjects.event(Root.SERVICE, topic("review.updated", "77"))
        wrong = envelope(topic("review.updated", "77"), {"review_id": "77", "changes": "none"})
        await expect_rejected(bus, client, subject, encoded(wrong), "INVALID_DATA")
        event = await bus.publish(topic("review.updated", "77"))
        await client.expect_event(event)


async def test_wrong_durable_event(bridge: BridgeProcess) -> None:
    """An event that came through the stream is rejected under the subject it was sent to."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "upload.error", "1")
        wrong = encoded(envelope(address, {"upload_id": "1", "error": 5}))
        subject = bus.subjects.event(Root.EVENTS, address)
        await expect_rejected(bus, client, subject, wrong, "INVALID_DATA", stored=True)


async def test_rejected_once(bridge: BridgeProcess) -> None:
    """However many clients an event was for, it goes back once."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        listeners = [await clients.join() for _ in range(5)]
        rejected = await bus.watch_rejected()
        subject = bus.subjects.event(Root.SERVICE, everyone("system.notification"))
        for payload in (b"first", b"second"):
            await bus.raw(subject, payload)
        marker = await bus.publish(everyone("system.notification"))
        for client in listeners:
            assert await client.until(marker) == []
        assert [(await next_message(rejected)).data for _ in range(2)] == [b"first", b"second"]


def spaced(event: dict[str, Any]) -> bytes:
    """Write an event as no encoder here would: indented, Unicode as it is, blanks at the end."""
    return json.dumps(event, indent=3, ensure_ascii=False).encode() + b" \r\n\t"


def compact(event: dict[str, Any]) -> bytes:
    """Write an event without a blank."""
    return json.dumps(event, separators=(",", ":")).encode()


@pytest.mark.parametrize("write", [spaced, compact])
@pytest.mark.parametrize("stored", [True, False])
async def test_bytes_are_untouched(
    bridge: BridgeProcess, write: Callable[[dict[str, Any]], bytes], stored: bool
) -> None:
    """A client reads the bytes that were published; through the stream, with a cursor spliced in.

    Sent straight to ``live.service.…`` the same durable event arrives, without a cursor.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "upload.completed", "1")
        result = {"big": 12345678901234567890, "float": 1.0, "text": "ünï ☃ \u2028", "e": 1e5}
        payload = write(envelope(address, {"upload_id": "1", "result": result, "more": [None]}))
        if stored:
            await bus.store(bus.subjects.event(Root.EVENTS, address), payload)
        else:
            await bus.raw(bus.subjects.event(Root.SERVICE, address), payload)
        text = await client.receive_text()
        if not stored:
            assert text.encode().rstrip() == payload.rstrip()
            return
        found = re.search(r',"cursor":"([^"\\]+)"}$', text)
        assert found, text
        assert text.encode() == splice_cursor(payload, found[1].encode())


async def test_cursors_follow_the_stream(bridge: BridgeProcess) -> None:
    """Each stored event has a cursor of its own, the same for all who read it."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        readers = [await clients.join() for _ in range(2)]
        cursors: list[list[str]] = [[], []]
        for _ in range(5):
            event = await bus.publish(everyone("system.notification"), root=Root.EVENTS)
            for reader, found in zip(readers, cursors, strict=True):
                found.append((await reader.expect_event(event))["cursor"])
        assert cursors[0] == cursors[1]
        assert len(set(cursors[0])) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"id": '☃ not a UUID, with blanks and "quotes" ' + "x" * 200},
        {"timestamp": "2026-01-08t10:30:00.123456789+02:00"},
        {"timestamp": "2026-01-08 10:30:00z"},
        {"source": "billing", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        {"source": None, "more": {"deep": [1, {"a": None}]}},
    ],
)
async def test_foreign_publishers(bridge: BridgeProcess, fields: dict[str, Any]) -> None:
    """Any id, any RFC 3339 time and unknown fields reach the client as they are."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "file.ready", "a b/c")
        event = envelope(address, {"file_id": "a b/c", "status": "ready", "own": 1}, **fields)
        await bus.raw(bus.subjects.event(Root.SERVICE, address), encoded(event))
        assert await client.receive() == event


async def test_odd_user_ids(bridge: BridgeProcess) -> None:
    """Ids of any characters are users of their own: none reads another's events."""
    users = ["a.b", "a", "a=2Eb", "*", ">", "-", "ünï cödé", "a b\tc"]
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        crowd = [await clients.join(user) for user in users]
        ids = [await bus.publish(to_user(user, PROGRESS, "1")) for user in users]
        for client, event in zip(crowd, ids, strict=True):
            await client.expect_event(event)
        for client in crowd:
            await client.ping()


async def test_largest_event(bridge: BridgeProcess) -> None:
    """64 KiB are delivered; one byte more is not."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, PROGRESS, "1")
        subject = bus.subjects.event(Root.SERVICE, address)
        event = {**data(), "padding": ""}
        room = 64 * 1024 - len(compact(event))
        largest = compact({**event, "padding": "x" * room})
        await bus.raw(subject, largest)
        assert (await client.receive_text()).encode() == largest
        too_large = compact({**event, "padding": "x" * (room + 1)})
        await expect_rejected(bus, client, subject, too_large, "TOO_LARGE")


async def test_other_subjects_are_not_events(bridge: BridgeProcess) -> None:
    """What is published outside of the roots, or outside of the prefix, is nothing to clients."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        for subject in (
            f"live.service.user.{client.user}.{PROGRESS}.1",
            f"{bus.subjects.prefix}.user.{client.user}.{PROGRESS}.1",
            f"{bus.subjects.prefix}.live.service.users.{client.user}.{PROGRESS}.1",
        ):
            await bus.raw(subject, OK)
        marker = await bus.marker(client.user)
        assert await client.until(marker) == []
