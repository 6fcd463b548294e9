"""How the publisher meets a broker that answers late, wrongly, or throws it out."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from natsbridge.publishers import (
    Commands,
    EventPublisher,
    InvalidEvent,
    NotAcknowledged,
    NotPermitted,
    PublisherClosed,
    PublisherSettings,
    Receipt,
    SomeNotPublished,
    StreamRefused,
    UploadEvents,
)
from natsbridge.schemas.events import UploadCompleted
from tests.unit.publishers.fake_broker import NO_RESPONDERS, FakeBroker, acknowledgement


def publisher(broker: FakeBroker, timeout: float = 5.0) -> EventPublisher:
    settings = PublisherSettings(url=(broker.url,), timeout=timeout, publish_deadline=timeout)
    return EventPublisher(settings, source="svc")


def refusal(code: int, err_code: int) -> bytes:
    error = {"code": code, "err_code": err_code, "description": "no"}
    return json.dumps({"error": error}).encode()


async def test_a_lost_acknowledgement_is_asked_for_again_with_the_same_id() -> None:
    """The SDK retries on its own; the stream can tell by the id that it is the same event."""
    answers = itertools.chain([None, None], itertools.repeat(acknowledgement(7)))
    async with (
        FakeBroker(lambda subject: next(answers)) as broker,
        publisher(broker, timeout=1.0) as own,
    ):
        [receipt] = await UploadEvents(own).completed("u1", {}, to="42")
    assert (receipt.stored, receipt.sequence, receipt.attempts) == (True, 7, 3)
    assert len(broker.published) == 3
    assert len(set(broker.published)) == 1
    assert f"Nats-Msg-Id: {receipt.id}".encode() in broker.published[0][1]


async def test_no_acknowledgement_at_all_is_told_in_time_with_the_event() -> None:
    """The wait is bounded by the timeout, and the error carries what to send again."""
    async with FakeBroker() as broker, publisher(broker, timeout=0.4) as own:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(NotAcknowledged) as caught:
            await UploadEvents(own).completed("u1", {}, to="42")
        assert loop.time() - began < 0.8
        broker.answer = lambda subject: acknowledgement(1)
        event = caught.value.event
        assert event is not None
        assert (await own.send(event)).id == event.id


async def test_a_stream_that_refuses_is_told_at_once_with_its_code() -> None:
    """What a retry can't change is not retried."""
    async with FakeBroker(lambda subject: refusal(400, 10054)) as broker, publisher(broker) as own:
        with pytest.raises(StreamRefused) as caught:
            await UploadEvents(own).completed("u1", {}, to="42")
    assert caught.value.code == 10054
    assert len(broker.published) == 1


@pytest.mark.parametrize(
    "first",
    [
        refusal(503, 10008),  # no leader
        refusal(503, 10077),  # no room
        refusal(500, 10047),  # no room on the disk
        refusal(400, 10002),  # no room in the account
        refusal(409, 10158),  # the same id is being stored
        refusal(429, 10167),  # too much to do
        NO_RESPONDERS,  # no stream, or nobody who knows of one yet
    ],
)
async def test_a_stream_that_is_busy_is_tried_again(first: bytes) -> None:
    """A stream without a leader for a moment, or its like, costs a pause, not the event."""
    answers = iter([first, acknowledgement(3)])
    async with FakeBroker(lambda subject: next(answers)) as broker, publisher(broker) as own:
        [receipt] = await UploadEvents(own).completed("u1", {}, to="42")
    assert (receipt.sequence, receipt.attempts) == (3, 2)


@pytest.mark.parametrize("answer", [b"OK", b"[]", b"{}", b"7", b'{"error":{}}', b'{"stream":"S"}'])
async def test_an_answer_that_is_no_acknowledgement_is_an_error(answer: bytes) -> None:
    """Some other responder on the subject must not pass for a stream."""
    async with FakeBroker(lambda subject: answer) as broker, publisher(broker) as own:
        with pytest.raises(NotAcknowledged, match="not a stream"):
            await UploadEvents(own).completed("u1", {}, to="42")


