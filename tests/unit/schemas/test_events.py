"""Checking events: every wrong thing has its reason and its field, and declarations too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.errors import CatalogueError, EventError
from natsbridge.schemas.events import EventData, Overflow, event
from natsbridge.schemas.subjects import NO_RESOURCE, Audience

CATALOGUE = Catalogue.load()
GOOD: dict[str, Any] = {
    "type": "upload.progress",
    "id": "1",
    "timestamp": "2026-01-08T10:30:00Z",
    "data": {"upload_id": "77", "progress": 40},
}
TEXT = json.dumps(GOOD).encode()


@pytest.fixture(scope="module")
def progress() -> EventType:
    """The type ``upload.progress``."""
    found = CATALOGUE.get("upload.progress")
    assert found is not None
    return found


def refusal(kind: EventType, payload: bytes) -> tuple[str, str]:
    """Reason and field of the error that this payload is refused with."""
    with pytest.raises(EventError) as refused:
        kind.check(payload)
    return refused.value.reason, refused.value.field


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"   ",
        b"{",
        TEXT[:-1],
        TEXT + b"x",
        TEXT + b"\x00",
        b"\xef\xbb\xbf" + TEXT,
        TEXT[:-1] + b',"x":NaN}',
        TEXT[:-1] + b',"x":[Infinity]}',
        TEXT[:-1] + b',"x":-Infinity}',
        TEXT[:-1] + b',"x":nan}',
        TEXT[:-1] + b',"x":01}',
        TEXT[:-1] + b',"x":[1,]}',
        TEXT[:-1] + b",'x':1}",
        TEXT[:-1] + b',"x":"\t"}',
        TEXT[:-1] + b',"x":"\xff"}',
        TEXT[:-1] + b',"x":"\xc3"}',
        TEXT[:-1] + b',"x":"\xed\xa0\x80"}',
        TEXT[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        TEXT[:-1] + b',"NaN":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_not_json(progress: EventType, payload: bytes) -> None:
    """Syntax, constants that are no JSON, invalid UTF-8, deep nesting: INVALID_JSON, no field."""
    assert refusal(progress, payload) == (RejectReason.INVALID_JSON, "")


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"type": "upload.error"}, RejectReason.TYPE_MISMATCH, "type"),
        ({"type": "nothing"}, RejectReason.TYPE_MISMATCH, "type"),
        ({"type": 5}, RejectReason.TYPE_MISMATCH, "type"),
        ({"type": None}, RejectReason.TYPE_MISMATCH, "type"),
        ({"id": ""}, RejectReason.INVALID_ENVELOPE, "id"),
        ({"id": "x" * 257}, RejectReason.INVALID_ENVELOPE, "id"),
        ({"id": 5}, RejectReason.INVALID_ENVELOPE, "id"),
        ({"timestamp": "yesterday"}, RejectReason.INVALID_ENVELOPE, "timestamp"),
        ({"timestamp": "2026-01-08"}, RejectReason.INVALID_ENVELOPE, "timestamp"),
        ({"timestamp": "2026-01-08T10:30:00"}, RejectReason.INVALID_ENVELOPE, "timestamp"),
        ({"timestamp": "2026-13-08T10:30:00Z"}, RejectReason.INVALID_ENVELOPE, "timestamp"),
        ({"timestamp": "2026-01-08T10:30:00Z\n"}, RejectReason.INVALID_ENVELOPE, "timestamp"),
        ({"timestamp": 1767868200}, RejectReason.INVALID_ENVELOPE, "timestamp"),
        ({"source": "x" * 129}, RejectReason.INVALID_ENVELOPE, "source"),
        ({"traceparent": 1}, RejectReason.INVALID_ENVELOPE, "traceparent"),
        ({"cursor": "5-1"}, RejectReason.INVALID_ENVELOPE, "cursor"),
        ({"cursor": None}, RejectReason.INVALID_ENVELOPE, "cursor"),
        ({"data": None}, RejectReason.INVALID_ENVELOPE, "data"),
        ({"data": []}, RejectReason.INVALID_ENVELOPE, "data"),
        ({"data": {"progress": 1}}, RejectReason.INVALID_DATA, "data.upload_id"),
        ({"data": {"upload_id": "", "progress": 1}}, RejectReason.INVALID_DATA, "data.upload_id"),
        ({"data": {"upload_id": 7, "progress": 1}}, RejectReason.INVALID_DATA, "data.upload_id"),
        ({"data": {"upload_id": "7"}}, RejectReason.INVALID_DATA, "data.progress"),
        ({"data": {"upload_id": "7", "progress": "1"}}, RejectReason.INVALID_DATA, "data.progress"),
        ({"data": {"upload_id": "7", "progress": 101}}, RejectReason.INVALID_DATA, "data.progress"),
        ({"data": {"upload_id": "7", "progress": -1}}, RejectReason.INVALID_DATA, "data.progress"),
        ({"data": {"upload_id": "7", "progress": 1.5}}, RejectReason.INVALID_DATA, "data.progress"),
        (
            {"data": {"upload_id": "7", "progress": True}},
            RejectReason.INVALID_DATA,
            "data.progress",
        ),
    ],
)
def test_what_an_envelope_or_a_model_refuses(
    progress: EventType, change: dict[str, Any], reason: str, field: str
) -> None:
    """Each wrong field has its reason, and the error names the field."""
    assert refusal(progress, json.dumps({**GOOD, **change}).encode()) == (reason, field)


@pytest.mark.parametrize("name", ["type", "id", "timestamp", "data"])
def test_a_field_that_is_missing_is_named(progress: EventType, name: str) -> None:
    """All four fields of an envelope are required."""
    event = {key: value for key, value in GOOD.items() if key != name}
    assert refusal(progress, json.dumps(event).encode()) == (RejectReason.INVALID_ENVELOPE, name)


@pytest.mark.parametrize("payload", [b"[]", b"5", b'"text"', b"null", b"true"])
def test_json_that_is_no_object(progress: EventType, payload: bytes) -> None:
    """Another JSON value is no envelope, and no field is to blame."""
    assert refusal(progress, payload) == (RejectReason.INVALID_ENVELOPE, "")


def test_the_last_of_a_repeated_name_counts(progress: EventType) -> None:
    """Names may repeat in JSON; browsers take the last one, and so does the check."""
    assert refusal(progress, TEXT[:-1] + b',"data":{"upload_id":"7","progress":999}}')[1] == (
        "data.progress"
    )
    assert refusal(progress, TEXT[:-1] + b',"\\u0063ursor":"1"}')[1] == "cursor"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x" * 256},
        {"id": "any text é"},
        {"timestamp": "2026-01-08t10:30:00.123456789+01:00"},
        {"timestamp": "2026-12-31 23:59:60z"},
        {"more": {"anything": [1, "Infinity", None]}},
        {"data": {"upload_id": "NaN", "progress": 0, "more": "NaN"}},
        {"source": "uploads", "traceparent": "00-0-0-01"},
        {"source": None, "traceparent": None},
        {"data": {"upload_id": "7", "progress": 1, "timestamp": None}},
        {"timestamp": "0001-01-01T00:00:00Z"},
        {"timestamp": "2024-02-29T23:59:59.5+23:59"},
        {"timestamp": "2000-02-29T00:00:00-00:00"},
    ],
)
def test_what_a_foreign_publisher_may_write(progress: EventType, change: dict[str, Any]) -> None:
    """Any id, any RFC 3339 time, unknown fields: a publisher needs no SDK."""
    progress.check(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize("day", ["02-30", "04-31", "00-10", "01-00", "02-29"])
@pytest.mark.parametrize("field", ["timestamp", "data.timestamp"])
def test_a_day_that_the_calendar_does_not_have(progress: EventType, day: str, field: str) -> None:
    """It is refused wherever a time stands, in words and not with a regular expression."""
    event: dict[str, Any] = {**GOOD, "data": dict(GOOD["data"])}
    (event if field == "timestamp" else event["data"])["timestamp"] = f"1900-{day}T10:30:00Z"
    with pytest.raises(EventError) as refused:
        progress.check(json.dumps(event).encode())
    assert refused.value.field == field
    assert refused.value.detail.startswith("is not an RFC 3339 time")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xef\xbb\xbf" + TEXT, "byte order mark"),
        (TEXT.decode().encode("utf-16"), "byte order mark"),
        (TEXT.decode().encode("utf-16-le"), "not UTF-8"),
        (TEXT[:-1] + b',"x":"\xe9"}', "not UTF-8"),
        (TEXT[:-1] + b',"x":"\\ud83d"}', "surrogate pair"),
        (TEXT[:-1] + b',"x":"\\ude00"}', "surrogate pair"),
        (TEXT[:-1] + b',"\\uD83D":1}', "surrogate pair"),
        (TEXT[:-1] + b',"x":"\\u12"}', "not JSON"),
        (TEXT[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}", "deeper than 200 levels"),
        (TEXT[:-1] + b',"x":' + b"9" * 5_000 + b"}", "4,300 digits"),
        (TEXT[:-1] + b',"x":NaN}', "NaN is not JSON"),
        (TEXT[:-1] + b',"x":"NaN",}', "not JSON"),
        (TEXT[:-1] + b',"NaN":' + b"[" * 100_000 + b"}", "deeper than 200 levels"),
    ],
)
def test_what_is_wrong_with_a_text_is_told(progress: EventType, text: bytes, told: str) -> None:
    """What services of other languages send by mistake is named."""
    with pytest.raises(EventError) as refused:
        progress.check(text)
    assert refused.value.reason == RejectReason.INVALID_JSON
    assert told in refused.value.detail


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "1" + "0" * 400, "1" * 330 + ".5"])
@pytest.mark.parametrize("place", ["%s", '{"a":[1,%s]}'])
def test_a_number_that_not_every_parser_reads(number: str, place: str) -> None:
    """JSON has no bound for numbers; Go and Rust do, and would refuse the whole message."""
    kind = CATALOGUE.get("upload.completed")
    assert kind is not None
    event = {**GOOD, "type": kind.name, "data": {"upload_id": "7", "result": {"size": "PLACE"}}}
    text = json.dumps(event).replace('"PLACE"', place)
    kind.check(text.replace("%s", "1.7976931348623157e308").encode())
    with pytest.raises(EventError) as refused:
        kind.check(text.replace("%s", number).encode())
    assert refused.value.reason == RejectReason.INVALID_JSON
    assert refused.value.field.startswith("data.result.size")


@pytest.mark.parametrize(
    ("name", "data", "promised"),
    [
        ("system.notification", {"message": "m"}, {"level": "info"}),
        ("system.maintenance", {"message": "m"}, {"status": "started"}),
        ("review.created", {"review_id": "r"}, {"review": {}}),
        ("file.processing", {"file_id": "f"}, {"status": "processing"}),
        ("file.ready", {"file_id": "f", "progress": None}, {"status": "ready"}),
    ],
)
def test_what_clients_are_promised_is_required(
    name: str, data: dict[str, Any], promised: dict[str, Any]
) -> None:
    """A default is for those who use the model; on the wire the field has to be there."""
    kind = CATALOGUE.get(name)
    assert kind is not None
    event = {**GOOD, "type": name, "data": data}
    (field,) = promised
    for more in ({}, {field: None}):
        text = json.dumps({**event, "data": {**data, **more}}).encode()
        assert refusal(kind, text) == (RejectReason.INVALID_DATA, f"data.{field}")
    kind.check(json.dumps({**event, "data": {**data, **promised}}).encode())
    assert field in CATALOGUE.json_schema()[name]["$defs"][kind.model.__name__]["required"]
    assert kind.model(**data).model_dump(mode="json")[field] is not None


@pytest.mark.parametrize(
    ("name", "data", "resource", "refused"),
    [
        ("upload.progress", {"upload_id": "7", "progress": 1}, "7", False),
        ("upload.progress", {"upload_id": "7", "progress": 1}, "8", True),
        ("upload.progress", {"upload_id": "-", "progress": 1}, "-", False),
        ("upload.progress", {"upload_id": "-", "progress": 1}, None, True),
        ("system.notification", {"message": "m", "level": "x"}, None, False),
        ("system.notification", {"message": "m", "level": "x"}, "7", True),
    ],
)
def test_the_resource_is_that_of_the_subject(
    name: str, data: dict[str, Any], resource: str | None, refused: bool
) -> None:
    """What an event says that it is about is what its subject says; ``-`` is nothing."""
    kind = CATALOGUE.get(name)
    assert kind is not None
    text = json.dumps({**GOOD, "type": name, "data": data}).encode()
    if not refused:
        kind.check(text, resource)
        return
    with pytest.raises(EventError) as error:
        kind.check(text, resource)
    assert error.value.reason == RejectReason.RESOURCE_MISMATCH


def test_an_error_never_repeats_the_value(progress: EventType) -> None:
    """What was refused is described, not quoted: data may be personal."""
    text = json.dumps({**GOOD, "data": {"upload_id": 123454321, "progress": "private"}})
    with pytest.raises(EventError) as refused:
        progress.check(text.encode())
    assert "private" not in str(refused.value)
    assert "123454321" not in str(refused.value)


def test_each_type_of_the_seed_is_there() -> None:
    """The twelve types of the contract, and which of them are ephemeral."""
    ephemeral = {"upload.progress", "file.processing", "user.status_changed"}
    assert len(CATALOGUE) == 12
    for name in CATALOGUE.types:
        kind = CATALOGUE.get(name)
        assert kind is not None
        assert kind.traits.durable is (name not in ephemeral)
        assert kind.traits.overflow is (Overflow.CONFLATE if name in ephemeral else Overflow.HEAL)
        assert kind.traits.audiences == frozenset(Audience)
        assert not kind.traits.admin_only


def test_an_event_knows_its_resource_token() -> None:
    """The resource is the field that the traits name, encoded; ``-`` where there is none."""
    found = CATALOGUE.get("upload.progress")
    assert found is not None
    assert found.model(upload_id="a.b", progress=1).resource_token == "a=2Eb"
    notice = CATALOGUE.get("system.notification")
    assert notice is not None
    assert notice.model(message="x").resource_token == NO_RESOURCE


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    """A bad name, a resource that is no field, healing without a stream: CatalogueError."""

    class Paid(EventData):
        invoice_id: str

    with pytest.raises(CatalogueError, match="Invoice"):
        event("Invoice.paid")(Paid)
    with pytest.raises(CatalogueError, match="no field 'invoice'"):
        event("invoice.paid", resource="invoice")(Paid)
    with pytest.raises(CatalogueError, match="heal"):
        event("invoice.paid", durable=False, overflow=Overflow.HEAL)(Paid)
