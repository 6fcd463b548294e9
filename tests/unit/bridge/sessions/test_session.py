"""A session between a scripted client and a scripted NATS: what is promised when."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from dataclasses import replace
from typing import Any

import pytest

from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.sessions.registry import MAX_WAITING
from natsbridge.bridge.sessions.session import MAX_EARLY
from natsbridge.bridge.sessions.states import State
from natsbridge.schemas.codes import RECONNECT
from tests.support.bus import to_user, topic
from tests.support.harness import LINGER, PATIENCE, POLICY, House, Visitor, person
from tests.support.scripted_peer import CLOSE, client_frame


@pytest.fixture
def house() -> House:
    """A new one for each test."""
    return House()


def test_it_opens_when_nats_has_the_users_interest(house: House) -> None:
    """Nothing is said before the PONG; the user's events come from then on."""
    visitor = Visitor(house, person())
    house.turns.run()
    house.nats.process()
    house.publish(to_user("1", "upload.progress", "7"))
    assert visitor.heard == []
    house.answer()
    event = house.publish(to_user("1", "upload.progress", "7"))
    assert visitor.heard == ["connection.established", event]
    assert visitor.session.state is State.OPEN


def test_without_nats_the_client_is_told_to_come_later(house: House) -> None:
    """An interest that is not confirmed in time closes with 1013."""
    visitor = Visitor(house, person())
    house.nats.now += PATIENCE
    house.interests.tick()
    assert visitor.peer.closes == [(1013, "TRY_AGAIN_LATER")]
    assert len(house.registry) == 0


def test_nobody_comes_in_while_what_all_need_is_refused(house: House) -> None:
    """Nor is an older connection of the user closed for it."""
    visitors = [Visitor(house, person()) for _ in range(3)]
    house.answer()
    house.interests.hold("live.*.all.>", house.hub.everybody.receive, lasting=True)
    late = Visitor(house, person())
    assert late.peer.closes == [(1013, "TRY_AGAIN_LATER")]
    assert [each.session.state for each in visitors] == [State.OPEN] * 3
    house.answer()
    Visitor(house, person())
    house.answer()
    assert visitors[0].peer.closes == [(4502, "REPLACED")]


def test_what_comes_early_is_handled_in_order_after_the_opening(house: House) -> None:
    """Messages before ``connection.established`` wait, and are answered behind it."""
    visitor = Visitor(house, person())
    visitor.say("ping")
    visitor.say("subscribe", events=["review.updated"])
    assert visitor.heard == []
    house.answer()
    visitor.peer.loop.run()
    house.answer()
    assert visitor.heard == ["connection.established", "pong", "subscription.acknowledged"]


def test_more_than_may_come_early_is_told_to_come_later(house: House) -> None:
    """A hundred messages wait for the opening; one more is 1013, and none of them is kept."""
    patient, hasty = Visitor(house, person()), Visitor(house, person())
    for _ in range(MAX_EARLY):
        patient.session.on_message(b'{"type": "ping"}', True)
        hasty.session.on_message(b'{"type": "ping"}', True)
    assert patient.peer.closes == hasty.peer.closes == []
    hasty.session.on_message(b'{"type": "ping"}', True)
    assert hasty.peer.closes == [(1013, "TRY_AGAIN_LATER")]
    assert hasty.session._early is None
    house.answer()
    assert patient.heard == ["connection.established"] + ["pong"] * MAX_EARLY


def test_an_acknowledgement_waits_for_nats(house: House) -> None:
    """It is said once NATS has the interest: what is published after it comes."""
    visitor = Visitor(house, person())
    house.answer()
    visitor.say("subscribe", events=["review.updated.7"])
    assert visitor.heard == ["connection.established"]
    house.answer()
    event = house.publish(topic("review.updated", "7"))
    house.publish(topic("review.updated", "8"))
    assert visitor.heard[1:] == ["subscription.acknowledged", event]


def test_after_the_answer_nothing_more_of_it_comes(house: House) -> None:
    """``unsubscription.acknowledged`` needs no round trip: delivery stops before it is said."""
    visitor = Visitor(house, person())
    house.answer()
    visitor.say("subscribe", events=["review.updated"])
    house.answer()
    visitor.say("unsubscribe", events=["review.updated"])
    assert visitor.heard[-1] == "unsubscription.acknowledged"
    assert house.publish(topic("review.updated", "7")) not in visitor.heard


