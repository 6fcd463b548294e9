"""A fault of the bridge itself with one client: it is told, and nothing stays half done."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from natsbridge.bridge.delivery.hub import TopicRoute
from natsbridge.bridge.nats.topics import Topics
from natsbridge.bridge.sessions import dispatch, flow
from natsbridge.bridge.sessions.states import State
from natsbridge.bridge.sessions.subscriptions import Wishes
from natsbridge.schemas import codes
from tests.support.bus import to_user, topic
from tests.support.harness import LINGER, House, Visitor, person

REVIEW = topic("review.updated", "77")


@pytest.fixture
def house() -> House:
    """A new one for each test."""
    return House()


@pytest.fixture
def visitor(house: House) -> Visitor:
    """A client that is connected."""
    made = Visitor(house, person())
    house.answer()
    return made


def fail(*_: Any, **__: Any) -> Any:
    """What none of it should do."""
    raise RuntimeError("a fault of ours")


def test_a_message_that_can_not_be_handled_costs_an_answer(
    house: House,
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client is told INTERNAL_ERROR with its id, and goes on; the fault is in the log."""
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(dispatch, "handle", fail)
        visitor.say("ping", id="p1")
    assert visitor.told("error")[0]["code"] == "INTERNAL_ERROR"
    assert visitor.messages[-1]["reply_to"] == "p1"
    visitor.say("ping")
    assert visitor.heard[-1] == "pong"
    assert visitor.peer.closes == []
    assert "a fault of ours" in caplog.text


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (flow, "follow"),
        (flow, "set_paces"),
        (Wishes, "begin"),
        (TopicRoute, "add"),
        (Topics, "hold"),
    ],
)
@pytest.mark.parametrize("cursor", [False, True])
def test_a_subscription_that_is_half_done_ends_the_connection(
    house: House,
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: Any,
    name: str,
    cursor: bool,
) -> None:
    """Whether before NATS has confirmed it or after: 1011, at which clients come back and resume.

    Nothing of it is left, and others have their events.
    """
    if cursor and name == "follow":
        part, name = flow, "replay"
    other = Visitor(house, person("2"))
    house.answer()
    other.say("subscribe", events=["review.*"])
    house.answer()
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(part, name, fail)
        history = {"history": 5} if cursor else {}
        visitor.say("subscribe", events=["review.*"], **history)
        house.answer()
    assert visitor.peer.closes == [(1011, "INTERNAL_ERROR")]
    assert visitor.session.state is State.CLOSED
    assert visitor.session.replay is None
    assert "a fault of ours" in caplog.text
    event = house.publish(REVIEW)
    assert other.heard[-1] == event
    assert event not in visitor.heard
    assert list(house.registry) == [other.session]
    other.peer.lose()
    house.pass_time(LINGER + 1)
    house.pass_time(LINGER + 1)
    assert house.interests.subjects == ()


@pytest.mark.parametrize(("part", "name"), [(TopicRoute, "remove"), (Topics, "release")])
def test_a_fault_in_giving_back_takes_nothing_from_others(
    house: House, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, part: Any, name: str
) -> None:
    """What one gave back before the fault is not given back again when its connection ends."""
    other = Visitor(house, person("2"))
    house.answer()
    for each in (visitor, other):
        each.say("subscribe", events=["review.*"])
        house.answer()
    calls = 0
    whole = getattr(part, name)

    def fail_at_the_second(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("a fault of ours")
        whole(*args)

    with monkeypatch.context() as broken:
        broken.setattr(part, name, fail_at_the_second)
        visitor.say("unsubscribe", events=["review.*"])
        house.answer()
    assert visitor.peer.closes == [(1011, "INTERNAL_ERROR")]
    assert list(house.registry) == [other.session]
    house.pass_time(LINGER + 1)
    for kind in ("created", "updated", "deleted"):
        event = house.publish(topic(f"review.{kind}", "77"))
        assert other.heard[-1] == event


def test_a_connection_ends_whatever_it_can_not_give_back(
    house: House,
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its socket is closed, and it counts no more."""
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(Wishes, "clear", fail)
        visitor.session.close(codes.RECONNECT)
    assert visitor.peer.closes == [(4003, "RECONNECT")]
    assert len(house.registry) == 0
    assert "a fault of ours" in caplog.text


def test_a_token_that_is_renewed_half_ends_the_connection(
    house: House,
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it may have now and what it gets must not come apart."""
    visitor.say("subscribe", events=["review.*"])
    house.answer()
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(Wishes, "regrant", fail)
        visitor.say("auth.refresh", token="1")  # the user's name, for this house
        house.answer()
    assert visitor.peer.closes == [(1011, "INTERNAL_ERROR")]
    assert "a fault of ours" in caplog.text


def test_a_greeting_that_fails_ends_the_connection(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client is not left waiting for ``connection.established``."""
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr("natsbridge.bridge.sessions.session.greeting", fail)
        visitor = Visitor(house, person())
        house.answer()
    assert visitor.peer.closes == [(1011, "INTERNAL_ERROR")]
    assert len(house.registry) == 0
    assert "a fault of ours" in caplog.text


def test_a_write_that_fails_ends_the_connection(
    house: House, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the bridge's fault, not a slow client's."""
    visitor.session.outbox.write = fail
    with caplog.at_level(logging.ERROR):
        house.publish(to_user("1", "upload.progress", "7"))
        house.answer()
    assert visitor.peer.closes == [(1011, "INTERNAL_ERROR")]
    assert "a fault of ours" in caplog.text
