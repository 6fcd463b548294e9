"""Interests: counted, confirmed by one PING for all that wait, lingering, and asked for again."""

from __future__ import annotations

import logging

import pytest

from natsbridge.bridge.nats.subscriptions import AT_ONCE, GATHER, SLICE, Interests
from tests.support.scripted_nats import ScriptedNats, Turns

LINGER, PATIENCE = 5.0, 3.0


class Scene:
    """Interests on a scripted server, and what they said."""

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
        self.told: list[bool] = []
        self.got: list[bytes] = []

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        self.got.append(payload)

    def settle(self) -> None:
        """End the iteration and let the server answer everything."""
        self.turns.run()
        self.nats.answer()

    def pass_time(self, seconds: float) -> None:
        """Let time pass and tick once."""
        self.nats.now += seconds
        self.interests.tick()

    def reconnect(self) -> None:
        """Lose the connection and get it back, as nats-py tells it."""
        self.nats.down()
        self.interests.on_down()
        self.nats.up()
        self.interests.on_up()


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


def test_the_first_holder_subscribes_and_the_last_one_leaves(scene: Scene) -> None:
    """However many hold a subject, NATS hears of it once, and of its end once."""
    units = [scene.interests.hold("live.user.1.>", scene.receive) for _ in range(3)]
    scene.settle()
    assert scene.nats.subjects == ["live.user.1.>"]
    assert scene.interests.subjects == ("live.user.1.>",)
    for unit in units[:2]:
        scene.interests.release(unit)
    scene.pass_time(LINGER + 1)
    assert len(scene.interests) == 1
    scene.interests.release(units[2])
    scene.pass_time(LINGER + 1)
    scene.settle()
    assert scene.nats.subjects == []
    assert len(scene.interests) == 0
    assert scene.nats.receivers == {}


def test_a_message_comes_to_the_holder(scene: Scene) -> None:
    """What matches a unit is handed to its receiver."""
    scene.interests.hold("live.user.1.>", scene.receive)
    scene.settle()
    scene.nats.publish("live.user.1.a.b.-", b"mine")
    scene.nats.publish("live.user.2.a.b.-", b"not mine")
    scene.nats.deliver_all()
    assert scene.got == [b"mine"]


def test_an_interest_lingers_for_who_comes_back(scene: Scene) -> None:
    """Within the linger a released unit is taken up again, and NATS hears nothing of it."""
    unit = scene.interests.hold("a", scene.receive)
    scene.settle()
    before = list(scene.nats.written)
    scene.interests.release(unit)
    scene.pass_time(LINGER - 0.1)
    assert scene.interests.hold("a", scene.receive) is unit
    scene.pass_time(LINGER + 1)
    assert scene.nats.written == before
    scene.interests.confirm(scene.told.append)
    assert scene.told == [True]


def test_one_ping_serves_all_that_wait(scene: Scene) -> None:
    """A storm of connects costs one round trip: subscriptions and a PING in one write."""
    for number in range(50):
        scene.interests.hold(f"live.user.{number}.>", scene.receive)
        scene.interests.confirm(scene.told.append)
    assert scene.told == []
    scene.turns.run()
    assert scene.nats.pings == 1
    assert len(scene.nats.written) == 2
    scene.settle()
    scene.turns.run()
    assert scene.told == [True] * 50
    assert scene.nats.pings == 1


def test_thousands_are_asked_for_in_parts(scene: Scene) -> None:
    """So many before each PING; who waits for the first of them is told first, and while more than
    twice as many wait it says so.
    """
    told: list[str] = []
    scene.interests.hold("first", scene.receive)
    scene.interests.confirm(lambda _: told.append("first"))
    for number in range(3 * SLICE):
        scene.interests.hold(f"u.{number}", scene.receive)
    scene.interests.confirm(lambda _: told.append("last"))
    assert scene.interests.is_behind
    asked = []
    while "last" not in told:
        before = len(scene.nats.subjects)
        scene.turns.run()
        scene.nats.process()
        asked.append(len(scene.nats.subjects) - before)
        scene.nats.now += GATHER
        scene.nats.answer()
        scene.turns.run()
        assert told[:1] == ["first"]
    assert max(asked) == SLICE
    assert len(scene.nats.subjects) == 3 * SLICE + 1
    assert not scene.interests.is_behind