def test_a_subscription_that_nats_does_not_take_is_taken_back(house: House) -> None:
    """Told with SERVICE_UNAVAILABLE; what was held before stays."""
    visitor = Visitor(house, person())
    house.answer()
    visitor.say("subscribe", events=["review.updated"])
    house.answer()
    visitor.say("subscribe", events=["upload.error"])
    house.nats.now += PATIENCE
    house.interests.tick()
    house.turns.run()
    assert visitor.heard[-1] == "error"
    assert list(visitor.session.patterns) == ["review.updated"]
    assert visitor.session.state is State.OPEN


@pytest.mark.parametrize("how", ["peer closes", "peer breaks", "bridge closes"])
def test_nothing_is_left_of_a_session_that_is_over(house: House, how: str) -> None:
    """Receivers, interests, holds and the count are given back, whoever ends it."""
    visitor = Visitor(house, person())
    house.answer()
    visitor.say("subscribe", events=["review.updated", "upload.error.7"])
    house.answer()
    match how:
        case "peer closes":
            visitor.peer.send(client_frame(CLOSE))
            visitor.peer.lose()
        case "peer breaks":
            visitor.peer.lose()
        case "bridge closes":
            visitor.session.close(RECONNECT)
            visitor.session.close(RECONNECT)
    assert visitor.session.state is State.CLOSED
    assert len(house.registry) == 0
    assert house.hub.users == {}
    assert house.hub.everybody.receivers == {}
    for _ in range(5):
        house.pass_time(LINGER)
    assert house.nats.subjects == []
    assert len(house.interests) == 0


def test_a_ticket_that_outlived_its_token_opens_nothing(house: House) -> None:
    """4001 at once, whether the user has another connection or not, which stays."""
    first = Visitor(house, person(lifetime=-60))
    assert first.peer.closes == [(4001, "TOKEN_EXPIRED")]
    other = Visitor(house, person())
    house.answer()
    late = Visitor(house, person(lifetime=-60))
    assert late.peer.closes == [(4001, "TOKEN_EXPIRED")]
    event = house.publish(to_user("1", "upload.progress", "7"))
    assert other.heard == ["connection.established", event]
    assert len(house.registry) == 1
    assert not house.registry.is_crowded


def test_the_fourth_connection_takes_the_place_of_the_oldest(house: House) -> None:
    """The oldest hears why and goes with 4502; the others stay."""
    visitors = [Visitor(house, person()) for _ in range(3)]
    house.answer()
    visitors.append(Visitor(house, person()))
    house.answer()
    assert visitors[0].heard == ["connection.established", "error"]
    assert visitors[0].peer.closes == [(4502, "REPLACED")]
    assert all(each.heard == ["connection.established"] for each in visitors[1:])


def test_nobody_is_replaced_by_a_connection_that_is_never_opened(house: House) -> None:
    """While NATS is away, a fourth one is told to come later, and the three stay."""
    visitors = [Visitor(house, person()) for _ in range(3)]
    house.answer()
    house.break_off()
    late = Visitor(house, person())
    house.turns.run()
    assert [each.peer.closes for each in visitors] == [[]] * 3
    house.nats.now += PATIENCE
    house.interests.tick()
    assert late.peer.closes == [(1013, "TRY_AGAIN_LATER")]
    assert [each.session.state for each in visitors] == [State.OPEN] * 3


def test_those_of_a_user_that_wait_to_be_opened_are_few(house: House) -> None:
    """Beside the three that are open sixteen wait; of more the oldest is told to come later, and
    once NATS answers the last three are left.
    """
    first = [Visitor(house, person()) for _ in range(3)]
    house.answer()
    house.break_off()
    waiting = [Visitor(house, person()) for _ in range(MAX_WAITING)]
    assert all(not each.peer.closes for each in waiting)
    last = Visitor(house, person())
    assert waiting[0].peer.closes == [(1013, "TRY_AGAIN_LATER")]
    assert all(not each.peer.closes for each in (*first, *waiting[1:], last))
    house.come_back()
    for each in (*first, *waiting[1:-2]):
        assert each.peer.closes == [(4502, "REPLACED")]
    assert all(not each.peer.closes for each in (*waiting[-2:], last))
    assert len(house.registry) == 3


def test_what_came_in_time_is_read_before_the_deadline_counts(house: House) -> None:
    """A tick that finds the deadline passed may come before what the client sent is read, where
    the process was stopped for a while: only the next one closes the connection.
    """
    quick, silent = Visitor(house), Visitor(house)
    late = time.time() + 60
    for each in (quick, silent):
        each.session.on_deadline(late)
        assert each.peer.closes == []
    quick.session.identify(person())
    silent.session.on_deadline(late)
    house.answer()
    assert silent.peer.closes == [(4504, "NOT_AUTHENTICATED")]
    assert quick.heard == ["connection.established"]


