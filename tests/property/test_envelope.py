"""Envelopes: bytes in, bytes out, and the cursor, for any event that is in order."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.envelope import MAX_EVENT_ID, splice_cursor
from natsbridge.schemas.errors import EventError

CATALOGUE = Catalogue.load()

text = st.text(max_size=30)
ids = st.text(min_size=1, max_size=40)
times = st.datetimes().map(lambda each: each.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(text, children, max_size=3),
    max_leaves=8,
).filter(lambda value: "Infinity" not in json.dumps(value))
json_objects = st.dictionaries(text, json_values, max_size=3)

DATA: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "upload.progress": st.fixed_dictionaries(
        {"upload_id": ids, "progress": st.integers(0, 100)}, optional={"timestamp": times}
    ),
    "upload.completed": st.fixed_dictionaries({"upload_id": ids, "result": json_objects}),
    "review.updated": st.fixed_dictionaries({"review_id": ids, "changes": json_objects}),
    "system.notification": st.fixed_dictionaries(
        {"message": text, "level": st.text(min_size=1, max_size=32)}
    ),
}


@st.composite
def envelopes(draw: st.DrawFn) -> dict[str, Any]:
    """An envelope that is in order, of one of several types, with or without what is optional."""
    kind = draw(st.sampled_from(sorted(DATA)))
    optional = {"source": st.text(max_size=128), "traceparent": st.text(max_size=128)}
    known = {"id": st.text(min_size=1, max_size=MAX_EVENT_ID), "timestamp": times}
    known["data"] = DATA[kind]
    found: dict[str, Any] = draw(st.fixed_dictionaries(known, optional=optional))
    return {"type": kind, **found}


@st.composite
def payloads(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """An envelope with unknown fields besides, and its text as some publisher might write it."""
    event = draw(envelopes())
    extra = draw(st.dictionaries(text.filter(lambda name: name not in event), json_values))
    extra.pop("cursor", None)
    for optional in ("source", "traceparent"):
        extra.pop(optional, None)
    event = {**event, **extra}
    written = json.dumps(
        event,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from((None, 2))),
        sort_keys=draw(st.booleans()),
    )
    before, after = (draw(st.text(" \t\r\n", max_size=3)) for _ in range(2))
    return event, (before + written + after).encode()


@given(envelopes())
def test_an_event_survives_being_written_and_read(event: dict[str, Any]) -> None:
    """Writing a checked event gives bytes that are checked to the same event."""
    kind = CATALOGUE.get(event["type"])
    assert kind is not None
    checked = kind.read(json.dumps(event).encode())
    assert kind.read(checked.to_bytes()) == checked
    assert (checked.id, checked.timestamp) == (event["id"], event["timestamp"])
    written = json.loads(checked.to_bytes())
    assert {name: written["data"][name] for name in event["data"]} == event["data"]


@given(payloads(), st.from_regex(r"[0-9a-f]{1,14}-[0-9]{1,20}", fullmatch=True))
def test_the_splice_adds_the_cursor_and_changes_nothing(
    event: tuple[dict[str, Any], bytes], cursor: str
) -> None:
    """For every text that passes the check: equal JSON and one field more, which is the last."""
    expected, payload = event
    kind = CATALOGUE.get(expected["type"])
    assert kind is not None
    kind.check(payload)
    pairs: list[tuple[str, Any]] = json.loads(
        splice_cursor(payload, cursor.encode()), object_pairs_hook=list
    )
    assert pairs[-1] == ("cursor", cursor)
    assert json.loads(splice_cursor(payload, cursor.encode())) == {**expected, "cursor": cursor}


@given(
    st.sampled_from(CATALOGUE.types),
    st.one_of(
        st.binary(max_size=80),
        json_values.map(lambda value: json.dumps(value).encode()),
        envelopes().map(lambda event: json.dumps(event).encode()),
        st.tuples(payloads(), st.integers(0, 200)).map(lambda each: each[0][1][: each[1]]),
    ),
)
def test_any_bytes_are_an_event_or_a_typed_error(name: str, payload: bytes) -> None:
    """The check never raises anything but EventError, and what it lets through is plain JSON."""
    kind = CATALOGUE.get(name)
    assert kind is not None
    try:
        kind.check(payload)
    except EventError:
        return
    assert json.loads(payload)["type"] == name
