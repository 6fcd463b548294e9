"""Outbox and flush: one write an iteration, order, waiting, bounds, the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridge.delivery.outbox import Flush, Outbox
from tests.support.scripted_nats import Turns

MAX_FRAMES, MAX_BYTES = 3, 100


class Connection:
    """An outbox, what was written from it, and how often its owner was told of an overflow."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.overflows = 0
        self.outbox = Outbox(self.writes.append, self._overflowed)

    def _overflowed(self) -> None:
        self.overflows += 1


class Scene:
    """A flush whose iterations a test ends."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.calls = 0
        self.flush = Flush(self._call_soon, max_frames=MAX_FRAMES, max_bytes=MAX_BYTES)

    def _call_soon(self, call: Callable[[], None]) -> None:
        self.calls += 1
        self.turns.call_soon(call)

    def offer(self, connection: Connection, *frames: bytes) -> None:
        for frame in frames:
            self.flush.offer(connection.outbox, frame)


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


def test_one_write_an_iteration_in_order(scene: Scene) -> None:
    """However many frames are offered, each connection gets one write, in the order offered."""
    one, two = Connection(), Connection()
    for number in b"123":
        scene.offer(one, bytes((number,)))
        scene.offer(two, bytes((number,)) * 2)
    assert one.writes == []
    assert scene.calls == 1
    scene.turns.run()
    assert one.writes == [b"123"]
    assert two.writes == [b"112233"]


def test_a_lone_frame_is_written_as_it_is(scene: Scene) -> None:
    """A single frame is not copied: all receivers share its bytes."""
    frame = b"frame" * 3
    one, two = Connection(), Connection()
    scene.offer(one, frame)
    scene.offer(two, frame)
    scene.turns.run()
    assert one.writes[0] is frame
    assert two.writes[0] is frame


def test_the_next_iteration_writes_again(scene: Scene) -> None:
    """Each iteration has its own write, and one without offers has none."""
    one = Connection()
    for frame in (b"1", b"2"):
        scene.offer(one, frame)
        scene.turns.run()
    scene.flush.schedule()
    scene.turns.run()
    assert one.writes == [b"1", b"2"]


def test_a_paused_connection_waits_and_loses_nothing(scene: Scene) -> None:
    """What is offered meanwhile is written in one piece when it can be written to again."""
    one, other = Connection(), Connection()
    scene.flush.pause(one.outbox)
    scene.offer(one, b"1")
    scene.turns.run()
    scene.offer(one, b"2")
    scene.offer(other, b"x")
    scene.turns.run()
    assert one.writes == []
    assert other.writes == [b"x"]
    scene.flush.resume(one.outbox)
    assert one.writes == [b"12"]
    scene.offer(one, b"3")
    scene.turns.run()
    assert one.writes == [b"12", b"3"]


def test_a_pause_during_the_flush_holds_the_rest(scene: Scene) -> None:
    """A write may fill the transport: from then on what is offered waits."""
    writes: list[bytes] = []

    def write(data: bytes) -> None:
        writes.append(data)
        scene.flush.pause(outbox)

    outbox = Outbox(write, lambda: None)
    scene.flush.offer(outbox, b"1")
    scene.turns.run()
    scene.flush.offer(outbox, b"2")
    scene.turns.run()
    assert writes == [b"1"]
    assert outbox.frames == [b"2"]


@pytest.mark.parametrize(
    ("frames", "over"),
    [
        ([b"x"] * MAX_FRAMES, False),
        ([b"x"] * (MAX_FRAMES + 1), True),
        ([b"x" * MAX_BYTES], False),
        ([b"x" * MAX_BYTES, b"x"], True),
        ([b"x" * (MAX_BYTES + 1)], True),
    ],
)
def test_a_paused_connection_over_its_bounds_is_told(
    scene: Scene, frames: list[bytes], over: bool
) -> None:
    """Messages or bytes over the bound: the owner is told, and nothing is dropped in silence."""
    one = Connection()
    scene.flush.pause(one.outbox)
    scene.offer(one, *frames)
    scene.turns.run()
    assert one.overflows == over
    assert one.outbox.frames == frames


def test_a_connection_that_reads_has_no_bound_within_an_iteration(scene: Scene) -> None:
    """The bounds are for who can't be written to: a burst to others goes out in one write."""
    one = Connection()
    scene.offer(one, *[b"x" * MAX_BYTES] * 10)
    scene.turns.run()
    assert one.overflows == 0
    assert len(one.writes) == 1


def test_one_overflow_leaves_the_others_alone(scene: Scene) -> None:
    """Whoever is told may end its connection there and then; the other goes on waiting."""
    calm = Connection()
    told: list[str] = []

    def end() -> None:
        told.append("over")
        scene.flush.forget(outbox)

    outbox = Outbox(lambda data: None, end)
    scene.flush.pause(outbox)
    scene.flush.pause(calm.outbox)
    for _ in range(MAX_FRAMES + 1):
        scene.flush.offer(outbox, b"x")
    scene.offer(calm, b"y")
    scene.turns.run()
    assert told == ["over"]
    assert outbox.frames == []
    assert calm.outbox.frames == [b"y"]
    scene.flush.schedule()
    scene.turns.run()
    assert told == ["over"]


def test_a_connection_that_is_over_takes_nothing(scene: Scene) -> None:
    """What waits is let go of, and what is offered later is not kept or written."""
    one = Connection()
    scene.offer(one, b"1")
    scene.flush.forget(one.outbox)
    scene.offer(one, b"2")
    scene.turns.run()
    assert one.writes == []
    assert one.outbox.frames == []


def test_draining_writes_what_waits_now(scene: Scene) -> None:
    """Before a close frame, what was offered is written at once, and not again by the flush."""
    one = Connection()
    scene.offer(one, b"1", b"2")
    one.outbox.drain()
    one.outbox.drain()
    scene.turns.run()
    assert one.writes == [b"12"]