def test_pings_have_a_distance(scene: Scene) -> None:
    """Who comes right behind somebody else waits for others to share the PING with; the first one,
    and who comes later, do not wait.
    """
    scene.interests.hold("a", scene.receive)
    scene.settle()
    assert scene.turns.delays == []
    scene.nats.now += GATHER / 4
    for subject in "bcd":
        scene.interests.hold(subject, scene.receive)
    assert scene.turns.delays == [pytest.approx(GATHER * 3 / 4)]
    scene.settle()
    assert scene.nats.pings == 2
    scene.nats.now += GATHER
    scene.interests.hold("e", scene.receive)
    assert len(scene.turns.delays) == 1


def test_a_crowd_is_told_a_few_an_iteration_and_in_order(scene: Scene) -> None:
    """One PONG for many does not hold up the loop, and who asks meanwhile comes behind them."""
    told: list[int] = []
    scene.interests.hold("a", scene.receive)
    for number in range(2 * AT_ONCE):
        scene.interests.confirm(lambda _, number=number: told.append(number))  # type: ignore[misc]
    scene.turns.run()
    scene.nats.answer()
    assert told == [0]
    scene.interests.confirm(lambda done: told.append(-1 if done else -2))
    assert told == [0]
    scene.turns.step()
    assert told == list(range(1 + AT_ONCE))
    scene.turns.step()
    assert told == [*range(2 * AT_ONCE), -1]
    scene.interests.confirm(scene.told.append)
    assert scene.told == [True]


def test_each_of_a_crowd_is_told_in_a_callback_of_its_own(scene: Scene) -> None:
    """What is more urgent can come between any two of them."""
    scene.interests.hold("a", scene.receive)
    for _ in range(3 * AT_ONCE):
        scene.interests.confirm(scene.told.append)
    scene.settle()
    told: list[int] = []

    def count() -> None:
        told.append(len(scene.told))

    while len(scene.told) < 3 * AT_ONCE:
        scene.turns.between(count)
    assert told == list(range(2, 3 * AT_ONCE + 1))


def test_who_is_behind_in_a_crowd_keeps_its_answer(scene: Scene) -> None:
    """What NATS said holds for all that waited for it, though time passes and it goes away."""
    scene.interests.hold("a", scene.receive)
    scene.interests.hold("b", scene.receive)
    for _ in range(AT_ONCE + 1):
        scene.interests.confirm(scene.told.append)
    scene.turns.run()
    scene.interests.on_denied("b")
    scene.nats.answer()
    scene.pass_time(PATIENCE + 1)
    scene.nats.down()
    scene.interests.on_down()
    assert scene.told == [False]
    scene.turns.run()
    assert scene.told == [False] * (AT_ONCE + 1)


def test_a_confirmation_comes_after_the_pong(scene: Scene) -> None:
    """Nobody is told before NATS has read the subscription and said so."""
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    assert scene.told == []
    scene.nats.process()
    assert scene.told == []
    scene.nats.pong()
    assert scene.told == [True]


def test_what_is_confirmed_already_needs_no_ping(scene: Scene) -> None:
    """Where NATS has everything, the answer is there at once."""
    scene.interests.hold("a", scene.receive)
    scene.settle()
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    assert scene.told == [True]
    assert scene.nats.pings == 1


def test_who_comes_while_a_ping_is_on_its_way_waits_for_it(scene: Scene) -> None:
    """A second holder of what was just asked for is told with the first, by the same PONG."""
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    assert scene.told == []
    scene.settle()
    scene.turns.run()
    assert scene.told == [True, True]
    assert scene.nats.pings == 1


