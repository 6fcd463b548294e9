"""One reading of the stream for a crowd: the same events as from the stream itself, read once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import EVERYTHING, Batch
from natsbridge.bridge.replay import shared_reader, window
from natsbridge.bridge.replay.shared_reader import CROWD, Recent
from tests.support.scripted_stream import ScriptedStream

SUBJECTS = (
    "events.user.1.upload.completed.7",
    "events.user.2.upload.completed.7",
    "events.all.system.notification.-",
    "events.topic.review.updated.77",
    "events.topic.review.updated.78",
    "events.topic.review.created.77",
)


class Scene:
    """A stream with three events of each subject, and a crowd whose size a test chooses."""

    def __init__(self) -> None:
        self.stream = ScriptedStream()
        self.crowd = CROWD
        self.needed = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.recent = Recent(
            self.stream,  # type: ignore[arg-type]  # a stand-in
            "events",
            lambda: self.crowd,
            lambda low: self.needed,
            self._spawn,
        )
        for _ in range(3):
            for subject in SUBJECTS:
                self.stream.store(subject, b"{}")

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


async def test_a_few_read_for_themselves(scene: Scene) -> None:
    """Reading all of the stream would cost more than it saves."""
    scene.crowd = CROWD - 1
    assert await scene.recent.reader("5f", 0, 18) is None
    assert scene.stream.reads == []


async def test_a_crowd_reads_once(scene: Scene) -> None:
    """However many ask for the same stretch, or for a part of it."""
    readers = await asyncio.gather(
        *(scene.recent.reader("5f", after, 18) for after in (0, 3, 7, 0, 17))
    )
    assert None not in readers
    assert len(scene.stream.reads) == 1


@pytest.mark.parametrize(
    "subject",
    [
        *SUBJECTS[3:],
        "events.user.1.>",
        "events.user.3.>",
        "events.all.>",
        "events.topic.>",
        "events.topic.review.updated.*",
        "events.topic.review.deleted.*",
    ],
)
@pytest.mark.parametrize("after", [0, 4, 12, 18])
async def test_it_gives_what_the_stream_gives(scene: Scene, subject: str, after: int) -> None:
    """The same messages in the same order, and whether there are more."""
    reader = await scene.recent.reader("5f", 0, 18)
    assert reader is not None
    for most in (1, 2, 100):
        found = await reader.read(subject, after, most)
        wanted = await scene.stream.read(subject, after, most)
        assert found == Batch(wanted.messages, wanted.pending > 0)


async def test_a_longer_stretch_is_read_on(scene: Scene) -> None:
    """Both ways: what is kept already is not read again."""
    await scene.recent.reader("5f", 6, 12)
    scene.stream.reads.clear()
    reader = await scene.recent.reader("5f", 2, 18)
    assert reader is not None
    found = await reader.read("events.topic.>", 2, 100)
    assert [each.sequence for each in found.messages] == [4, 5, 6, 10, 11, 12, 16, 17, 18]
    assert [after for _, after in scene.stream.reads] == [2, 12]


@pytest.mark.parametrize("ends", ["break", "cancel"])
async def test_whoever_reads_may_be_stopped_in_the_middle(scene: Scene, ends: str) -> None:
    """NATS is gone, or the first of the crowd is: the next one gets each message once."""
    for _ in range(100):
        for subject in SUBJECTS:
            scene.stream.store(subject, b"{}")
    upto = scene.stream.last
    task = asyncio.create_task(scene.recent.reader("5f", 0, upto))

    def stop() -> None:
        if len(scene.stream.reads) == 3:
            scene.stream.on_read = lambda: None
            if ends == "cancel":
                task.cancel()
            else:
                scene.stream.failures = 1

    scene.stream.on_read = stop
    await asyncio.wait({task})
    assert task.cancelled() or isinstance(task.exception(), BrokerUnavailable)
    reader = await scene.recent.reader("5f", 0, upto)
    assert reader is not None
    for subject in ("events.all.>", "events.topic.review.updated.*", SUBJECTS[3]):
        found = await reader.read(subject, 0, upto)
        assert found == await scene.stream.read(subject, 0, upto)


async def test_another_stream_is_read_anew(scene: Scene) -> None:
    """Nothing of the old one is given for the new one."""
    await scene.recent.reader("5f", 0, 18)
    scene.stream.replace("60")
    scene.stream.store(SUBJECTS[0], b"{}")
    reader = await scene.recent.reader("60", 0, 1)
    found = await reader.read("events.user.1.>", 0, 100)
    assert [each.sequence for each in found.messages] == [1]


async def test_whoever_reads_a_stretch_gets_all_of_it(scene: Scene) -> None:
    """Also when another replay needs a stretch far from it meanwhile."""
    reader = await scene.recent.reader("5f", 0, 6)
    first = await reader.read("events.topic.>", 0, 1)
    await scene.recent.reader("5f", 12, 18)
    rest = await reader.read("events.topic.>", first.messages[-1].sequence, 100)
    came = [each.sequence for each in first.messages + rest.messages]
    assert [sequence for sequence in came if sequence <= 6] == [4, 5, 6]


async def test_what_is_kept_is_let_go_of_when_the_crowd_is_gone(scene: Scene) -> None:
    """Not before; then the next crowd reads anew."""
    await scene.recent.reader("5f", 0, 18)
    scene.recent.tick()
    await scene.recent.reader("5f", 0, 18)
    assert len(scene.stream.reads) == 1
    scene.crowd = 0
    scene.recent.tick()
    await asyncio.gather(*scene.tasks)
    scene.crowd = CROWD
    assert await scene.recent.reader("5f", 0, 18) is not None
    assert len(scene.stream.reads) == 2


async def test_what_nobody_needs_any_more_is_let_go_of(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While clients come and go without an end, what is kept does not grow without one; whoever
    reads has all that it is to have.
    """
    monkeypatch.setattr(shared_reader, "MUCH", 18 * window.OVERHEAD)
    monkeypatch.setattr(window, "PAGE", 100)
    for last in range(19, 200):
        scene.stream.store(SUBJECTS[last % len(SUBJECTS)], b"{}")
        scene.needed = last - 6
        reader = await scene.recent.reader("5f", last - 6, last)
        scene.recent.tick()
        await asyncio.gather(*scene.tasks)
        assert scene.recent._stretch.bytes < 2 * shared_reader.MUCH
        found = [
            stored.sequence
            for subject in ("events.user.1.>", "events.user.2.>", "events.all.>", "events.topic.>")
            for stored in (await reader.read(subject, last - 6, 100)).messages
        ]
        assert sorted(found) == list(range(last - 5, last + 1))