def test_who_waits_is_told_of_the_end_of_its_token_when_it_is_opened(house: House) -> None:
    """The notice falls due before NATS has answered: it comes behind the opening."""
    visitor = Visitor(house, person(lifetime=20))
    assert visitor.session.deadline <= time.time()
    visitor.session.on_deadline(time.time())
    house.answer()
    assert visitor.session.deadline <= time.time()
    visitor.session.on_deadline(time.time())
    house.turns.run()
    assert visitor.heard == ["connection.established", "auth.expiring"]
    assert visitor.session.deadline > time.time()


def test_events_for_a_client_that_stalls_are_conflated_not_the_end(house: House) -> None:
    """Of more than fits, the newest comes once it reads again, and the others got every one."""
    slow, other = Visitor(house, person()), Visitor(house, person())
    house.answer()
    slow.stall()
    events = [house.publish(to_user("1", "upload.progress", "7")) for _ in range(101)]
    assert slow.peer.closes == []
    assert other.heard[1:] == events
    slow.read()
    assert slow.heard[1:] == events[-1:]
    assert house.hub.flush.counts == {"conflated": 100}
    assert house.hub.flush.detours == set()


def test_a_client_that_stalls_for_its_own_answers_is_closed_with_a_code() -> None:
    """Answers are never dropped: over twice the bound of messages it is 4002; others stay."""
    small = House(queue=5)
    slow, other = Visitor(small, person()), Visitor(small, person())
    small.answer()
    slow.stall()
    for _ in range(11):
        slow.say("ping")
    assert slow.peer.closes == [(4002, "SLOW_CONSUMER")]
    event = small.publish(to_user("1", "upload.progress", "7"))
    assert other.heard[1:] == [event]
    assert small.hub.flush.detours == set()


def test_events_that_were_dropped_are_told_once_by_number() -> None:
    """Behind what waited: how many of which type, with no range and nothing to recover."""
    small = House(queue=3)
    visitor = Visitor(small, person())
    small.answer()
    visitor.stall()
    draft = {"text": "words"}
    events = [small.publish(to_user("1", "invoice.draft"), draft) for _ in range(8)]
    visitor.read()
    assert visitor.heard[1:] == [*events[-3:], "gap"]
    assert visitor.told("gap") == [
        {
            "from": None,
            "to": None,
            "reason": "SLOW_CONSUMER",
            "recoverable": False,
            "dropped": {"invoice.draft": 5},
        }
    ]
    visitor.stall()
    visitor.read()
    assert len(visitor.told("gap")) == 1


def test_without_grants_direct_events_are_kept_back(house: House) -> None:
    """A user's own event comes only where the grants permit its type."""
    grants = POLICY.claimed({"subscribe": {"allow": ["upload.*"]}}, "user", "1")
    visitor = Visitor(house, replace(person(), grants=grants))
    house.answer()
    house.publish(to_user("1", "file.ready", "7"))
    event = house.publish(to_user("1", "upload.progress", "7"))
    assert visitor.heard == ["connection.established", event]


class _Turn:
    """Awaited, it gives way once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def test_of_two_refreshes_at_once_the_last_counts() -> None:
    """Where the key of the first has to be fetched, the second comes into force before it; the
    first is answered with what is in force, and takes nothing back.
    """
    tasks: list[Coroutine[Any, Any, None]] = []
    house = House(spawn=tasks.append)
    lifetimes = {"slow": 100.0, "fast": 500.0}
    known = {"fast"}

    async def verify(token: str) -> Identity:
        while token not in known:
            await _Turn()
        return person("1", lifetimes[token])

    house.env = replace(house.env, verify_or_fetch=verify)
    visitor = Visitor(house, person())
    house.answer()
    visitor.say("auth.refresh", "a", token="slow")
    visitor.say("auth.refresh", "b", token="fast")
    slow, fast = tasks
    slow.send(None)
    for task in (fast, slow):
        known.add("slow" if task is slow else "fast")
        with pytest.raises(StopIteration):
            task.send(None)
        house.answer()
    answers = [each for each in visitor.messages if each["type"] == "auth.refreshed"]
    assert [each["reply_to"] for each in answers] == ["b", "a"]
    assert answers[0]["data"] == answers[1]["data"]
    assert visitor.session.identity is not None
    assert visitor.session.identity.expires_at > time.time() + 400
