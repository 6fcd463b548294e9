"""Two hundred and more events as publishers of all languages write them: what becomes of each.

Each case is a payload and where it goes. It ends in one of three ways, of which ``ends`` says
which: :data:`DELIVERED`, :data:`REFUSED` by NATS itself, or rejected with this reason.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from natsbridge.schemas.subjects import Audience

DELIVERED: Final = "delivered"
REFUSED: Final = "refused"
USER: Final = Audience.USER

TIME: Final = "2026-01-08T10:30:00Z"
TRACE: Final = f"00-{'a' * 32}-{'b' * 16}-01"
NOT_JSON: Final = "INVALID_JSON"
ENVELOPE: Final = "INVALID_ENVELOPE"
DATA: Final = "INVALID_DATA"
MALFORMED: Final = "MALFORMED_SUBJECT"
MISMATCH: Final = "RESOURCE_MISMATCH"


@dataclass(frozen=True)
class Case:
    """``tail`` is the subject behind audience and user; ``stored`` goes to ``events.…``."""

    name: str
    payload: bytes
    ends: str = DELIVERED
    tail: str = "upload.progress.u1"
    audience: Audience = USER
    stored: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    gains: str = ""
    """The ``traceparent`` that the client reads beside the publisher's own bytes."""


def progress(**changes: Any) -> dict[str, Any]:
    """An ``upload.progress`` in order, but for these fields; ``...`` takes one away."""
    return _event("upload.progress", {"upload_id": "u1", "progress": 40}, changes)


def completed(**changes: Any) -> dict[str, Any]:
    """The same of ``upload.completed``."""
    return _event("upload.completed", {"upload_id": "u1", "result": {"size": 3}}, changes)