async def test_what_was_let_go_of_is_read_from_the_stream(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who needs it all the same: it does not get less than there is, nor anything twice."""
    monkeypatch.setattr(shared_reader, "MUCH", 1)
    monkeypatch.setattr(window, "PAGE", 1)
    await scene.recent.reader("5f", 0, 18)
    scene.needed = 12
    scene.recent.tick()
    await asyncio.gather(*scene.tasks)
    scene.stream.reads.clear()
    reader = await scene.recent.reader("5f", 3, 18)
    assert scene.stream.reads == [(EVERYTHING, 3)]
    found = [
        stored.sequence
        for subject in ("events.user.1.>", "events.user.2.>", "events.all.>", "events.topic.>")
        for stored in (await reader.read(subject, 3, 100)).messages
    ]
    assert sorted(found) == list(range(4, 19))


async def test_what_is_needed_is_asked_for_when_it_counts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that begins between the look and the letting go keeps what it needs."""
    monkeypatch.setattr(shared_reader, "MUCH", 1)
    monkeypatch.setattr(window, "PAGE", 1)
    reader = await scene.recent.reader("5f", 0, 18)
    scene.needed = 12
    scene.recent.tick()
    scene.needed = 5
    await asyncio.gather(*scene.tasks)
    assert [each.sequence for each in (await reader.read("events.topic.>", 5, 100)).messages] == [
        sequence for sequence in range(6, 19) if sequence % 6 in (0, 4, 5)
    ]


async def test_a_crowd_that_needs_all_keeps_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much that is: it is read once."""
    monkeypatch.setattr(shared_reader, "MUCH", 1)
    monkeypatch.setattr(window, "PAGE", 1)
    first = await scene.recent.reader("5f", 0, 18)
    scene.recent.tick()
    scene.stream.store(SUBJECTS[0], b"{}")
    assert await scene.recent.reader("5f", 0, 19) is first
    assert len(scene.stream.reads) == 2


async def test_what_does_not_fit_is_not_read_again_and_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what comes before is too much to be kept, one of the crowd finds that out for all that
    begin there or before; who begins later may fit in.
    """
    await scene.recent.reader("5f", 12, 18)
    monkeypatch.setattr(shared_reader, "BATCH", 1)
    monkeypatch.setattr(shared_reader, "MAX_BYTES", scene.recent._stretch.bytes + 1)
    scene.stream.reads.clear()
    for after in (6, 6, 5):
        assert await scene.recent.reader("5f", after, 18) is None
    assert scene.stream.reads == [(EVERYTHING, 6)]
    assert await scene.recent.reader("5f", 11, 18) is not None


async def test_without_memory_each_reads_for_itself(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a while later, and nothing of what was half taken in is read by anybody."""
    monkeypatch.setattr(window, "PAGE", 1)
    room = 5

    class Page(window._Page):
        def __init__(self, size: int) -> None:
            nonlocal room
            room -= 1
            if room < 0:
                raise OSError(errno.ENOMEM, "no memory")
            super().__init__(size)

    monkeypatch.setattr(window, "_Page", Page)
    assert await scene.recent.reader("5f", 0, 18) is None
    room = 18
    scene.stream.reads.clear()
    assert await scene.recent.reader("5f", 0, 18) is None
    assert scene.stream.reads == []
    scene.recent.tick()
    reader = await scene.recent.reader("5f", 0, 18)
    assert reader is not None
    assert await reader.read("events.topic.>", 0, 100) == await scene.stream.read(
        "events.topic.>", 0, 100
    )
