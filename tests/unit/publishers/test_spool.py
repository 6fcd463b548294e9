"""The publisher with a spool, against a broker that answers as a test says."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from opentelemetry.trace import Span

from natsbridge.publishers import (
    PublisherClosed,
    Receipt,
    SpoolFailed,
    SpoolFull,
    SpoolLocked,
    UploadEvents,
)
from natsbridge.publishers.forwarder import Forwarder
from natsbridge.publishers.spool_file import Spooled, SpoolFile
from tests.unit.publishers.fake_broker import (
    NO_RESPONDERS,
    NOT_FOUND,
    FakeBroker,
    acknowledgement,
)
from tests.unit.publishers.spooling import emptied, publisher, spool, uploads_in

DIRECT_GET = "$JS.API.DIRECT.GET.EVENTS"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


async def test_publishing_returns_while_the_stream_is_silent(path: Path) -> None:
    """The event is on the disk then, the receipt says so, and the service can see what waits."""
    async with FakeBroker() as broker:
        own = publisher(broker, path)
        await own.open()
        [receipt] = await UploadEvents(own).completed("u1", {}, to="42", event_id="e1")
        assert receipt == Receipt("e1", stored=False, spooled=True, user="42")
        state = await spool(own).state()
        assert (state.waiting, state.refused, spool(own).waiting) == (1, 0, 1)
        assert state.oldest is not None
        assert 0 <= state.oldest < 5
        assert state.bytes > 100
        await own.close(drain=0)
    file = SpoolFile(path)
    assert [each.event.id for each in file.after(0, 9)] == ["e1"]
    file.close()


async def test_events_go_out_in_order_one_after_the_other_with_one_id_each(path: Path) -> None:
    """Each is tried until it is acknowledged, with the same bytes; none overtakes another."""
    answers = iter([NO_RESPONDERS, None, acknowledgement(1), acknowledgement(2)])

    def answer(subject: str) -> bytes | None:
        return NOT_FOUND if subject.startswith(DIRECT_GET) else next(answers)

    async with FakeBroker(answer) as broker, publisher(broker, path, timeout=0.2) as own:
        uploads = UploadEvents(own)
        await asyncio.gather(
            uploads.completed("u1", {}, to="42"), uploads.completed("u2", {}, to="42")
        )
        await emptied(own)
    assert uploads_in(broker) == ["u1", "u1", "u1", "u2"]
    sent = [each for each in broker.published if each[0].startswith("events.")]
    assert len(set(sent)) == 2


async def test_a_poison_event_is_put_aside_and_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the stream will never take lets the others pass; it is kept with its reason, is not
    in the log with its data, and can be sent again or deleted."""
    refused = {"code": 400, "err_code": 10054, "description": "message size exceeds maximum"}
    poison = json.dumps({"error": refused}).encode()

    def answer(subject: str) -> bytes | None:
        return poison if ".bad" in subject else acknowledgement()

    async with FakeBroker(answer) as broker, publisher(broker, path) as own:
        uploads = UploadEvents(own)
        for upload in ("bad1", "u2", "bad3", "bad4"):
            await uploads.completed(upload, {"secret": "swordfish"}, to="42")
        await emptied(own)
        state = await spool(own).state()
        assert (state.waiting, state.oldest, state.refused) == (0, None, 3)
        assert state.bytes > 0
        one, three, four = await spool(own).refused()
        assert "message size exceeds maximum" in one.reason
        assert one.event.data["result"] == {"secret": "swordfish"}
        assert [one.event.id in caplog.text, "swordfish" in caplog.text] == [True, False]
        broker.answer = lambda subject: acknowledgement()
        assert await spool(own).discard([one.position]) == 1
        assert await spool(own).retry([four.position, three.position, 999]) == 2
        await emptied(own)
        state = await spool(own).state()
        assert (state.waiting, state.refused, state.bytes) == (0, 0, 0)
    assert uploads_in(broker) == ["bad1", "u2", "bad3", "bad4", "bad3", "bad4"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-ERR 'Permissions Violation for Publish to \"%s\"'", "may not publish"),
        (b"not json", "not a stream"),
    ],
)
async def test_what_is_not_the_event_s_fault_but_lasts_is_put_aside_too(
    path: Path, answer: bytes, reason: str
) -> None:
    """What raises at once without a spool does not block the spool either."""

    def reply(subject: str) -> bytes:
        return answer.replace(b"%s", subject.encode()) if ".1." in subject else acknowledgement()

    async with FakeBroker(reply) as broker, publisher(broker, path) as own:
        await UploadEvents(own).completed("u1", {}, to="1")
        await UploadEvents(own).completed("u2", {}, to="2")
        await emptied(own)
        [refused] = await spool(own).refused()
    assert reason in refused.reason
    assert uploads_in(broker) == ["u1", "u2"]