def _event(kind: str, data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    event = {"type": kind, "id": "1", "timestamp": TIME, "data": data, **changes}
    return {name: value for name, value in event.items() if value is not ...}


def text(event: Any) -> bytes:
    """Write it as Python does."""
    return json.dumps(event).encode()


PLAIN: Final = text(progress())
DONE: Final = text(completed())


def _times() -> Iterator[Case]:
    good = {
        "JavaScript's toISOString": "2026-01-08T10:30:00.000Z",
        "Go's RFC3339Nano": "2026-01-08T10:30:00.123456789Z",
        "Go's zero time": "0001-01-01T00:00:00Z",
        "Python's isoformat": "2026-01-08T10:30:00.123456+00:00",
        "chrono's to_rfc3339": "2026-01-08T10:30:00+00:00",
        "java.time.Instant": "2026-01-08T10:30:00Z",
        "an offset": "2026-01-08T10:30:00+05:45",
        "a negative offset": "2026-01-08T10:30:00-08:00",
        "an unknown offset": "2026-01-08T10:30:00-00:00",
        "lower case": "2026-01-08t10:30:00z",
        "a blank": "2026-01-08 10:30:00Z",
        "a leap second": "2016-12-31T23:59:60Z",
        "a leap day": "2024-02-29T00:00:00Z",
        "the last of all": "9999-12-31T23:59:59.999999Z",
    }
    bad: dict[str, Any] = {
        "Jackson's default": 1767868200.123456789,
        "milliseconds": 1767868200123,
        "seconds as text": "1767868200",
        "OffsetDateTime on a minute": "2026-01-08T10:30Z",
        "chrono's Display": "2026-01-08 10:30:00 UTC",
        "Python's naive isoformat": "2026-01-08T10:30:00.123456",
        "Python's str": "2026-01-08 10:30:00.123456",
        "a date": "2026-01-08",
        "JavaScript's toString": "Thu Jan 08 2026 10:30:00 GMT+0000 (Coordinated Universal Time)",
        "HTTP's": "Thu, 08 Jan 2026 10:30:00 GMT",
        "basic ISO 8601": "20260108T103000Z",
        "a week": "2026-W02-4T10:30:00Z",
        "a ZonedDateTime": "2026-01-08T10:30:00+01:00[Europe/Berlin]",
        "an offset without colon": "2026-01-08T10:30:00+0000",
        "an offset of hours": "2026-01-08T10:30:00+02",
        "a comma": "2026-01-08T10:30:00,5Z",
        "no fraction behind the dot": "2026-01-08T10:30:00.Z",
        "30 February": "2026-02-30T10:30:00Z",
        "29 February of no leap year": "1900-02-29T10:30:00Z",
        "31 April": "2026-04-31T10:30:00Z",
        "month 13": "2026-13-01T10:30:00Z",
        "24 o'clock": "2026-01-08T24:00:00Z",
        "minute 60": "2026-01-08T10:60:00Z",
        "five digits": "12026-01-08T10:30:00Z",
        "nothing": "",
        "null": None,
        "a line break": "2026-01-08T10:30:00Z\n",
        "Arabic digits": "٢٠٢٦-01-08T10:30:00Z",
        "an array": [2026, 1, 8, 10, 30],
    }
    for name, value in good.items():
        yield Case(f"time: {name}", text(progress(timestamp=value)))
    for name, value in bad.items():
        yield Case(f"time: {name}", text(progress(timestamp=value)), ENVELOPE)
    data = {"upload_id": "u1", "progress": 1}
    yield Case("time in the data: null", text(progress(data={**data, "timestamp": None})))
    yield Case(
        "time in the data: 30 February",
        text(progress(data={**data, "timestamp": "2026-02-30T00:00:00Z"})),
        DATA,
    )


def _numbers() -> Iterator[Case]:
    for good in ("0", "100", "-0"):
        yield Case(f"number: {good}", PLAIN.replace(b"40", good.encode()))
    for value in ("40.0", "4e1", "1E2", "40.5", '"40"', "null", "true", "-1", "101", "[40]", "{}"):
        yield Case(f"number: {value}", PLAIN.replace(b"40", value.encode()), DATA)
    yield Case("number: 20 digits", PLAIN.replace(b"40", b"9" * 20), DATA)
    yield Case("number: 1e400 where an integer is", PLAIN.replace(b"40", b"1e400"), DATA)
    for value in ("040", "+40", "0x28", ".5", "40.", "NaN", "Infinity", "-Infinity", "4_0", ""):
        yield Case(f"number: {value or 'none'}", PLAIN.replace(b"40", value.encode()), NOT_JSON)


def _values() -> Iterator[Case]:
    """What a model takes as it is: ``result``."""
    good = {
        "empty": "{}",
        "nulls": '{"a":null,"b":[null]}',
        "a float that is whole": '{"a":1.0}',
        "an exponent": '{"a":1e5,"b":1E-5}',
        "64 bits": '{"a":9223372036854775807,"b":18446744073709551615}',
        "30 digits": '{"a":' + "1" * 30 + "}",
        "the largest double": '{"a":1.7976931348623157e308}',
        "an underflow": '{"a":1e-400}',
        "100 levels": '{"a":' + "[" * 100 + "]" * 100 + "}",
        "Go's escapes": '{"a":"\\u003cb\\u003e\\u0026"}',
        "PHP's escapes": '{"a":"https:\\/\\/example.com\\/"}',
        "an emoji": '{"a":"😀"}',
        "an emoji in escapes": '{"a":"\\ud83d\\ude00"}',
        "an escaped zero": '{"a":"\\u0000"}',
        "line separators": '{"a":"\u2028\u2029"}',
        "an empty name": '{"":1}',
        "names of any script": '{"größe":1,"大小":2}',
        "a name twice": '{"a":1,"a":2}',
        "blanks": '{ "a" :\t[ 1 ,\r\n 2 ] }',
        "a cursor of its own": '{"cursor":"mine"}',
        "words that are no numbers": '{"a":"NaN","b":"Infinity"}',
    }
    bad = {
        "half an emoji": ('{"a":"\\ud83d"}', NOT_JSON),
        "the other half": ('{"a":"\\ude00"}', NOT_JSON),
        "half an emoji in a name": ('{"\\ud83d":1}', NOT_JSON),
        "1e400": ('{"a":1e400}', NOT_JSON),
        "-1e400 deep inside": ('{"a":[{"b":-1e400}]}', NOT_JSON),
        "400 digits": ('{"a":' + "9" * 400 + "}", NOT_JSON),
        "5,000 digits": ('{"a":' + "9" * 5_000 + "}", NOT_JSON),
        "300 levels": ('{"a":' + "[" * 300 + "]" * 300 + "}", NOT_JSON),
        "a tab in a text": ('{"a":"\t"}', NOT_JSON),
        "a line break in a text": ('{"a":"\n"}', NOT_JSON),
        "a hex escape": ('{"a":"\\x41"}', NOT_JSON),
        "a trailing comma": ('{"a":1,}', NOT_JSON),
        "NaN": ('{"a":NaN}', NOT_JSON),
        "undefined": ('{"a":undefined}', NOT_JSON),
        "Python's None": ('{"a":None}', NOT_JSON),
        "Go's nil map": ("null", DATA),
        "an array": ("[]", DATA),
        "JSON in a text": ('"{}"', DATA),
        "a number": ("3", DATA),
    }
    tail = "upload.completed.u1"
    for stored in (False, True):
        where = "stored" if stored else "live"
        for name, value in good.items():
            payload = DONE.replace(b'{"size": 3}', value.encode())
            yield Case(f"value, {where}: {name}", payload, tail=tail, stored=stored)
        for name, (value, reason) in bad.items():
            payload = DONE.replace(b'{"size": 3}', value.encode())
            yield Case(f"value, {where}: {name}", payload, reason, tail, stored=stored)


def _texts() -> Iterator[Case]:
    """The whole text, in encodings and forms that are taken for JSON somewhere."""
    plain = PLAIN.decode()
    umlaut = PLAIN.replace(b'"id": "1"', '"id": "ü"'.encode())
    good = {
        "UTF-8": umlaut,
        "indented": json.dumps(progress(), indent=2).encode(),
        "indented by tabs, with CRLF": json.dumps(progress(), indent="\t")
        .replace("\n", "\r\n")
        .encode(),
        "compact": json.dumps(progress(), separators=(",", ":")).encode(),
        "blanks before": b" \r\n" + PLAIN,
        "a line break behind": PLAIN + b"\n",
        "sorted": json.dumps(progress(), sort_keys=True).encode(),
        "the other way round": text(dict(reversed(progress().items()))),
        "an escaped name": PLAIN.replace(b'"type"', b'"\\u0074ype"'),
        "a type twice, the last right": b'{"type": "x", ' + PLAIN[1:],
    }
    bad = {
        "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
        "UTF-16": plain.encode("utf-16"),
        "UTF-16 little endian": plain.encode("utf-16-le"),
        "UTF-16 big endian": plain.encode("utf-16-be"),
        "UTF-32": plain.encode("utf-32"),
        "Latin-1": umlaut.decode().encode("latin-1"),
        "UTF-7": b"+AHs-" + PLAIN[1:],
        "overlong UTF-8": PLAIN.replace(b'"id": "1"', b'"id": "\xc0\xaf"'),
        "CESU-8": PLAIN.replace(b'"id": "1"', b'"id": "\xed\xa0\xbd\xed\xb8\x80"'),
        "gzip": gzip.compress(PLAIN, mtime=0),
        "MessagePack": b"\x84\xa4type\xafupload.progress",
        "protobuf": b"\n\x0fupload.progress\x12\x011",
        "CBOR": b"\xa4dtypeoupload.progress",
        "XML": b"<event><type>upload.progress</type></event>",
        "YAML": b"type: upload.progress\nid: 1\n",
        "nothing": b"",
        "blanks": b" \n",
        "Python's repr": str(progress()).encode(),
        "names without quotes": PLAIN.replace(b'"type"', b"type"),
        "single quotes": PLAIN.replace(b'"', b"'"),
        "a comment": PLAIN[:-1] + b"/* x */}",
        "a trailing comma": PLAIN[:-1] + b",}",
        "a zero at the end, as of C": PLAIN + b"\x00",
        "two lines": PLAIN + b"\n" + PLAIN,
        "a guard before": b")]}'\n" + PLAIN,
        "the first half": PLAIN[: len(PLAIN) // 2],
        "a record separator": b"\x1e" + PLAIN,
    }
    for name, payload in good.items():
        yield Case(f"text: {name}", payload)
    for name, payload in bad.items():
        yield Case(f"text: {name}", payload, NOT_JSON)
    for payload in (b"null", b"true", b"0", b"[]", text(plain), text([progress()])):
        yield Case(f"text: {payload[:12]!r}", payload, ENVELOPE)
    yield Case(
        "text: a type twice, the last wrong",
        PLAIN[:-1] + b', "type": "x"}',
        "TYPE_MISMATCH",
    )


def _envelopes() -> Iterator[Case]:
    good: dict[str, dict[str, Any]] = {
        "an id of UUID": {"id": "0198A1E4-1E40-7BBB-8CCC-0123456789AB"},
        "an id of 256 characters": {"id": "x" * 256},
        "an id with blanks": {"id": " any text "},
        "source null": {"source": None},
        "source of 128": {"source": "s" * 128},
        "traceparent null": {"traceparent": None},
        "traceparent of its own": {"traceparent": TRACE},
        "traceparent without form": {"traceparent": "mine"},
        "fields of CloudEvents": {"specversion": "1.0", "datacontenttype": "application/json"},
        "a field that is null": {"more": None},
    }
    bad: dict[str, dict[str, Any]] = {
        "no id": {"id": ...},
        "id null": {"id": None},
        "id empty": {"id": ""},
        "id a number": {"id": 7},
        "id of 257": {"id": "x" * 257},
        "no type": {"type": ...},
        "no timestamp": {"timestamp": ...},
        "timestamp in another case": {"timestamp": ..., "Timestamp": TIME},
        "no data": {"data": ...},
        "data null": {"data": None},
        "data as text": {"data": '{"upload_id":"u1","progress":40}'},
        "data an array": {"data": []},
        "source a number": {"source": 7},
        "source too long": {"source": "s" * 129},
        "traceparent a number": {"traceparent": 1},
        "a cursor": {"cursor": "1-1"},
        "a cursor that is null": {"cursor": None},
        "names of C#": {"Type": "upload.progress", "type": ...},
    }
    for name, changes in good.items():
        yield Case(f"envelope: {name}", text(progress(**changes)))
    for name, changes in bad.items():
        yield Case(f"envelope: {name}", text(progress(**changes)), ENVELOPE)
    for kind in ("upload.error", "Upload.Progress", "upload.progress ", "com.example.x", None, 7):
        yield Case(f"type: {kind!r}", text(progress(type=kind)), "TYPE_MISMATCH")


def _data() -> Iterator[Case]:
    def of(kind: str, ends: str, resource: str = "-", **data: Any) -> Case:
        name = f"data: {kind} {json.dumps(data)[:90]} {ends}"
        audience = Audience.ALL if kind.startswith("system") else USER
        return Case(name, text(_event(kind, data, {})), ends, f"{kind}.{resource}", audience)

    yield of("upload.progress", DATA, "u1", progress=1)
    yield of("upload.progress", DATA, "u1", uploadId="u1", progress=1)
    yield of("upload.progress", DATA, "1", upload_id=1, progress=1)
    yield of("upload.progress", DATA, "u1", upload_id=None, progress=1)
    yield of("upload.progress", DATA, "-", upload_id="", progress=1)
    yield of("upload.progress", DELIVERED, "u1", upload_id="u1", progress=1, rate=1.5)
    yield of("upload.error", DATA, "u1", upload_id="u1", error=None)
    yield of("upload.error", DATA, "u1", upload_id="u1", error={"code": 1})
    yield of("upload.error", DELIVERED, "u1", upload_id="u1", error="")
    yield of("upload.cancelled", DELIVERED, "u1", upload_id="u1")
    yield of("upload.cancelled", DELIVERED, "u1", upload_id="u1", reason=None)
    yield of("review.created", DATA, "r1", review_id="r1")
    yield of("review.created", DATA, "r1", review_id="r1", review=None)
    yield of("review.created", DELIVERED, "r1", review_id="r1", review={})
    yield of("review.updated", DATA, "r1", review_id="r1", changes=["status"])
    yield of("review.deleted", DELIVERED, "r1", review_id="r1")
    yield of("file.ready", DATA, "f1", file_id="f1")
    yield of("file.ready", DELIVERED, "f1", file_id="f1", status="ready", progress=None)
    yield of("file.ready", DATA, "f1", file_id="f1", status="ready", progress=99.5)
    yield of("file.processing", DATA, "f1", file_id="f1", progress=1)
    yield of("user.status_changed", DATA, "7", user_id="7", status=None)
    yield of("system.notification", DATA, message="m")
    yield of("system.notification", DATA, message="m", level=None)
    yield of("system.notification", DATA, message="m", level="")
    yield of("system.notification", DATA, message="m", level=3)
    yield of("system.notification", DATA, message="m", level="x" * 33)
    yield of("system.notification", DATA, level="info")
    yield of("system.notification", DELIVERED, message="", level="WARN")
    yield of("system.maintenance", DATA, message="m", status="SCHEDULED")
    yield of("system.maintenance", DATA, message="m", status=0)
    yield of("system.maintenance", DATA, message="m")
    yield of("system.maintenance", DELIVERED, message="m", status="started", starts_at=None)
    yield of("system.maintenance", DATA, message="m", status="started", starts_at="tomorrow")
    yield of("system.maintenance", DELIVERED, message="m", status="completed", ends_at=TIME)


def _subjects() -> Iterator[Case]:
    def about(upload: str, token: str, ends: str = DELIVERED) -> Case:
        payload = text(progress(data={"upload_id": upload, "progress": 1}))
        name = f"id: {upload[:20]!r} as {token[:20]!r} {ends}"
        return Case(name, payload, ends, f"upload.progress.{token}")

    yield about("a.b", "a=2Eb")
    yield about("a@b.example", "a=40b=2Eexample")
    yield about("-", "=2D")
    yield about("é", "=C3=A9")
    yield about("😀", "=F0=9F=98=80")
    yield about("a=2Eb", "a=3D2Eb")
    yield about("2f7c_A-9", "2f7c_A-9")
    yield about("x" * 128, "x" * 128)
    yield about("a.b", "a.b", MALFORMED)
    yield about("a.b", "a=2eb", MALFORMED)
    yield about("a.b", "a%2Eb", MALFORMED)
    yield about("A", "=41", MALFORMED)
    yield about("a+b", "a+b", MALFORMED)
    yield about("é", "é", MALFORMED)
    yield about("x" * 129, "x" * 129, MALFORMED)
    yield about("u1", "u2", MISMATCH)
    yield about("u1", "U1", MISMATCH)
    yield about("u1", "-", MISMATCH)
    yield about("-", "-", MISMATCH)
    yield about("a=2Eb", "a=2Eb", MISMATCH)
    yield about(" u1", "u1", MISMATCH)
    notice = text(_event("system.notification", {"message": "m", "level": "info"}, {}))
    yield Case("id: where there is none", notice, MISMATCH, "system.notification.x", Audience.ALL)
    for tail, reason in (
        ("upload.progres.u1", "UNKNOWN_EVENT"),
        ("upload.Progress.u1", "UNKNOWN_EVENT"),
        ("upload.progress", MALFORMED),
        ("upload.progress.u1.x", MALFORMED),
        ("upload.upload.progress.u1", MALFORMED),
        ("upload.completed.u1", "TYPE_MISMATCH"),
    ):
        for audience in (USER, Audience.ALL):
            yield Case(f"subject: {audience} {tail}", PLAIN, reason, tail, audience)
    yield Case("subject: topic", PLAIN, audience=Audience.TOPIC)
    yield Case("subject: topic, another id", PLAIN, MISMATCH, "upload.progress.u9", Audience.TOPIC)
    # What NATS refuses itself, since the stream has no such subject.
    for tail in (
        "upload.completd.u1",
        "upload.completed",
        "upload.completed.a.b",
        "upload.Completed.u1",
        "upload.progress.u1",
        "uploads.completed.u1",
        "b.example.upload.completed.u1",
    ):
        yield Case(f"stream: {tail}", DONE, REFUSED, tail, stored=True)
    yield Case("stream: mismatch", DONE, MISMATCH, "upload.completed.u2", stored=True)
    yield Case("stream: not an id", DONE, MALFORMED, "upload.completed.%41", stored=True)


def _sizes() -> Iterator[Case]:
    def sized(size: int, stored: bool, ends: str = DELIVERED) -> Case:
        event = completed(data={"upload_id": "u1", "result": {"pad": ""}})
        event["data"]["result"]["pad"] = "x" * (size - len(text(event)))
        name = f"size: {size} {'stored' if stored else 'live'}"
        return Case(name, text(event), ends, "upload.completed.u1", stored=stored)

    yield sized(65_536, False)
    yield sized(65_537, False, "TOO_LARGE")
    yield sized(500_000, False, "TOO_LARGE")
    yield sized(65_000, True)
    yield sized(65_536, True, "TOO_LARGE")
    yield sized(100_000, True, REFUSED)


def _headers() -> Iterator[Case]:
    def with_(headers: dict[str, str], ends: str = DELIVERED, gains: str = "") -> Case:
        return Case(f"headers: {headers} {ends}"[:90], PLAIN, ends, headers=headers, gains=gains)

    yield with_({"Nats-Msg-Id": "1"})
    yield with_({"Content-Type": "application/json", "X-Mine": "ü"})
    yield with_({"Bridge-Schema": "upload.progress@1"})
    yield with_({"Bridge-Schema": "upload.progress@27"})
    yield with_({"bridge-schema": "upload.progress@v2"})
    yield with_({"Bridge-Schema": "upload.progress"})
    yield with_({"Bridge-Schema": "upload.error@1"}, "TYPE_MISMATCH")
    yield with_({"BRIDGE-SCHEMA": "Upload.Progress@1"}, "TYPE_MISMATCH")
    yield with_({"Bridge-Schema": "1"}, "TYPE_MISMATCH")
    for name in ("traceparent", "Traceparent", "TRACEPARENT", "TraceParent"):
        yield with_({name: TRACE, "tracestate": "a=b", "baggage": "c=d"}, gains=TRACE)
    yield with_({"Bridge-Schema": "upload.progress@1", "Traceparent": TRACE}, gains=TRACE)
    yield with_({"traceparent": TRACE[:-2] + "00"})
    yield with_({"traceparent": TRACE.upper()})
    yield with_({"traceparent": "00-0-0-01"})
    yield with_({"traceparent": f"00-{'0' * 32}-{'b' * 16}-01"})
    yield with_({"Nats-Sequence": "99", "Nats-Stream": "EVENTS", "Nats-Last-Sequence": "98"})
    yield with_({"Nats-Rollup": "all", "Nats-TTL": "1s"})
    stored = {"Nats-Msg-Id": "stored-1", "Traceparent": TRACE}
    tail = "upload.completed.u1"
    yield Case("headers: stored", DONE, tail=tail, stored=True, headers=stored, gains=TRACE)


def cases() -> list[Case]:
    """All of them."""
    makers = (_times, _numbers, _values, _texts, _envelopes, _data, _subjects, _sizes, _headers)
    return [case for maker in makers for case in maker()]