async def test_missing_permission_is_told_as_such() -> None:
    """The broker says so aside, without answering the publish."""

    def deny(subject: str) -> bytes:
        return f"-ERR 'Permissions Violation for Publish to \"{subject}\"'".encode()

    async with FakeBroker(deny) as broker, publisher(broker, timeout=60) as own:
        with pytest.raises(
            NotPermitted, match=r"events\.user\.Ab\.upload\.completed\.u1"
        ) as caught:
            async with asyncio.timeout(2):
                await UploadEvents(own).completed("u1", {}, to="Ab")
    assert caught.value.event is not None
    assert len(broker.published) == 1


async def test_a_refusal_of_one_of_two_subjects_that_differ_in_case_is_not_guessed() -> None:
    """nats-py lowers the broker's words; nobody is told that an event was refused which was not."""
    denied: list[str] = []

    def answer(subject: str) -> bytes | None:
        if ".Ab." in subject:
            denied.append(subject)
            return f"-ERR 'Permissions Violation for Publish to \"{subject}\"'".encode()
        return acknowledgement(1) if denied else None

    async with FakeBroker(answer) as broker, publisher(broker, timeout=1) as own:
        uploads = UploadEvents(own)
        other, one = await asyncio.gather(
            uploads.completed("u1", {}, to="aB"),
            uploads.completed("u1", {}, to="Ab"),
            return_exceptions=True,
        )
    assert isinstance(other, list)
    assert isinstance(one, NotPermitted | NotAcknowledged)


async def test_an_event_that_the_broker_would_hang_up_for_is_not_sent() -> None:
    """The broker counts headers too: an event between both counts is refused here, at once."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker:
        settings = PublisherSettings(url=(broker.url,), max_message_size=2 * 1024 * 1024)
        async with EventPublisher(settings) as own:
            [event] = own.prepare(UploadCompleted(upload_id="u1", result={"x": ""}), to="42")
            room = 1024 * 1024 - len(event.payload)
            with pytest.raises(InvalidEvent, match="with headers") as caught:
                await UploadEvents(own).completed("u1", {"x": "x" * room}, to="42")
    assert caught.value.reason == "TOO_LARGE"
    assert not broker.published
    assert broker.connections == 1


async def test_the_error_holds_all_that_a_caller_needs_to_keep_the_event() -> None:
    """Type, id, subject and data are there, and bytes and headers to send it by other means."""
    async with FakeBroker() as broker, publisher(broker, timeout=0.2) as own:
        with pytest.raises(NotAcknowledged) as caught:
            await UploadEvents(own).completed("u1", {"size": 3}, to="42", event_id="e1")
    event = caught.value.event
    assert event is not None
    assert (event.type, event.id, event.user) == ("upload.completed", "e1", "42")
    assert event.subject == "events.user.42.upload.completed.u1"
    assert event.data["result"] == {"size": 3}
    assert json.loads(event.payload)["data"] == event.data
    assert event.headers["Nats-Msg-Id"] == "e1"


async def test_a_cancelled_publish_stops_between_two_attempts() -> None:
    """A task that waits out a pause ends when it is told to."""
    async with FakeBroker(lambda subject: NO_RESPONDERS) as broker, publisher(broker, 60) as own:
        publishing = asyncio.create_task(UploadEvents(own).completed("u1", {}, to="42"))
        await broker.until(lambda its: len(its.published) >= 2)
        publishing.cancel()
        done, _ = await asyncio.wait([publishing], timeout=2)
        assert done
        assert publishing.cancelled()


async def test_a_pong_that_comes_too_late_does_no_harm() -> None:
    """nats-py's read loop would end with it: nothing would be acknowledged any more."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker, publisher(broker) as own:
        broker.pongs.clear()
        now = asyncio.get_running_loop().time()
        assert not await own.connection.answers(now + 0.05)
        broker.pongs.set()
        broker.say(b"PONG")
        await UploadEvents(own).completed("u1", {}, to="42")
    assert broker.connections == 1


async def test_the_broker_has_subscribed_and_unsubscribed_when_that_is_said() -> None:
    """A PONG says so only where the PING was behind it; else a command meets a service that left,
    and whoever asks waits for the time-out.
    """
    async with FakeBroker() as broker, publisher(broker) as own:
        commands = Commands(own)
        commands.on("upload.cancel")(_accept)
        for operation in ("SUB", "UNSUB"):
            broker.operations.clear()
            await (commands.start() if operation == "SUB" else commands.stop())
            assert "PING" in broker.operations[broker.operations.index(operation) :]


