"""What is found wrong with an event before anything is sent, and what a valid one becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from natsbridge.publishers import EVERYBODY, SUBSCRIBERS, InvalidEvent, OutgoingEvent, To
from natsbridge.publishers.outgoing import Outbox, invalid_data, time_text
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.cursors import CURSOR_ROOM
from natsbridge.schemas.events import (
    EventData,
    ReviewUpdated,
    SystemNotification,
    UploadCompleted,
    UploadError,
    UploadProgress,
    event,
)
from natsbridge.schemas.subjects import Address, Audience, Subjects, decode_id

CATALOGUE = Catalogue.load()
SUBJECTS = Subjects("test")


def outbox(source: str | None = "svc", max_size: int = 65536) -> Outbox:
    return Outbox(SUBJECTS, CATALOGUE, source, max_size)


def prepare(data: EventData, to: To = "42", event_id: str | None = None) -> list[OutgoingEvent]:
    return outbox().prepare(data, to, event_id)


def refusal(data: EventData, to: Any = "42", event_id: str | None = None) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        prepare(data, to, event_id)
    return caught.value


def test_durable_types_go_to_the_stream_and_ephemeral_ones_do_not() -> None:
    """The event type alone decides whether an event is published to be stored."""
    [durable] = prepare(UploadCompleted(upload_id="u1", result={}))
    [ephemeral] = prepare(UploadProgress(upload_id="u1", progress=1))
    assert durable.durable
    assert durable.subject == "test.events.user.42.upload.completed.u1"
    assert durable.live_subject == "test.live.service.user.42.upload.completed.u1"
    assert not ephemeral.durable
    assert (
        ephemeral.subject
        == ephemeral.live_subject
        == "test.live.service.user.42.upload.progress.u1"
    )


@pytest.mark.parametrize(
    ("to", "subject"),
    [
        ("a.b", "test.events.user.a=2Eb.system.notification.-"),
        (SUBSCRIBERS, "test.events.topic.system.notification.-"),
        (EVERYBODY, "test.events.all.system.notification.-"),
    ],
)
def test_each_audience_has_its_subject(to: To, subject: str) -> None:
    """A user, the subscribers and everybody are told apart by the subject."""
    [prepared] = prepare(SystemNotification(message="hi"), to)
    assert prepared.subject == subject


def test_several_users_get_an_event_each_with_an_id_of_its_own() -> None:
    """A shared id would be deduplicated away; a user named twice gets one event."""
    events = prepare(UploadError(upload_id="u1", error="no"), ["1", "2", "1"])
    assert [each.user for each in events] == ["1", "2"]
    assert len({each.id for each in events}) == 2
    assert [json.loads(each.payload)["id"] for each in events] == [each.id for each in events]


def test_an_id_of_the_callers_own_gives_each_user_the_same_id_again() -> None:
    """A retry of a whole call for several users finds the ids of the first call."""
    data = UploadError(upload_id="u1", error="no")
    first = prepare(data, ["1", "2"], "order-7")
    assert [each.id for each in first] == ["order-7.1", "order-7.2"]
    assert [each.id for each in prepare(data, ["2", "1"], "order-7")] == ["order-7.2", "order-7.1"]


def test_the_envelope_is_the_contract_and_the_headers_agree() -> None:
    """What is sent passes the catalogue's check; id and version stand in the headers too."""
    [prepared] = prepare(UploadCompleted(upload_id="u1", result={"a": None}), event_id="e1")
    envelope = CATALOGUE.get("upload.completed").read(prepared.payload)  # type: ignore[union-attr]
    assert (envelope.id, envelope.source, envelope.traceparent) == ("e1", "svc", None)
    assert json.loads(prepared.payload)["data"]["result"] == {"a": None}
    assert dict(prepared.headers) == {
        "Nats-Msg-Id": "e1",
        "Bridge-Schema": "upload.completed@1",
    }