def test_a_new_subject_waits_for_its_own_ping(scene: Scene) -> None:
    """What is asked for after a PING is not confirmed by that PING's answer."""
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    later: list[bool] = []
    scene.interests.hold("b", scene.receive)
    scene.interests.confirm(later.append)
    scene.nats.process()
    scene.nats.pong()
    assert (scene.told, later) == ([True], [])
    scene.settle()
    assert later == [True]


def test_patience_ends(scene: Scene) -> None:
    """Who waits too long is told so once, and the late answer does not tell again."""
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    scene.pass_time(PATIENCE - 0.1)
    assert scene.told == []
    scene.pass_time(0.2)
    assert scene.told == [False]
    scene.settle()
    assert scene.told == [False]
    scene.interests.confirm(scene.told.append)
    assert scene.told == [False, True]


def test_without_a_connection_everything_waits(scene: Scene) -> None:
    """Nothing is written while NATS is away; patience ends there too."""
    scene.nats.down()
    scene.interests.on_down()
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    assert scene.nats.written == []
    assert scene.told == []
    scene.pass_time(PATIENCE)
    assert scene.told == [False]


def test_a_reconnect_asks_for_everything_again(scene: Scene) -> None:
    """All units are asked for again, in one write, and confirmed again."""
    for subject in ("a", "b"):
        scene.interests.hold(subject, scene.receive)
    scene.settle()
    scene.reconnect()
    scene.interests.confirm(scene.told.append)
    assert scene.told == []
    scene.settle()
    assert scene.nats.subjects == ["a", "b"]
    assert scene.told == [True]
    scene.nats.publish("b", b"x")
    scene.nats.deliver_all()
    assert scene.got == [b"x"]


def test_who_waited_when_the_connection_broke_is_told_after_the_next(scene: Scene) -> None:
    """A PING that was lost is asked again; its waiters keep their patience."""
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    scene.nats.down()
    scene.interests.on_down()
    scene.pass_time(PATIENCE / 2)
    scene.nats.up()
    scene.interests.on_up()
    scene.settle()
    assert scene.told == [True]


def test_a_pong_of_a_lost_connection_confirms_nothing(scene: Scene) -> None:
    """Whatever still holds on to an old PING, only the new connection's answer counts."""
    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(scene.told.append)
    scene.turns.run()
    scene.nats.process()
    scene.reconnect()
    scene.turns.run()
    for latch in scene.nats.lost:
        latch.set_result(True)
    assert scene.told == []
    scene.nats.answer()
    assert scene.told == [True]


def test_what_was_left_while_away_is_not_asked_for_again(scene: Scene) -> None:
    """Released and lingered out during an outage: the new connection never hears of it."""
    unit = scene.interests.hold("a", scene.receive)
    scene.interests.hold("b", scene.receive)
    scene.settle()
    scene.nats.down()
    scene.interests.on_down()
    scene.interests.release(unit)
    scene.pass_time(LINGER)
    scene.nats.up()
    scene.interests.on_up()
    scene.settle()
    assert scene.nats.subjects == ["b"]


def test_what_is_dropped_has_no_say_from_then_on(scene: Scene) -> None:
    """Messages that are still on their way when a unit is left go nowhere."""
    unit = scene.interests.hold("a", scene.receive)
    scene.settle()
    scene.nats.publish("a", b"late")
    scene.interests.drop([unit])
    scene.nats.deliver_all()
    scene.settle()
    assert scene.got == []
    assert scene.nats.subjects == []


def test_what_is_left_before_it_was_asked_for_is_never_asked_for(scene: Scene) -> None:
    """Held and dropped within one iteration: no subscription remains."""
    scene.interests.drop([scene.interests.hold("a", scene.receive)])
    scene.interests.confirm(scene.told.append)
    scene.settle()
    assert scene.nats.subjects == []
    assert scene.told == [True]