async def test_of_several_users_the_failures_are_told_apart() -> None:
    """One user's failure neither hides the receipts of the others nor keeps them back."""

    def answer(subject: str) -> bytes:
        return refusal(400, 10054) if ".2." in subject else acknowledgement()

    async with FakeBroker(answer) as broker, publisher(broker) as own:
        with pytest.raises(SomeNotPublished) as caught:
            await UploadEvents(own).error("u1", "no", to=["1", "2", "3"])
    assert [receipt.user for receipt in caught.value.receipts] == ["1", "3"]
    [failure] = caught.value.failures
    assert failure.event is not None
    assert failure.event.user == "2"


async def test_a_publisher_outside_its_block_says_so() -> None:
    """Nothing is queued for a connection that was not asked for."""
    async with FakeBroker() as broker:
        own = publisher(broker)
        with pytest.raises(PublisherClosed):
            await UploadEvents(own).progress("u1", 1, to="42")
        async with own:
            await UploadEvents(own).progress("u1", 1, to="42")
        with pytest.raises(PublisherClosed):
            await UploadEvents(own).progress("u1", 1, to="42")
        await own.close()
    assert broker.connections == 1


async def test_closing_ends_a_publish_that_waits_for_its_acknowledgement() -> None:
    """Shutting a service down does not wait for the timeout of a publish."""
    async with FakeBroker() as broker, publisher(broker, timeout=60) as own:
        waiting = asyncio.create_task(UploadEvents(own).completed("u1", {}, to="42"))
        await broker.until(lambda its: bool(its.published))
        await own.close()
        with pytest.raises(NotAcknowledged):
            await asyncio.wait_for(waiting, 2)


async def test_closing_ends_a_publish_that_waits_for_the_broker() -> None:
    """The same while the broker is away; a lost connection ends the wait for an answer itself."""
    async with FakeBroker() as broker:
        own = publisher(broker, timeout=60)
        await own.open()
        waiting = asyncio.create_task(UploadEvents(own).completed("u1", {}, to="42"))
        await broker.until(lambda its: bool(its.published))
    await own.close()
    with pytest.raises(NotAcknowledged):
        await asyncio.wait_for(waiting, 2)


async def test_a_lost_connection_ends_the_wait_and_the_event_goes_out_on_the_next() -> None:
    """A publish under way when the connection breaks is tried again as soon as it is back."""
    answers = itertools.chain([None], itertools.repeat(acknowledgement(7)))
    async with (
        FakeBroker(lambda subject: next(answers)) as broker,
        publisher(broker, timeout=60) as own,
    ):
        publishing = asyncio.create_task(UploadEvents(own).completed("u1", {}, to="42"))
        await broker.until(lambda its: bool(its.published))
        broker.hang_up()
        [receipt] = await asyncio.wait_for(publishing, 5)
    assert (receipt.sequence, receipt.attempts) == (7, 2)
    assert broker.connections == 2


async def test_a_connection_that_nats_py_gives_up_is_made_anew_with_its_subscriptions() -> None:
    """An error from the broker, such as expired credentials, does not end a service for good."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker, publisher(broker) as own:
        commands = Commands(own)
        commands.on("upload.cancel")(_accept)
        async with commands:
            broker.say(b"-ERR 'User Authentication Expired'")
            await broker.until(lambda its: its.subscribed.count("commands.upload.cancel.>") == 2)
            [receipt] = await UploadEvents(own).completed("u1", {}, to="42")
    assert isinstance(receipt, Receipt)
    assert broker.connections == 2


async def test_a_cancellation_that_meets_the_acknowledgement_is_not_lost() -> None:
    """A task that is told to stop stops, whatever comes in at the same moment."""
    async with FakeBroker() as broker, publisher(broker) as own:
        for turns in range(8):
            publishing: asyncio.Task[object] = asyncio.create_task(_publish_for_ever(own))
            broker.published.clear()
            broker.answer = lambda subject: acknowledgement()
            await broker.until(lambda its: bool(its.published))
            for _ in range(turns):
                await asyncio.sleep(0)
            broker.answer = lambda subject: None
            publishing.cancel()
            done, _ = await asyncio.wait([publishing], timeout=2)
            assert done
            assert publishing.cancelled()


async def _publish_for_ever(own: EventPublisher) -> None:
    while True:
        await UploadEvents(own).completed("u1", {}, to="42")


async def _accept(command: object) -> None:
    return None
