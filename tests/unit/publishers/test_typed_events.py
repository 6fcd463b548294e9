"""The typed events: one method for each event type, with the defaults of the contract."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from natsbridge.publishers import (
    EVERYBODY,
    SUBSCRIBERS,
    EventPublisher,
    FileEvents,
    InvalidEvent,
    OutgoingEvent,
    Receipt,
    ReviewEvents,
    SystemEvents,
    UploadEvents,
)
from natsbridge.publishers.service import EventService
from natsbridge.publishers.tracing import Sends
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.events import UploadProgress

Call = Callable[[EventPublisher], Awaitable[list[Receipt]]]


class Recorder(EventPublisher):
    """A publisher that keeps what it would send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[OutgoingEvent] = []

    async def _send(self, event: OutgoingEvent, spans: Sends) -> Receipt:
        self.sent.append(event)
        return Receipt(event.id, stored=False)


CALLS: list[tuple[Call, str, dict[str, Any]]] = [
    (
        lambda p: UploadEvents(p).progress("u1", 40, to="42"),
        "live.service.user.42.upload.progress.u1",
        {"upload_id": "u1", "progress": 40},
    ),
    (
        lambda p: UploadEvents(p).completed("u1", {"size": 3}, to="42"),
        "events.user.42.upload.completed.u1",
        {"upload_id": "u1", "result": {"size": 3}},
    ),
    (
        lambda p: UploadEvents(p).error("u1", "disk full", to="42"),
        "events.user.42.upload.error.u1",
        {"upload_id": "u1", "error": "disk full"},
    ),
    (
        lambda p: UploadEvents(p).cancelled("u1", to="42"),
        "events.user.42.upload.cancelled.u1",
        {"upload_id": "u1"},
    ),
    (
        lambda p: UploadEvents(p).cancelled("u1", "quota", to="42"),
        "events.user.42.upload.cancelled.u1",
        {"upload_id": "u1", "reason": "quota"},
    ),
    (
        lambda p: ReviewEvents(p).created("r1", {"rating": 5}),
        "events.topic.review.created.r1",
        {"review_id": "r1", "review": {"rating": 5}},
    ),
    (
        lambda p: ReviewEvents(p).updated("r1", {"rating": 4}),
        "events.topic.review.updated.r1",
        {"review_id": "r1", "changes": {"rating": 4}},
    ),
    (
        lambda p: ReviewEvents(p).updated("r1", {"rating": 4}, to=["42"]),
        "events.user.42.review.updated.r1",
        {"review_id": "r1", "changes": {"rating": 4}},
    ),
    (
        lambda p: ReviewEvents(p).deleted("r1"),
        "events.topic.review.deleted.r1",
        {"review_id": "r1"},
    ),
    (
        lambda p: SystemEvents(p).notification("hello"),
        "events.all.system.notification.-",
        {"message": "hello", "level": "info"},
    ),
    (
        lambda p: SystemEvents(p).notification("hello", "warning", to="42"),
        "events.user.42.system.notification.-",
        {"message": "hello", "level": "warning"},
    ),
    (
        lambda p: SystemEvents(p).maintenance(
            "soon", starts_at=datetime(2026, 1, 8, tzinfo=UTC), ends_at="2026-01-08T01:00:00Z"
        ),
        "events.all.system.maintenance.-",
        {
            "message": "soon",
            "status": "scheduled",
            "starts_at": "2026-01-08T00:00:00.000000Z",
            "ends_at": "2026-01-08T01:00:00Z",
        },
    ),
    (
        lambda p: SystemEvents(p).user_status("42", "away"),
        "live.service.topic.user.status_changed.42",
        {"user_id": "42", "status": "away"},
    ),
    (
        lambda p: FileEvents(p).processing("f1", 10, to="42"),
        "live.service.user.42.file.processing.f1",
        {"file_id": "f1", "status": "processing", "progress": 10},
    ),
    (
        lambda p: FileEvents(p).ready("f1", to="42"),
        "events.user.42.file.ready.f1",
        {"file_id": "f1", "status": "ready"},
    ),
    (
        lambda p: FileEvents(p).status("f1", "processing", to="42"),
        "live.service.user.42.file.processing.f1",
        {"file_id": "f1", "status": "processing"},
    ),
    (
        lambda p: FileEvents(p).status("f1", "failed", to="42"),
        "events.user.42.file.ready.f1",
        {"file_id": "f1", "status": "failed"},
    ),
]


@pytest.mark.parametrize(("call", "subject", "data"), CALLS)
async def test_each_method_sends_its_type_to_its_audience(
    call: Call, subject: str, data: dict[str, Any]
) -> None:
    """Type, default audience and fields are the contract's; the time is filled in."""
    recorder = Recorder()
    await call(recorder)
    [sent] = recorder.sent
    told = json.loads(sent.payload)
    assert sent.subject == subject
    assert told["data"].pop("timestamp") <= told["timestamp"]
    assert told["data"] == data