@pytest.mark.parametrize(
    ("data", "field", "reason"),
    [
        (
            UploadProgress.model_construct(upload_id="u", progress=101),
            "data.progress",
            "INVALID_DATA",
        ),
        (UploadProgress.model_construct(upload_id="u"), "data.progress", "INVALID_DATA"),
        (UploadError.model_construct(upload_id=7, error="x"), "data.upload_id", "INVALID_DATA"),
        (UploadError(upload_id="\u00e9" * 100, error="x"), "data.upload_id", "MALFORMED_SUBJECT"),
        (UploadError(upload_id="u", error="\ud800"), "data", "INVALID_JSON"),
        (UploadError(upload_id="u", error="x" * 70000), "data", "TOO_LARGE"),
        (ReviewUpdated(review_id="r", changes={"x": object()}), "data", "INVALID_JSON"),
        (
            ReviewUpdated(review_id="r", changes={"a": [{"b": float("nan")}]}),
            "data.changes.a.0.b",
            "INVALID_JSON",
        ),
    ],
)
def test_wrong_data_names_its_field(data: EventData, field: str, reason: str) -> None:
    """Whatever the bridge would refuse, or JSON would change, is refused here with its field."""
    error = refusal(data)
    assert (error.field, error.reason) == (field, reason)
    assert field in str(error)


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "ephemeral"])
def test_the_largest_event(durable: bool) -> None:
    """A stored event leaves room for the cursor that the bridge adds, and is refused over that as
    the bridge would refuse it; one that is not stored may be as large as the limit.
    """
    kind = Stored if durable else Passing
    own = Outbox(SUBJECTS, Catalogue([kind]), None, 65536)
    most = 65536 - (CURSOR_ROOM if durable else 0)
    [empty] = own.prepare(kind(text=""), "42", "e1")
    room = most - len(empty.payload)
    [largest] = own.prepare(kind(text="x" * room), "42", "e1")
    assert len(largest.payload) == most
    with pytest.raises(InvalidEvent) as caught:
        own.prepare(kind(text="x" * (room + 1)), "42", "e1")
    assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", "data")
    assert str(most) in str(caught.value)


@pytest.mark.parametrize("to", ["", "\u00e9" * 65, "\ud800", [], [""], ["1", ""], [7]])
def test_a_wrong_user_is_told_as_the_field_to(to: Any) -> None:
    """A user that can't be addressed is refused, and no users at all are not everybody."""
    assert refusal(UploadError(upload_id="u", error="x"), to).field == "to"


@pytest.mark.parametrize("event_id", ["", " a", "a ", "a\nb", "a\x00", "x" * 257, "\ud800"])
def test_an_id_that_a_header_would_change_is_refused(event_id: str) -> None:
    """The id is what deduplication compares, so it must arrive as it was given."""
    assert refusal(UploadError(upload_id="u", error="x"), event_id=event_id).field == "id"


@event("text.kept")
class Stored(EventData):
    text: str


@event("text.passing", durable=False)
class Passing(EventData):
    text: str


@event("meter.read", audiences=frozenset({Audience.TOPIC}))
class MeterRead(EventData):
    value: float


@pytest.fixture
def meters() -> Outbox:
    return Outbox(SUBJECTS, Catalogue([MeterRead]), None, 65536)


def test_a_type_of_ones_own_is_checked_by_its_own_model(meters: Outbox) -> None:
    """Extending the catalogue is all that a new type needs; infinity is no JSON number."""
    [prepared] = meters.prepare(MeterRead(value=1.5), SUBSCRIBERS, None)
    assert prepared.subject == "test.events.topic.meter.read.-"
    with pytest.raises(InvalidEvent) as caught:
        meters.prepare(MeterRead(value=float("inf")), SUBSCRIBERS, None)
    assert caught.value.field == "data.value"


def test_an_audience_that_the_type_does_not_have_is_refused(meters: Outbox) -> None:
    """The bridge would refuse it too, where nobody sees it."""
    with pytest.raises(InvalidEvent) as caught:
        meters.prepare(MeterRead(value=1.5), "42", None)
    assert (caught.value.field, caught.value.reason) == ("to", "AUDIENCE_NOT_ALLOWED")


def test_a_type_outside_the_catalogue_is_refused() -> None:
    """A model alone is not enough: the bridge must know the type as well."""
    assert refusal(MeterRead(value=1.0), SUBSCRIBERS).field == "type"


@pytest.mark.parametrize("source", ["", " a", "a\n", "x" * 129])
def test_a_source_that_is_no_name_is_refused(source: str) -> None:
    """Every event carries the source, so a wrong one is told at once, not with every event."""
    with pytest.raises(ValueError, match="source"):
        outbox(source)


def span(flags: int) -> Iterator[NonRecordingSpan]:
    state = TraceState([("vendor", "x")])
    yield NonRecordingSpan(SpanContext(0xA1, 0xB2, False, TraceFlags(flags), state))