def test_an_id_is_never_used_again(scene: Scene) -> None:
    """A subject that is left and held again has another id: old copies can't be mistaken."""
    first = scene.interests.hold("a", scene.receive)
    scene.interests.drop([first])
    second = scene.interests.hold("a", scene.receive)
    assert first.sid != second.sid
    assert {first.sid[:1], second.sid[:1]} == {b"i"}


def test_one_waiters_fault_does_not_reach_the_others(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Who fails when told is logged; the next one is told, and nothing is raised to NATS."""

    def fail(done: bool) -> None:
        raise RuntimeError("a fault")

    scene.interests.hold("a", scene.receive)
    scene.interests.confirm(fail)
    scene.interests.confirm(scene.told.append)
    with caplog.at_level(logging.ERROR):
        scene.settle()
        scene.turns.run()
    assert scene.told == [True]
    assert len(caplog.records) == 1


class TestPermissions:
    """NATS takes away what it had given: at any time, or when the connection comes back."""

    @pytest.fixture
    def refused(self, scene: Scene) -> list[str]:
        """The subjects that NATS had and refuses now."""
        refused: list[str] = []
        scene.interests.on_refused = refused.append
        scene.nats.on_denied = scene.interests.on_denied
        for subject in ("a", "b"):
            scene.interests.hold(subject, scene.receive)
        scene.interests.hold("all", scene.receive, lasting=True)
        assert scene.interests.missing == "all"
        scene.settle()
        assert scene.interests.missing == ""
        return refused

    def test_what_is_refused_out_of_the_blue_is_told(
        self, scene: Scene, refused: list[str]
    ) -> None:
        """Once; the others stay, and who holds it anew asks for it anew."""
        scene.nats.refuse("a")
        scene.turns.run()
        assert refused == ["a"]
        assert scene.interests.subjects == ("b", "all")
        scene.nats.refused.clear()
        scene.interests.hold("a", scene.receive)
        scene.settle()
        assert scene.nats.subjects == ["a", "all", "b"]
        assert refused == ["a"]

    def test_what_is_refused_when_it_is_asked_for_again_is_told(
        self, scene: Scene, refused: list[str]
    ) -> None:
        """Its holders had it before the break, and wait for nothing."""
        scene.nats.refused.add("b")
        scene.reconnect()
        scene.settle()
        scene.turns.run()
        assert refused == ["b"]
        assert scene.interests.subjects == ("a", "all")

    def test_what_was_never_had_is_told_to_who_waits(
        self, scene: Scene, refused: list[str]
    ) -> None:
        """And to nobody else."""
        scene.nats.refused.add("c")
        scene.interests.hold("c", scene.receive)
        scene.interests.confirm(scene.told.append)
        scene.settle()
        assert scene.told == [False]
        assert refused == []

    def test_a_refusal_of_before_does_not_count(self, scene: Scene, refused: list[str]) -> None:
        """What is asked for again may have been permitted again."""
        scene.nats.refuse("all")
        scene.turns.run()
        scene.nats.refused.clear()
        scene.reconnect()
        scene.settle()
        assert scene.interests.missing == ""
        assert scene.interests.subjects == ("a", "b", "all")

    def test_what_everybody_needs_is_asked_for_until_it_is_there(
        self, scene: Scene, refused: list[str]
    ) -> None:
        """At each tick, and told once."""
        scene.nats.refuse("all")
        for _ in range(3):
            scene.pass_time(1.0)
            scene.settle()
            assert scene.interests.missing == "all"
        scene.nats.refused.clear()
        scene.pass_time(1.0)
        scene.settle()
        scene.turns.run()
        assert scene.interests.missing == ""
        assert scene.nats.subjects == ["a", "all", "b"]
        assert refused == ["all"]
        scene.nats.refuse("all")
        scene.turns.run()
        assert refused == ["all", "all"]
