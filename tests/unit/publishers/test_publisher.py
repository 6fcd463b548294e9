"""How the publisher meets a broker that answers late, wrongly, or throws it out."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from publishers import (
    Commands,
    EventPublisher,
    NotAcknowledged,
    NotPermitted,
    PublisherClosed,
    PublisherSettings,
    Receipt,
    SomeNotPublished,
    StreamRefused,
    UploadEvents,
)
from tests.unit.publishers.fake_broker import FakeBroker, acknowledgement


def publisher(broker: FakeBroker, timeout: float = 5.0) -> EventPublisher:
    return EventPublisher(PublisherSettings(url=(broker.url,), timeout=timeout), source="svc")


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
        [receipt] = await UploadEvents(own).completed("42", "u1", {})
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
            await UploadEvents(own).completed("42", "u1", {})
        assert loop.time() - began < 0.8
        broker.answer = lambda subject: acknowledgement(1)
        event = caught.value.event
        assert event is not None
        assert (await own.send(event)).id == event.id


async def test_a_stream_that_refuses_is_told_at_once_with_its_code() -> None:
    """What a retry can't change is not retried."""
    async with FakeBroker(lambda subject: refusal(400, 10054)) as broker, publisher(broker) as own:
        with pytest.raises(StreamRefused) as caught:
            await UploadEvents(own).completed("42", "u1", {})
    assert caught.value.code == 10054
    assert len(broker.published) == 1


async def test_a_stream_that_is_busy_is_tried_again() -> None:
    """A stream without a leader for a moment costs a pause, not the event."""
    answers = iter([refusal(503, 10008), acknowledgement(3)])
    async with FakeBroker(lambda subject: next(answers)) as broker, publisher(broker) as own:
        [receipt] = await UploadEvents(own).completed("42", "u1", {})
    assert (receipt.sequence, receipt.attempts) == (3, 2)


@pytest.mark.parametrize("answer", [b"OK", b"[]", b"{}", b"7", b'{"error":{}}', b'{"stream":"S"}'])
async def test_an_answer_that_is_no_acknowledgement_is_an_error(answer: bytes) -> None:
    """Some other responder on the subject must not pass for a stream."""
    async with FakeBroker(lambda subject: answer) as broker, publisher(broker) as own:
        with pytest.raises(NotAcknowledged, match="not a stream"):
            await UploadEvents(own).completed("42", "u1", {})


async def test_missing_permission_is_told_as_such() -> None:
    """The broker says so aside, without answering the publish."""

    def deny(subject: str) -> bytes:
        return f"-ERR 'Permissions Violation for Publish to \"{subject}\"'".encode()

    async with FakeBroker(deny) as broker, publisher(broker, timeout=0.4) as own:
        with pytest.raises(NotPermitted, match=r"events\.user\.Ab\.upload\.completed\.u1"):
            await UploadEvents(own).completed("Ab", "u1", {})


async def test_of_several_users_the_failures_are_told_apart() -> None:
    """One user's failure neither hides the receipts of the others nor keeps them back."""

    def answer(subject: str) -> bytes:
        return refusal(400, 10054) if ".2." in subject else acknowledgement()

    async with FakeBroker(answer) as broker, publisher(broker) as own:
        with pytest.raises(SomeNotPublished) as caught:
            await UploadEvents(own).error(["1", "2", "3"], "u1", "no")
    assert [receipt.user for receipt in caught.value.receipts] == ["1", "3"]
    [failure] = caught.value.failures
    assert failure.event is not None
    assert failure.event.user == "2"


async def test_a_publisher_outside_its_block_says_so() -> None:
    """Nothing is queued for a connection that was not asked for."""
    async with FakeBroker() as broker:
        own = publisher(broker)
        with pytest.raises(PublisherClosed):
            await UploadEvents(own).progress("42", "u1", 1)
        async with own:
            await UploadEvents(own).progress("42", "u1", 1)
        with pytest.raises(PublisherClosed):
            await UploadEvents(own).progress("42", "u1", 1)
        await own.close()
    assert broker.connections == 1


async def test_closing_ends_a_publish_that_waits_for_its_acknowledgement() -> None:
    """Shutting a service down does not wait for the timeout of a publish."""
    async with FakeBroker() as broker, publisher(broker, timeout=60) as own:
        waiting = asyncio.create_task(UploadEvents(own).completed("42", "u1", {}))
        await broker.until(lambda its: bool(its.published))
        await own.close()
        with pytest.raises(NotAcknowledged):
            await asyncio.wait_for(waiting, 2)


async def test_closing_ends_a_publish_that_waits_for_the_broker() -> None:
    """The same while the broker is away; a lost connection ends the wait for an answer itself."""
    async with FakeBroker() as broker:
        own = publisher(broker, timeout=60)
        await own.open()
        waiting = asyncio.create_task(UploadEvents(own).completed("42", "u1", {}))
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
        publishing = asyncio.create_task(UploadEvents(own).completed("42", "u1", {}))
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
            [receipt] = await UploadEvents(own).completed("42", "u1", {})
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
        await UploadEvents(own).completed("42", "u1", {})


async def _accept(command: object) -> None:
    return None