async def test_over_its_cap_publishing_raises_and_what_was_kept_stays(path: Path) -> None:
    """Backpressure is an error with a name; there is room again once the stream takes events."""
    async with FakeBroker() as broker, publisher(broker, path, spool_max_events=3) as own:
        uploads = UploadEvents(own)
        await uploads.completed("u1", {}, to="42")
        with pytest.raises(SpoolFull, match="1 of 3 events") as caught:
            await uploads.completed("u2", {}, to=["1", "2", "3"])
        assert [event.user for event in caught.value.events] == ["1", "2", "3"]
        await uploads.completed("u3", {}, to=["1", "2"])
        with pytest.raises(SpoolFull):
            await uploads.completed("u4", {}, to="42")
        broker.answer = lambda subject: acknowledgement()
        await emptied(own)
        await uploads.completed("u5", {}, to="42")
        await emptied(own)
    assert list(dict.fromkeys(uploads_in(broker))) == ["u1", "u3", "u5"]


async def test_refused_events_count_for_the_cap(path: Path) -> None:
    """What nobody looks after does not fill the disk."""
    async with (
        FakeBroker(lambda subject: b"{}") as broker,
        publisher(broker, path, spool_max_events=1) as own,
    ):
        await UploadEvents(own).completed("u1", {}, to="42")
        await emptied(own)
        with pytest.raises(SpoolFull):
            await UploadEvents(own).completed("u2", {}, to="42")


async def test_an_ephemeral_event_is_never_kept(path: Path) -> None:
    """It goes out at once, past all that waits, or is an error as without a spool."""
    async with FakeBroker() as broker:
        own = publisher(broker, path)
        await own.open()
        await UploadEvents(own).completed("u1", {}, to="42")
        [receipt] = await UploadEvents(own).progress("u2", 40, to="42")
        assert (receipt.stored, receipt.spooled) == (False, False)
        assert spool(own).waiting == 1
        await own.close(drain=0)
    assert any(subject.startswith("live.") for subject, _ in broker.published)


