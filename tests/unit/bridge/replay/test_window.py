"""A stretch of the stream in memory: whatever happens to it, it gives what the stream has there."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import MAX_BATCH_BYTES, Batch, Stored
from natsbridge.bridge.replay import window
from natsbridge.bridge.replay.window import NOWHERE, SMALL, Stretch

NAMES = (
    "events.user.1.upload.completed.7",
    "events.user.2.upload.completed.7",
    "events.all.system.notification.-",
    "events.topic.review.updated.77",
    "events.topic.review.updated.78",
    "events.topic.review.created.77",
)
READ_BY = {
    "events.user.1.>": (0,),
    "events.user.3.>": (),
    "events.all.>": (2,),
    "events.topic.>": (3, 4, 5),
    "events.topic.review.updated.*": (3, 4),
    "events.topic.review.updated.78": (4,),
    "events.topic.review.deleted.*": (),
}
"""Which of the names each subject stands for."""

Message = tuple[int, bytes]
"""Which of the names, and the payload."""

messages = st.lists(
    st.none() | st.tuples(st.integers(0, len(NAMES) - 1), st.binary(max_size=60)), max_size=40
)
"""What has each sequence from 1 on; None is gone from the stream."""

steps = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=4)
"""From where on it is read backwards, and up to where it is let go of before that."""


def stored(sequence: int, message: Message) -> Stored:
    """As it is read from the stream."""
    return Stored(sequence, NAMES[message[0]].encode(), message[1])


def cover(kept: Stretch, stream: list[Message | None], upto: int, step: int) -> None:
    """Read on, so many messages at a time."""
    while kept.high < upto:
        rest = [
            stored(sequence, message)
            for sequence, message in enumerate(stream, 1)
            if message is not None and sequence > kept.high
        ]
        kept.add(Batch(rest[:step], max(0, len(rest) - step)), upto)


@given(
    data=st.data(),
    stream=messages,
    step=st.integers(1, 7),
    page=st.integers(1, 400),
    small=st.integers(0, 400),
)
def test_it_gives_what_the_stream_has(
    data: st.DataObject, stream: list[Message | None], step: int, page: int, small: int
) -> None:
    """However it was read, forwards and backwards, in steps and pages of any size, and whatever
    was let go of: every message of a subject behind a sequence, in order, and whether there are
    more.
    """
    begin, high = sorted(data.draw(st.integers(0, len(stream))) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "PAGE", page)
        patch.setattr(window, "SMALL", small)
        kept = Stretch("events.", NOWHERE, begin)
        cover(kept, stream, high, step)
        for begin, gone in data.draw(steps):
            asyncio.run(kept.let_go(min(gone, high)))
            earlier = Stretch("events.", NOWHERE, min(begin, kept.low))
            cover(earlier, stream, kept.low, step)
            kept.put_before(earlier)
    gone = data.draw(st.integers(0, high))
    after = data.draw(st.integers(max(kept.low, gone), high))
    most = data.draw(st.integers(1, 10))

    async def read() -> dict[str, Batch]:
        await kept.let_go(gone)
        return {subject: await kept.read(subject, after, most) for subject in READ_BY}

    found = asyncio.run(read())
    assert [page for page in kept._pages if page._open is not None] == kept._pages[-1:]
    assert kept.bytes == sum(page.bytes for page in kept._pages)
    assert kept.has(NOWHERE, after, high)
    for subject, names in READ_BY.items():
        there = [
            stored(sequence, message)
            for sequence, message in enumerate(stream, 1)
            if message is not None and after < sequence <= high and message[0] in names
        ]
        assert found[subject] == Batch(there[:most], len(there) > most)


async def test_what_was_let_go_of_is_not_taken_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads behind what is left is told, instead of passing over what was there."""
    monkeypatch.setattr(window, "PAGE", 1)
    kept = Stretch("events.", NOWHERE, 0)
    cover(kept, [(0, b"{}")] * 5, 5, 5)
    await kept.let_go(3)
    assert not kept.has(NOWHERE, 2, 5)
    assert kept.has(NOWHERE, 3, 5)
    with pytest.raises(BrokerUnavailable, match="let go of"):
        await kept.read("events.user.1.>", 2, 10)


async def test_who_reads_second_finds_what_the_first_has_left() -> None:
    """What many read is framed once for all of them; what one user reads is not kept twice."""
    kept = Stretch("events.", NOWHERE, 0)
    cover(kept, [(0, b"{}"), (2, b"{}")], 2, 5)
    for subject, same in (("events.all.>", True), ("events.user.1.>", False)):
        first, second = [(await kept.read(subject, 0, 1)).messages[0] for _ in range(2)]
        assert (first is second) is same


async def test_reading_much_is_done_in_parts() -> None:
    """Until it is more than a megabyte, or one message that is; the rest is pending."""
    kept = Stretch("events.", NOWHERE, 0)
    large = bytes(MAX_BATCH_BYTES + 1)
    cover(kept, [(2, large), (2, large[: MAX_BATCH_BYTES // 2])] * 2, 4, 5)
    sizes, after = [], 0
    while (found := await kept.read("events.all.>", after, 100)).messages:
        sizes.append([len(each.payload) for each in found.messages])
        after = found.messages[-1].sequence
        assert found.pending == (after < 4)
    half = MAX_BATCH_BYTES // 2
    assert sizes == [[len(large)], [half, len(large)], [half]]


def test_small_steps_backwards_share_their_pages() -> None:
    """Each page is a mapping of the process, of which the system allows some ten thousands."""
    kept = Stretch("events.", NOWHERE, 3000)
    for begin in range(2999, -1, -1):
        earlier = Stretch("events.", NOWHERE, begin)
        earlier.add(Batch([stored(begin + 1, (2, b"x" * 1000))]), begin + 1)
        kept.put_before(earlier)
    assert len(kept._pages) < 2 * 3_000_000 // SMALL + 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
async def test_the_system_gets_the_memory_back() -> None:
    """Forty megabytes of messages, each for another user, leave next to nothing in the process."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    before = resident()
    kept = Stretch("events.", NOWHERE, 0)
    for sequence in range(1, 40_001):
        subject = b"events.user.%d.upload.completed.7" % sequence
        kept.add(Batch([Stored(sequence, subject, b"x" * 1000)]), sequence)
    assert resident() - before > 35_000_000
    await kept.let_go(40_000)
    assert resident() - before < 2_000_000


async def test_names_with_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is given what is for somebody else, in a page that is being filled and in others."""
    monkeypatch.setattr(window, "hash", lambda name: len(name), raising=False)
    monkeypatch.setattr(window, "PAGE", 100)
    kept = Stretch("events.", NOWHERE, 0)
    cover(kept, [(0, b"{}"), (1, b"{}")] * 4, 8, 3)
    assert len(kept._pages) > 1
    for number, subject in enumerate(("events.user.1.>", "events.user.2.>"), 1):
        found = await kept.read(subject, 0, 100)
        assert [each.sequence for each in found.messages] == list(range(number, 9, 2))