@pytest.mark.parametrize("sampled", [True, False])
def test_the_current_trace_goes_into_headers_and_into_the_envelope_when_sampled(
    sampled: bool,
) -> None:
    """Services always see the trace; clients see it only when it was recorded."""
    with trace.use_span(next(span(int(sampled)))):
        [prepared] = prepare(UploadError(upload_id="u", error="x"))
    expected = f"00-{0xA1:032x}-{0xB2:016x}-0{int(sampled)}"
    assert prepared.headers["traceparent"] == expected
    assert prepared.headers["tracestate"] == "vendor=x"
    assert json.loads(prepared.payload).get("traceparent") == (expected if sampled else None)


def test_a_time_becomes_utc_text_and_a_naive_one_is_refused() -> None:
    """A datetime without a zone says nothing to a client elsewhere."""
    noon = datetime(2026, 1, 8, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    assert time_text(noon, "starts_at") == "2026-01-08T10:30:00.000000Z"
    assert time_text("2026-01-08T10:30:00Z", "starts_at") == "2026-01-08T10:30:00Z"
    assert time_text(None, "starts_at") is None
    with pytest.raises(InvalidEvent) as caught:
        time_text(datetime(2026, 1, 8, 12, 30), "starts_at")
    assert caught.value.field == "data.starts_at"
    assert time_text(datetime.now(UTC), "starts_at")


def test_a_models_refusal_is_told_without_the_value() -> None:
    """An error ends up in logs, and the value may be private."""
    with pytest.raises(InvalidEvent) as caught, invalid_data():
        UploadProgress(upload_id="u", progress="secret")  # type: ignore[arg-type]
    assert caught.value.field == "data.progress"
    assert "secret" not in str(caught.value)


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(upload=st.text(), user=st.text(), result=st.dictionaries(st.text(), Json, max_size=4))
def test_any_data_is_either_sent_unchanged_or_refused_by_name(
    upload: str, user: str, result: dict[str, Any]
) -> None:
    """No input gives another exception than InvalidEvent, and what is sent reads back the same."""
    try:
        with invalid_data():
            data = UploadCompleted(upload_id=upload, result=result)
        [prepared] = prepare(data, user)
    except InvalidEvent as error:
        refused = error.field
    else:
        refused = ""
    if refused:
        assert refused.partition(".")[0] in ("data", "to")
        return
    envelope = CATALOGUE.get("upload.completed").read(prepared.payload)  # type: ignore[union-attr]
    assert envelope.data.result == result  # type: ignore[attr-defined]
    address = SUBJECTS.parse(prepared.subject)
    assert decode_id(address.user) == user
    assert decode_id(address.resource) == upload
    assert address == Address(Audience.USER, "upload.completed", data.resource_token, address.user)


class Undeclared(EventData):
    """A model without ``@event``."""

    name: str


class Inherited(UploadProgress):
    """A model that has the traits of another."""


@pytest.mark.parametrize(
    ("to", "told"),
    [
        (42, "not a value of the type int"),
        (None, "not None"),
        (b"42", "not a value of the type bytes"),
        ({"user": "42"}, "not a value of the type dict"),
        (["42", 43], "not a value of the type int"),
        ([None], "not None"),
        (4.2, "not a value of the type float"),
    ],
)
def test_what_is_no_receiver_is_told(to: Any, told: str) -> None:
    """Whoever passes something else learns what can be passed."""
    error = refusal(SystemNotification(message="m"), to)
    assert error.field == "to"
    assert told in error.detail
    assert "SUBSCRIBERS or EVERYBODY" in error.detail


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"message": "m"}, "dict: give a model that is declared with @event"),
        (None, "NoneType: give a model"),
        (SystemNotification, "the class SystemNotification: give an object of it"),
        (Undeclared(name="n"), "put @event(...) of schemas.events above the class"),
        (Inherited(upload_id="u", progress=1), "Inherited is not declared"),
    ],
)
def test_what_is_no_event_is_told(data: Any, told: str) -> None:
    """A dict, a class, a model that nobody declared: the error says what to do."""
    error = refusal(data)
    assert (error.field, error.reason) == ("data", "UNKNOWN_EVENT")
    assert told in error.detail


def test_an_event_that_the_catalogue_lacks_names_the_setting() -> None:
    """A declared model is not enough: bridge and service have to know its module."""

    @event("own.thing")
    class Thing(EventData):
        """A type of one's own."""

    assert "BRIDGE_CATALOGUE" in refusal(Thing()).detail


@pytest.mark.parametrize("event_id", [5, b"e", ["e"]])
def test_an_event_id_is_text(event_id: Any) -> None:
    """Anything else is refused by its field."""
    assert refusal(SystemNotification(message="m"), event_id=event_id).field == "id"
