"""Topics: the switch between any resource and single ones, step by step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.bridge.nats.topics import AT_A_TIME, MAX_COPIES, SETTLE, Overlap, Topics
from natsbridge.schemas.subjects import Subjects
from tests.support.republished import republished
from tests.support.scripted_nats import ScriptedNats, Turns

TYPE = "review.updated"
WIDE, ONE, TWO = (f"live.*.topic.{TYPE}.{each}" for each in ("*", "1", "2"))
LINGER = 3.0
PATIENCE = 5.0


class Scene:
    """Topics on a scripted server, and what came."""

    def __init__(self) -> None:
        self.nats = ScriptedNats()
        self.turns = Turns()
        self.interests = Interests(
            self.nats,
            self.nats.receivers,
            clock=self.nats.clock,
            call_soon=self.turns.call_soon,
            call_later=self.turns.call_later,
            linger=LINGER,
            patience=PATIENCE,
        )
        self.topics = Topics(self.interests, Subjects(), clock=self.nats.clock, linger=LINGER)
        self.got: list[bytes] = []

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        self.got.append(payload)

    def hold(self, *resources: str) -> None:
        """Hold these and let NATS confirm them."""
        for resource in resources:
            self.topics.hold(TYPE, resource, self.receive)
        self.answer()

    def answer(self) -> None:
        """End the iteration and let the server answer everything."""
        self.turns.run()
        self.nats.answer()

    def pass_time(self, seconds: float, answering: bool = True) -> None:
        """Let time pass with a tick each half second."""
        until = self.nats.now + seconds
        while self.nats.now < until:
            self.nats.now += 0.5
            self.topics.tick()
            self.interests.tick()
            if answering:
                self.answer()


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


def test_single_resources_have_a_subscription_each(scene: Scene) -> None:
    """Who wants two reviews does not get all the others over the wire."""
    scene.hold("1", "2", "1")
    assert scene.nats.subjects == [ONE, TWO]


def test_any_resource_is_one_subscription(scene: Scene) -> None:
    """Single resources beside it are served by the wide one."""
    scene.hold("*", "1", "2")
    assert scene.nats.subjects == [WIDE]


def test_from_single_to_any(scene: Scene) -> None:
    """The wide one is asked for first; the narrow ones go once it had time to settle."""
    scene.hold("1", "2")
    scene.hold("*")
    assert scene.nats.subjects == [WIDE, ONE, TWO]
    scene.pass_time(SETTLE + 0.5)
    assert scene.nats.subjects == [WIDE]


def test_from_any_to_single(scene: Scene) -> None:
    """When the last holder of any has left and lingered, the narrow ones take over."""
    scene.hold("*", "1")
    scene.topics.release(TYPE, "*")
    scene.pass_time(LINGER - 0.5)
    assert scene.nats.subjects == [WIDE]
    scene.pass_time(1.0)
    assert scene.nats.subjects == [WIDE, ONE]
    scene.pass_time(SETTLE + 0.5)
    assert scene.nats.subjects == [ONE]


@pytest.mark.parametrize("switches", [False, True], ids=["left", "switched"])
def test_thousands_are_left_over_several_ticks(scene: Scene, switches: bool) -> None:
    """Given back by all, or taken in by all of the type: a bounded number goes in each."""
    many = [str(number) for number in range(2 * AT_A_TIME + 10)]
    scene.hold(*many)
    scene.pass_time(0.5)
    if switches:
        scene.hold("*")
    else:
        for resource in many:
            scene.topics.release(TYPE, resource)
    counts = [len(scene.nats.subjects)]
    for _ in range(2 * int(LINGER + SETTLE) + 8):
        scene.pass_time(0.5)
        counts.append(len(scene.nats.subjects))
    assert max(before - after for before, after in pairwise(counts)) == AT_A_TIME
    assert scene.nats.subjects == ([WIDE] if switches else [])


def test_types_that_have_no_room_in_a_tick_wait_for_the_next(scene: Scene) -> None:
    """Two that switch may take more than there is; the one behind them is left a tick later."""
    switching = ("upload.completed", "upload.error")
    many = [str(number) for number in range(AT_A_TIME)]
    for event_type in switching:
        for resource in many:
            scene.topics.hold(event_type, resource, scene.receive)
    scene.hold("1")
    scene.pass_time(0.5)
    for event_type in switching:
        scene.topics.hold(event_type, "*", scene.receive)
    for _ in range(4):
        scene.answer()
    scene.topics.release(TYPE, "1")
    scene.nats.now += SETTLE
    scene.topics.tick()  # both are due in it
    scene.pass_time(LINGER + SETTLE + 2)
    assert scene.nats.subjects == [f"live.*.topic.{each}.*" for each in switching]


def test_nothing_is_left_when_nobody_holds_anything(scene: Scene) -> None:
    """Both ways end after their linger."""
    scene.hold("*", "1")
    scene.topics.release(TYPE, "*")
    scene.topics.release(TYPE, "1")
    scene.pass_time(LINGER + 0.5)
    assert scene.nats.subjects == []
    scene.hold("1")
    scene.topics.release(TYPE, "1")
    scene.pass_time(LINGER + 0.5)
    assert scene.nats.subjects == []
    assert len(scene.interests) == 0


@pytest.mark.parametrize("order", [(0, 0), (1, 0)])
@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nNats-Sequence: 7\r\n\r\n"])
def test_two_copies_are_one_message(scene: Scene, order: tuple[int, int], headers: bytes) -> None:
    """While both ways are subscribed, the first copy is delivered and the second is not."""
    scene.hold("1")
    scene.hold("*")
    assert scene.nats.publish(ONE, b"x", headers) == 2
    for place in order:
        scene.nats.deliver(place)
    assert scene.got == [b"x"]


def test_messages_are_told_apart_by_more_than_a_header(scene: Scene) -> None:
    """Two events into which their publisher wrote the same sequence are two events."""
    scene.hold("1")
    scene.hold("*")
    for sequence, place in ((7, 0), (8, 1)):
        headers = republished("events.x", sequence, own=b"Nats-Sequence: 5\r\n")
        scene.nats.publish(ONE, b"%d" % sequence, headers)
        scene.nats.deliver(place)
    scene.nats.deliver_all()
    assert scene.got == [b"7", b"8"]


def test_the_same_bytes_twice_are_two_messages(scene: Scene) -> None:
    """Whoever publishes the same bytes again means it: copies are told apart by their way."""
    scene.hold("1")
    scene.hold("*")
    scene.nats.publish(ONE, b"x")
    scene.nats.publish(ONE, b"x")
    scene.nats.deliver_all()
    assert scene.got == [b"x", b"x"]


def test_a_copy_may_come_after_the_old_way_was_left(scene: Scene) -> None:
    """The second copy of a message is known for a while after the switch."""
    scene.hold("1")
    scene.hold("*")
    scene.pass_time(SETTLE - 0.5)
    scene.nats.publish(ONE, b"x")
    scene.nats.deliver(0)
    scene.pass_time(1.5)
    assert scene.nats.subjects == [WIDE]
    scene.nats.deliver_all()
    assert scene.got == [b"x"]


def test_what_the_old_way_matched_before_the_new_one_comes(scene: Scene) -> None:
    """A message on its way on the old subscription is delivered after the new one is confirmed."""
    scene.hold("1")
    scene.nats.publish(ONE, b"early")
    scene.hold("*")
    scene.pass_time(0.5)
    scene.nats.deliver_all()
    assert scene.got == [b"early"]


def test_the_old_way_stays_until_nats_has_the_new_one(scene: Scene) -> None:
    """A server that does not answer for longer than anybody waits loses nothing of the old way."""
    scene.hold("1")
    scene.topics.hold(TYPE, "*", scene.receive)
    scene.turns.run()
    scene.pass_time(PATIENCE + SETTLE + 2.0, answering=False)
    scene.nats.publish(ONE, b"meanwhile")
    scene.nats.deliver_all()
    assert scene.got == [b"meanwhile"]
    scene.answer()
    scene.pass_time(PATIENCE + SETTLE + 2.0)
    assert scene.nats.subjects == [WIDE]


def test_a_switch_soon_after_another_tells_copies_apart_for_all_of_its_time(scene: Scene) -> None:
    """The end of the first switch's memory does not end the second's."""
    scene.hold("*", "1")
    scene.topics.release(TYPE, "*")
    scene.pass_time(LINGER + SETTLE + 0.5)
    assert scene.nats.subjects == [ONE]
    scene.topics.hold(TYPE, "*", scene.receive)
    scene.turns.run()
    scene.nats.process()
    scene.pass_time(4.0, answering=False)
    assert scene.nats.publish(ONE, b"x") == 2
    scene.nats.deliver_all()
    assert scene.got == [b"x"]


def test_one_more_resource_during_the_switch(scene: Scene) -> None:
    """What is wanted while the narrow ones take over is asked for before the wide one goes."""
    scene.hold("*", "1")
    scene.topics.release(TYPE, "*")
    scene.pass_time(LINGER)
    assert scene.nats.subjects == [WIDE, ONE]
    scene.hold("2")
    scene.pass_time(SETTLE + 0.5)
    assert WIDE in scene.nats.subjects
    scene.nats.publish(TWO, b"x")
    scene.nats.deliver_all()
    assert scene.got == [b"x"]
    scene.pass_time(SETTLE + 1.0)
    assert scene.nats.subjects == [ONE, TWO]


def test_types_do_not_touch_each_other(scene: Scene) -> None:
    """A wide subscription of one type leaves another type's single ones alone."""
    scene.hold("1")
    scene.topics.hold("review.deleted", "*", scene.receive)
    scene.answer()
    scene.pass_time(5.0)
    assert scene.nats.subjects == ["live.*.topic.review.deleted.*", ONE]


def test_an_overlap_remembers_within_a_bound() -> None:
    """Messages whose second copy never comes don't fill the memory: the oldest are forgotten."""
    overlap = Overlap()
    for number in range(MAX_COPIES + 10):
        assert overlap.is_news(True, (b"", b"", b"%d" % number))
    assert overlap.is_news(False, (b"", b"", b"0"))
    assert not overlap.is_news(False, (b"", b"", b"%d" % (MAX_COPIES + 5)))