async def test_closing_sends_what_it_can_and_says_what_is_left(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within the time given; the rest is there at the next start, before all that comes later."""
    async with FakeBroker() as broker:
        broker.answer = lambda subject: acknowledgement() if ".u1" in subject else None
        own = publisher(broker, path)
        await own.open()
        for upload in ("u1", "u2", "u3"):
            await UploadEvents(own).completed(upload, {}, to="42")
        began = asyncio.get_running_loop().time()
        await own.close(drain=0.3)
        assert asyncio.get_running_loop().time() - began < 2
        await own.close()
        with pytest.raises(PublisherClosed):
            await UploadEvents(own).completed("u4", {}, to="42")
    assert "2 events stay in the spool" in caplog.text
    caplog.set_level(logging.INFO, "publishers")
    answer = acknowledgement()
    async with (
        FakeBroker(lambda subject: NOT_FOUND if "$" in subject else answer) as broker,
        publisher(broker, path) as own,
    ):
        await UploadEvents(own).completed("u5", {}, to="42")
    assert uploads_in(broker) == ["u2", "u3", "u5"]
    assert "holds 2 events to send" in caplog.text


async def test_a_publisher_can_be_opened_again_with_its_spool(path: Path) -> None:
    """Closing gives the file back."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker:
        own = publisher(broker, path)
        for upload in ("u1", "u2"):
            async with own:
                await UploadEvents(own).completed(upload, {}, to="42")
    assert uploads_in(broker) == ["u1", "u2"]


async def test_a_second_publisher_with_the_file_is_refused(path: Path) -> None:
    """In the same process as in another; the first goes on."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker:
        async with publisher(broker, path) as own:
            second = publisher(broker, path)
            with pytest.raises(SpoolLocked, match="in use"):
                await second.open()
            with pytest.raises(PublisherClosed):
                await UploadEvents(second).completed("u1", {}, to="42")
            await UploadEvents(own).completed("u2", {}, to="42")
            await emptied(own)
        assert broker.connections == 1


async def test_a_service_starts_while_its_broker_is_away(path: Path) -> None:
    """Opening warns and goes on; what is published meanwhile goes out when the broker comes."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker:
        broker.close()
        own = publisher(broker, path, timeout=0.3)
        await own.open()
        await UploadEvents(own).completed("u1", {}, to="42")
        await broker.listen()
        await emptied(own)
        await own.close()
    assert uploads_in(broker) == ["u1"]


async def test_a_disk_that_fails_is_told_and_the_spool_goes_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk is an error that carries the events, and no end of the publisher."""
    async with (
        FakeBroker(lambda subject: acknowledgement()) as broker,
        publisher(broker, path, max_message_size=4 * 1024 * 1024) as own,
    ):
        await UploadEvents(own).completed("u1", {}, to="42")
        await emptied(own)
        file = spool(own)._file
        assert file is not None
        await spool(own)._run(lambda: file._database.execute("PRAGMA max_page_count = 20"))
        with pytest.raises(SpoolFailed, match="full") as caught:
            await UploadEvents(own).completed("u2", {"x": "x" * 200_000}, to="42")
        assert caught.value.events[0].data["upload_id"] == "u2"
        await UploadEvents(own).completed("u3", {}, to="42")
        await emptied(own)
        assert (await spool(own).state()).bytes == 0
    assert uploads_in(broker) == ["u1", "u3"]


async def test_a_cancelled_publish_does_not_disturb_the_spool(path: Path) -> None:
    """A task that is told to stop stops; its event may be kept, the others are."""
    async with (
        FakeBroker(lambda subject: acknowledgement()) as broker,
        publisher(broker, path) as own,
    ):
        for turns in range(6):
            publishing = asyncio.create_task(UploadEvents(own).completed("u1", {}, to="42"))
            other = asyncio.create_task(UploadEvents(own).completed(f"o{turns}", {}, to="42"))
            for _ in range(turns):
                await asyncio.sleep(0)
            publishing.cancel()
            await other
        await emptied(own)
        assert (await spool(own).state()).bytes == 0
    others = [upload for upload in uploads_in(broker) if upload != "u1"]
    assert others == [f"o{turns}" for turns in range(6)]


async def test_a_cancelled_retry_leaves_the_counts_right(path: Path) -> None:
    """The file is changed all the same, and what is told about it agrees."""
    async with FakeBroker(lambda subject: b"{}") as broker, publisher(broker, path) as own:
        await UploadEvents(own).completed("u1", {}, to="42")
        await emptied(own)
        [refused] = await spool(own).refused()
        broker.answer = lambda subject: acknowledgement()
        retrying = asyncio.create_task(spool(own).retry([refused.position]))
        await asyncio.sleep(0)
        retrying.cancel()
        await asyncio.wait([retrying])
        await broker.until(lambda its: len(uploads_in(its)) == 2)
        await emptied(own)
        state = await spool(own).state()
        assert (state.waiting, state.refused, state.bytes) == (0, 0, 0)


async def test_events_that_come_together_share_a_commit(path: Path) -> None:
    """A flush for each event would make a busy service wait for the disk."""
    async with FakeBroker() as broker:
        own = publisher(broker, path)
        await own.open()
        file = spool(own)._file
        assert file is not None
        commits = 0
        write = file.write

        def counted(*given: object) -> None:
            nonlocal commits
            commits += 1
            write(*given)  # type: ignore[arg-type]

        file.write = counted  # type: ignore[method-assign]
        uploads = UploadEvents(own)
        await asyncio.gather(*(uploads.completed(f"u{n}", {}, to="42") for n in range(300)))
        assert commits <= 10
        await own.close(drain=0)


async def test_a_fault_of_the_forwarder_is_not_silent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should it ever end by itself, publishing says so instead of filling the disk."""

    async def fail(self: Forwarder, spooled: Spooled, span: Span) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Forwarder, "_deliver", fail)
    async with FakeBroker() as broker, publisher(broker, path) as own:
        await UploadEvents(own).completed("u1", {}, to="42")
        assert own._forwarding is not None
        await asyncio.wait([own._forwarding], timeout=5)
        with pytest.raises(SpoolFailed, match="a bug"):
            await UploadEvents(own).completed("u2", {}, to="42")
