"""Outbox and flush: one write an iteration, order, bounds, the end."""

from __future__ import annotations

import pytest

from natsbridge.bridge.delivery.outbox import Outbox
from tests.support.outboxes import MAX_BYTES, MAX_FRAMES, Connection, Scene


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


def test_a_blocked_connection_waits_and_loses_nothing(scene: Scene) -> None:
    """What is offered meanwhile is written in one piece when it can be written to again, and from
    then on the connection goes the straight way.
    """
    one, other = Connection(), Connection()
    scene.block(one)
    scene.offer(one, b"1")
    scene.turns.run()
    scene.offer(one, b"2")
    scene.offer(other, b"x")
    scene.turns.run()
    assert one.writes == []
    assert other.writes == [b"x"]
    scene.unblock(one)
    assert one.writes == [b"12"]
    assert one.outbox.backlog is None
    assert scene.flush.detours == set()
    scene.offer(one, b"3")
    scene.turns.run()
    assert one.writes == [b"12", b"3"]


def test_a_block_during_the_flush_holds_the_rest(scene: Scene) -> None:
    """A write may fill the transport: from then on what is offered waits, in its order."""
    writes: list[bytes] = []

    def write(data: bytes) -> None:
        writes.append(data)
        scene.flush.detour(outbox).blocked = True

    outbox = Outbox(write, lambda: None)
    scene.flush.offer(outbox, b"1")
    scene.turns.run()
    scene.flush.offer(outbox, b"2")
    scene.flush.offer(outbox, b"3")
    scene.turns.run()
    assert writes == [b"1"]
    assert outbox.backlog is not None
    outbox.backlog.unblock()
    assert writes == [b"1", b"23"]


@pytest.mark.parametrize(
    ("frames", "over"),
    [
        ([b"x"] * (2 * MAX_FRAMES), False),
        ([b"x"] * (2 * MAX_FRAMES + 1), True),
        ([b"x" * MAX_BYTES], False),
        ([b"x" * MAX_BYTES, b"x"], True),
        ([b"x" * (MAX_BYTES + 1)], True),
    ],
)
def test_only_the_bridges_own_messages_can_overflow(
    scene: Scene, frames: list[bytes], over: bool
) -> None:
    """Twice the messages or the bytes of the bound: the owner is told once the flush is over, and
    what fitted still waits in its order.
    """
    one = Connection()
    scene.block(one)
    scene.offer(one, *frames)
    scene.flush.run()
    assert one.overflows == 0
    scene.turns.run()
    assert bool(one.overflows) == over
    scene.unblock(one)
    fitting = frames[: 2 * MAX_FRAMES] if len(frames) > 2 else frames[: 2 - over]
    if len(frames[0]) > MAX_BYTES:
        fitting = []
    assert b"".join(one.writes) == b"".join(fitting)


def test_events_over_the_bound_are_no_overflow(scene: Scene) -> None:
    """They are conflated, healed or dropped, and counted; the connection stays."""
    one = Connection()
    scene.block(one)
    for number in range(1, 10):
        scene.event(one, number, b"%d" % number)
    scene.turns.run()
    assert one.overflows == 0
    assert scene.flush.counts == {"healed": 9 - MAX_FRAMES}
    scene.unblock(one, 9)
    assert one.writes == [b"123"]
    assert one.outbox.backlog is not None
    assert one.outbox.backlog.lost_after == 3


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
    scene.flush.detour(outbox).blocked = True
    scene.block(calm)
    for _ in range(2 * MAX_FRAMES + 1):
        scene.flush.offer(outbox, b"x")
    scene.offer(calm, b"y")
    scene.turns.run()
    assert told == ["over"]
    assert outbox.frames == []
    assert outbox.backlog is None
    assert scene.flush.detours == {calm.outbox}
    scene.unblock(calm)
    assert calm.writes == [b"y"]
    scene.flush.schedule()
    scene.turns.run()
    assert told == ["over"]


def test_one_connection_that_fails_costs_the_others_nothing(scene: Scene) -> None:
    """A write that raises is a fault of ours: its owner is told, the others get their frames."""
    ends: list[str] = []

    def fail(_: bytes) -> None:
        raise RuntimeError("a fault")

    broken = Outbox(fail, lambda: ends.append("over"), lambda: ends.append("failed"))
    one = Connection()
    scene.flush.offer(broken, b"1")
    scene.offer(one, b"1")
    scene.turns.run()
    assert one.writes == [b"1"]
    assert ends == ["failed"]


@pytest.mark.parametrize("takes", [0, 3, None], ids=["nothing", "some", "no more"])
def test_what_the_kernel_does_not_take_is_the_transports(scene: Scene, takes: int | None) -> None:
    """The rest of a frame, or all of it, goes where such things wait; others get the whole."""
    one, two = Connection(), Connection()
    kernel: list[bytes] = []

    def send(data: bytes) -> int:
        kernel.append(data)
        if takes is None:
            raise BlockingIOError
        return takes

    def whole(data: bytes) -> int:
        kernel.append(data)
        return len(data)

    one.outbox.send, two.outbox.send = send, whole
    scene.offer(one, b"frame")
    scene.offer(two, b"frame")
    scene.turns.run()
    assert kernel == [b"frame", b"frame"]
    assert one.writes == [b"frame"[takes or 0 :]]
    assert two.writes == []


def test_a_connection_that_is_over_is_not_sent_to(scene: Scene) -> None:
    """What was lent is gone with it."""
    one = Connection()
    one.outbox.send = len
    scene.flush.forget(one.outbox)
    assert one.outbox.send is None


@pytest.mark.parametrize("slow", [False, True])
def test_a_connection_that_is_over_takes_nothing(scene: Scene, slow: bool) -> None:
    """What waits is let go of, and what is offered later is not kept or written."""
    one = Connection()
    if slow:
        scene.block(one)
        scene.offer(one, b"0")
        scene.turns.run()
    scene.offer(one, b"1")
    scene.flush.forget(one.outbox)
    scene.offer(one, b"2")
    scene.turns.run()
    assert (one.writes, one.outbox.frames, one.outbox.backlog) == ([], [], None)
    assert scene.flush.detours == set()


def test_draining_writes_what_waits_now(scene: Scene) -> None:
    """Before a close frame, what was offered is written at once, and not again by the flush."""
    one = Connection()
    scene.offer(one, b"1", b"2")
    scene.flush.drain(one.outbox)
    scene.flush.drain(one.outbox)
    scene.turns.run()
    assert one.writes == [b"12"]


def test_draining_a_slow_connection_writes_what_waits_in_order(scene: Scene) -> None:
    """Also what was offered in this iteration, behind what waited longer."""
    one = Connection()
    scene.block(one)
    scene.event(one, 1, b"1")
    scene.turns.run()
    scene.event(one, 2, b"2")
    scene.offer(one, b"bye")
    scene.flush.drain(one.outbox)
    scene.turns.run()
    assert b"".join(one.writes) == b"12bye"
