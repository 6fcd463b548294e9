"""What may be stored already is asked for before it is sent again."""

from __future__ import annotations

from pathlib import Path

import pytest

from natsbridge.publishers import UploadEvents
from tests.unit.publishers.fake_broker import (
    NO_RESPONDERS,
    NOT_FOUND,
    FakeBroker,
    acknowledgement,
    headers,
)
from tests.unit.publishers.spooling import emptied, publisher, spool, uploads_in

DIRECT_GET = "$JS.API.DIRECT.GET.EVENTS"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


async def test_an_event_whose_acknowledgement_was_lost_is_not_sent_again(path: Path) -> None:
    """The stream is asked first: its memory of ids may have ended meanwhile."""

    def answer(subject: str) -> bytes | None:
        if subject.startswith(DIRECT_GET):
            return headers("Nats-Msg-Id: e1", "Nats-Sequence: 7", "Nats-Stream: EVENTS")
        return None

    async with FakeBroker(answer) as broker, publisher(broker, path, timeout=0.2) as own:
        await UploadEvents(own).completed("u1", {}, to="42", event_id="e1")
        await emptied(own)
        assert spool(own).last_stored.sequence == 7
    assert uploads_in(broker) == ["u1"]


async def test_the_next_process_asks_before_it_sends_what_may_have_been_sent(path: Path) -> None:
    """The file tells up to which event that can be; an event that was never sent costs nothing."""
    async with FakeBroker() as broker:
        own = publisher(broker, path, timeout=60)
        await own.open()
        uploads = UploadEvents(own)
        await uploads.completed("u1", {}, to="42", event_id="e1")
        await uploads.completed("u2", {}, to="42", event_id="e2")
        await broker.until(lambda its: bool(uploads_in(its)))
        await own.close(drain=0)

    def answer(subject: str) -> bytes | None:
        if not subject.startswith(DIRECT_GET):
            return acknowledgement(8)
        if subject.endswith("u1"):
            return headers("Nats-Msg-Id: e1", "Nats-Sequence: 7")
        return NOT_FOUND

    async with FakeBroker(answer) as broker, publisher(broker, path) as own:
        await emptied(own)
        await UploadEvents(own).completed("u3", {}, to="42", event_id="e3")
        await emptied(own)
    assert [subject.split(".")[-1] for subject, _ in broker.published] == ["u1", "u2", "u2", "u3"]
    assert uploads_in(broker) == ["u2", "u3"]


async def test_the_event_is_found_behind_a_later_one_on_its_subject(path: Path) -> None:
    """Somebody else may have published there since: the subject is read from the last position
    that is known to be older."""
    found = iter(
        [
            headers("Nats-Msg-Id: other", "Nats-Sequence: 9"),
            headers("Nats-Msg-Id: foreign", "Nats-Sequence: 6"),
            headers("Nats-Msg-Id: e1", "Nats-Sequence: 8"),
        ]
    )

    def answer(subject: str) -> bytes | None:
        return next(found) if subject.startswith(DIRECT_GET) else None

    async with FakeBroker(answer) as broker, publisher(broker, path, timeout=0.2) as own:
        await UploadEvents(own).completed("u1", {}, to="42", event_id="e1")
        await emptied(own)
        assert spool(own).last_stored.sequence == 8
    assert uploads_in(broker) == ["u1"]
    assert next(found, None) is None


@pytest.mark.parametrize(
    "unable",
    [
        NO_RESPONDERS,
        headers("Nats-Sequence: many"),
        b"NATS/1.0 408 Bad Request\r\n\r\n",
        b"{}",
        f"-ERR 'Permissions Violation for Publish to \"{DIRECT_GET}.EVENTS.USER.42.UPLOAD."
        "COMPLETED.U1\"'".encode(),
        None,
    ],
)
async def test_a_stream_that_can_not_be_asked_does_not_hold_up_the_spool(
    path: Path, unable: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The event is sent again under its id, and the log says once that it may be stored twice."""
    answers = iter([None, acknowledgement(1), None, acknowledgement(2)])

    def answer(subject: str) -> bytes | None:
        return unable if subject.startswith(DIRECT_GET) else next(answers)

    async with FakeBroker(answer) as broker, publisher(broker, path, timeout=0.2) as own:
        uploads = UploadEvents(own)
        await uploads.completed("u1", {}, to="42")
        await uploads.completed("u2", {}, to="42")
        await emptied(own)
    assert uploads_in(broker) == ["u1", "u1", "u2", "u2"]
    assert caplog.text.count("may be stored twice") == 1