def test_every_type_of_the_catalogue_has_a_method() -> None:
    """No event type needs the general publish()."""
    kinds = {".".join(subject.split(".")[-3:-1]) for _, subject, _ in CALLS}
    assert kinds == set(Catalogue.load().types)


def test_to_is_a_keyword_in_every_method_that_addresses_somebody() -> None:
    """All arguments may be text: by its position one could go to the wrong user unseen."""
    classes = [EventPublisher, *EventService.__subclasses__()]
    methods = [
        inspect.signature(method)
        for each in classes
        for name, method in vars(each).items()
        if not name.startswith("_") and inspect.isfunction(method)
    ]
    receivers = [each.parameters["to"] for each in methods if "to" in each.parameters]
    assert len(receivers) == 2 + len(Catalogue.load().types) + len(["status"])
    assert {each.kind for each in receivers} == {inspect.Parameter.KEYWORD_ONLY}


OLD_ORDER: list[Callable[..., object]] = [
    lambda p: UploadEvents(p).progress("42", "u1", 40),
    lambda p: UploadEvents(p).error("42", "u1", "no"),
    lambda p: UploadEvents(p).cancelled("42", "u1"),
    lambda p: FileEvents(p).ready("42", "f1"),
    lambda p: FileEvents(p).status("42", "f1", "processing"),
    lambda p: ReviewEvents(p).deleted("r1", "42"),
    lambda p: SystemEvents(p).notification("hello", "warning", "42"),
    lambda p: p.publish(UploadProgress(upload_id="u1", progress=1), "42"),
]


@pytest.mark.parametrize("call", OLD_ORDER)
def test_a_call_in_the_order_of_before_is_an_error(call: Callable[..., object]) -> None:
    """None of them is taken for something else: nobody is addressed by mistake."""
    with pytest.raises(TypeError):
        call(Recorder())


@pytest.mark.parametrize(
    ("to", "subjects"),
    [
        ("7", ["events.user.7.upload.error.u1"]),
        (["7", "8"], ["events.user.7.upload.error.u1", "events.user.8.upload.error.u1"]),
        (SUBSCRIBERS, ["events.topic.upload.error.u1"]),
        (EVERYBODY, ["events.all.upload.error.u1"]),
    ],
)
async def test_an_event_can_go_to_any_audience(to: Any, subjects: list[str]) -> None:
    """A user, several, the subscribers and everybody are one parameter of every method."""
    recorder = Recorder()
    receipts = await UploadEvents(recorder).error("u1", "no", to=to)
    assert [each.subject for each in recorder.sent] == subjects
    assert [each.id for each in receipts] == [each.id for each in recorder.sent]


async def test_time_and_id_can_be_given() -> None:
    """``at`` is when it happened, not when it was sent; ``event_id`` makes a retry the same."""
    recorder = Recorder()
    at = datetime(2026, 1, 8, 10, 30, tzinfo=UTC)
    await UploadEvents(recorder).error("u1", "no", to="42", at=at, event_id="e1")
    told = json.loads(recorder.sent[0].payload)
    assert (told["id"], told["data"]["timestamp"]) == ("e1", "2026-01-08T10:30:00.000000Z")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda p: UploadEvents(p).progress("u1", 101, to="42"), "data.progress"),
        (lambda p: UploadEvents(p).progress("u1", "40", to="42"), "data.progress"),
        (lambda p: UploadEvents(p).completed("", {}, to="42"), "data.upload_id"),
        (lambda p: UploadEvents(p).completed("u1", None, to="42"), "data.result"),
        (lambda p: UploadEvents(p).error("u1", "no", to=""), "to"),
        (lambda p: ReviewEvents(p).created("r1", ["no"]), "data.review"),
        (lambda p: SystemEvents(p).notification("hi", level=""), "data.level"),
        (lambda p: SystemEvents(p).notification("hi", to=[]), "to"),
        (lambda p: SystemEvents(p).maintenance("hi", "never"), "data.status"),
        (lambda p: SystemEvents(p).maintenance("hi", ends_at="noon"), "data.ends_at"),
        (lambda p: SystemEvents(p).maintenance("hi", starts_at=datetime.min), "data.starts_at"),
        (lambda p: FileEvents(p).status("f1", "processing", -1, to="42"), "data.progress"),
    ],
)
async def test_a_wrong_argument_names_its_field_and_nothing_is_sent(call: Call, field: str) -> None:
    """The error says which field of which event is wrong, before the broker hears of it."""
    recorder = Recorder()
    with pytest.raises(InvalidEvent) as caught:
        await call(recorder)
    assert caught.value.field == field
    assert recorder.sent == []
