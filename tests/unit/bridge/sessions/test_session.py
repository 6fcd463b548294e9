"""A session between a scripted client and a scripted NATS: what is promised when."""

from __future__ import annotations

import json
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from bridge.broker.interests import Interests
from bridge.broker.topics import Topics
from bridge.delivery.hub import Hub
from bridge.delivery.outbox import Flush
from bridge.identity.grants import GrantPolicy
from bridge.identity.tokens import Identity
from bridge.limits.rates import SlidingWindow
from bridge.sessions.handlers import Ask
from bridge.sessions.registry import Registry
from bridge.sessions.session import Session
from bridge.sessions.states import State
from bridge.sessions.surroundings import Introduction, Surroundings
from bridge.settings import IdentitySettings, LimitSettings
from schemas.catalogue import Catalogue
from schemas.codes import RECONNECT
from schemas.replies import Reply
from schemas.subjects import Root, Subjects
from tests.support.bus import envelope, to_user, topic
from tests.support.scripted_nats import ScriptedNats, Turns
from tests.support.scripted_peer import CLOSE, TEXT, Peer, client_frame

CATALOGUE = Catalogue.load()
SUBJECTS = Subjects()
POLICY = GrantPolicy({}, CATALOGUE)
PATIENCE, LINGER = 3.0, 2.0


def person(user: str = "1", lifetime: float = 600) -> Identity:
    return Identity(
        user_id=user,
        user=user,
        role="user",
        admin=False,
        email=None,
        name=None,
        expires_at=time.time() + lifetime,
        issued_at=None,
        token_id=None,
        grants=POLICY.default("user", user),
    )


class House:
    """What sessions share, on a scripted NATS."""

    def __init__(self) -> None:
        self.nats = ScriptedNats()
        self.turns = Turns()
        self.failed: list[str] = []
        limits = LimitSettings(linger=LINGER)
        identity = IdentitySettings.from_environment({"BRIDGE_JWT_SECRET": "x" * 32})
        self.interests = Interests(
            self.nats,
            self.nats.receivers,
            clock=self.nats.clock,
            call_soon=self.turns.call_soon,
            linger=LINGER,
            patience=PATIENCE,
        )
        self.hub = Hub(
            CATALOGUE,
            Flush(self.turns.call_soon, max_frames=100, max_bytes=1 << 20),
            live_root="live",
            events_root="events",
            stream_header=b"Nats-Stream: EVENTS\r\n",
            reject=lambda subject, payload, error: None,
            max_size=65_536,
        )
        self.registry = Registry(max_connections=100, max_per_user=3)
        self.env = Surroundings(
            catalogue=CATALOGUE,
            limits=limits,
            identity=identity,
            hub=self.hub,
            interests=self.interests,
            topics=Topics(self.interests, SUBJECTS, clock=self.nats.clock, linger=LINGER),
            registry=self.registry,
            rates=SlidingWindow(100, 60),
            verify=self._verify,
            is_revoked=lambda identity: False,
            ask=self._ask,
            failed_handshake=self.failed.append,
            user_subject=lambda token: f"live.user.{token}.>",
            spawn=self._spawn,
            clock=self.nats.clock,
            wall=self.nats.clock,
        )

    async def _verify(self, token: str) -> Identity:
        return person(token)

    async def _ask(self, ask: Ask, identity: Identity) -> Reply:
        raise AssertionError("no commands here")

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        with pytest.raises(StopIteration):
            coroutine.send(None)

    def publish(self, address: Any) -> str:
        """Publish an event, let it come in, and return its id."""
        event = envelope(address)
        self.nats.publish(SUBJECTS.event(Root.LIVE, address), json.dumps(event).encode())
        self.nats.deliver_all()
        self.turns.run()
        return str(event["id"])

    def answer(self) -> None:
        """End the iteration, with NATS answering all."""
        self.turns.run()
        self.nats.answer()
        self.turns.run()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a tick at its end."""
        self.nats.now += seconds
        self.env.topics.tick()
        self.interests.tick()
        self.answer()


class Visitor:
    """A client of the house."""

    def __init__(self, house: House, identity: Identity | None = None) -> None:
        self.house = house
        self.peer = Peer()
        self.session = Session(house.env, self.peer.socket, Introduction(address="192.0.2.1"))
        if identity is not None:
            self.session.identify(identity)

    def say(self, kind: str, **data: Any) -> None:
        self.peer.send(client_frame(TEXT, json.dumps({"type": kind, "data": data}).encode()))
        self.house.turns.run()

    @property
    def heard(self) -> list[str]:
        """The type of each message that came, or its id for an event."""
        told = [json.loads(data) for opcode, data in self.peer.transport.frames if opcode == TEXT]
        return [each["id"] if each["type"] in CATALOGUE else each["type"] for each in told]


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


def test_a_client_that_overflows_is_closed_with_a_code(house: House) -> None:
    """What does not fit is not dropped in silence: 4002, and the others get theirs."""
    slow, other = Visitor(house, person()), Visitor(house, person())
    house.answer()
    slow.peer.socket.pause_writing()
    events = [house.publish(to_user("1", "upload.progress", "7")) for _ in range(101)]
    assert slow.peer.closes == [(4002, "SLOW_CONSUMER")]
    assert other.heard[1:] == events


def test_without_grants_direct_events_are_kept_back(house: House) -> None:
    """A user's own event comes only where the grants permit its type."""
    grants = POLICY.claimed({"subscribe": {"allow": ["upload.*"]}}, "user", "1")
    visitor = Visitor(house, replace(person(), grants=grants))
    house.answer()
    house.publish(to_user("1", "file.ready", "7"))
    event = house.publish(to_user("1", "upload.progress", "7"))
    assert visitor.heard == ["connection.established", event]
