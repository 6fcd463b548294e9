"""The switch between any resource and single ones, under every order of everything.

A model of who holds what says which messages are owed. A message is owed when it was published
while somebody whose hold NATS has confirmed wanted it, and stays owed while somebody does and the
connection lasts. Nothing owed may be lost, and nothing at all may come twice.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.bridge.nats.topics import Topics
from natsbridge.schemas.patterns import ANY
from natsbridge.schemas.subjects import Subjects
from tests.support.scripted_nats import ScriptedNats, Turns

TYPE = "review.updated"
TOPIC = f"live.service.topic.{TYPE}."
RESOURCES = ("1", "2", "3")
LINGER, PATIENCE = 2.0, 3.0
STEP = 0.25
LATEST = 0.9
"""How long NATS may take to write a copy; what is older has come in."""
REST = 30.0
"""Time after which everything has settled, by far."""


@dataclass(eq=False)
class Hold:
    """One holder of a resource, or of any."""

    resource: str
    confirmed: bool = False


class Switching(RuleBasedStateMachine):
    """Holders, messages, time and the connection, in any order."""

    @initialize()
    def start(self) -> None:
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
        self.holds: list[Hold] = []
        self.numbers = itertools.count(1)
        self.owed: dict[bytes, str] = {}
        self.got: list[bytes] = []

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        assert payload not in self.got, "a message came twice"
        self.got.append(payload)
        self.owed.pop(payload, None)

    def wanted(self, resource: str) -> bool:
        """Whether somebody has been told that this resource's events come."""
        return any(each.confirmed and each.resource in (resource, ANY) for each in self.holds)

    def confirm(self, holds: list[Hold]) -> None:
        """Ask when NATS has these, as a session does before it acknowledges."""

        def confirmed(done: bool, holds: list[Hold]) -> None:
            for hold in holds:
                hold.confirmed = hold.confirmed or done

        self.interests.confirm(partial(confirmed, holds=holds))

    # What clients do.

    @rule(resource=st.sampled_from((ANY, *RESOURCES)), answering=st.booleans())
    def hold(self, resource: str, answering: bool) -> None:
        hold = Hold(resource)
        self.holds.append(hold)
        self.topics.hold(TYPE, resource, self.receive)
        self.confirm([hold])
        if answering:
            self.answer()

    @precondition(lambda self: self.holds)
    @rule(which=st.integers(0, 100))
    def release(self, which: int) -> None:
        hold = self.holds.pop(which % len(self.holds))
        self.topics.release(TYPE, hold.resource)
        self.owed = {payload: each for payload, each in self.owed.items() if self.wanted(each)}

    @rule(resource=st.sampled_from(RESOURCES))
    def switch(self, resource: str) -> None:
        """From single to any, or back, with messages of both ways on their way."""
        wide = [each for each in self.holds if each.resource == ANY]
        if not any(each.resource == resource for each in self.holds):
            self.hold(resource, answering=True)
        if wide:
            for hold in wide:
                self.release(self.holds.index(hold))
            self.pass_time(int(LINGER / STEP), answering=True)
        self.publish(resource, stored=False)
        if not wide:
            self.hold(ANY, answering=True)
        self.pass_time(1, answering=True)
        self.publish(None, stored=True)

    # What services and NATS do.

    @rule(resource=st.none() | st.sampled_from(RESOURCES), stored=st.booleans())
    def publish(self, resource: str | None, stored: bool) -> None:
        for each in RESOURCES if resource is None else (resource,):
            number = next(self.numbers)
            payload = b"%d" % number
            headers = b"NATS/1.0\r\nNats-Sequence: %d\r\n\r\n" % number if stored else b""
            self.nats.publish(TOPIC + each, payload, headers)
            if self.nats.is_up and self.wanted(each):
                self.owed[payload] = each

    @precondition(lambda self: self.nats.copies)
    @rule(places=st.lists(st.integers(0, 20), min_size=1, max_size=5))
    def deliver(self, places: list[int]) -> None:
        for place in places[: len(self.nats.copies)]:
            self.nats.deliver(place % len(self.nats.copies))

    @rule()
    def answer(self) -> None:
        self.turns.run()
        self.nats.answer()

    @rule(count=st.integers(1, 4))
    def process(self, count: int) -> None:
        self.nats.process(count)

    @rule()
    def pong(self) -> None:
        self.nats.pong()

    @precondition(lambda self: self.nats.is_up)
    @rule(holds_on=st.integers(0, 5))
    def disconnect(self, holds_on: int) -> None:
        if holds_on:
            return  # seldom, so that runs without a break are long
        self.nats.down()
        self.interests.on_down()
        self.owed.clear()
        for hold in self.holds:
            hold.confirmed = False

    @precondition(lambda self: not self.nats.is_up)
    @rule()
    def reconnect(self) -> None:
        self.nats.up()
        self.interests.on_up()
        self.confirm(list(self.holds))

    # Time.

    @rule()
    def turn(self) -> None:
        self.turns.run()

    @rule(steps=st.sampled_from((1, 2, 5, 12, 20)), answering=st.booleans())
    def pass_time(self, steps: int, answering: bool) -> None:
        for _ in range(steps):
            self.turns.run()
            self.nats.now += STEP
            for copy in [each for each in self.nats.copies if each.at + LATEST <= self.nats.now]:
                self.nats.deliver(self.nats.copies.index(copy))
            self.topics.tick()
            self.interests.tick()
            if answering:
                self.answer()

    @invariant()
    def nothing_owed_was_thrown_away(self) -> None:
        """What is owed and did not come is still on its way."""
        if hasattr(self, "nats"):
            lost = self.owed.keys() - {copy.payload for copy in self.nats.copies}
            assert not lost, f"never to come: {lost}"

    def teardown(self) -> None:
        """At rest each type is subscribed one way, and not at all when nobody wants it."""
        if not self.nats.is_up:
            self.reconnect()
        self.confirm(self.holds)  # some were told that it takes too long
        self.pass_time(int(REST / STEP), answering=True)
        assert not self.owed
        resources = {hold.resource for hold in self.holds}
        expected = [ANY] if ANY in resources else sorted(resources)
        assert self.nats.subjects == [f"live.*.topic.{TYPE}.{each}" for each in expected]
        for hold in self.holds:
            assert hold.confirmed
            self.topics.release(TYPE, hold.resource)
        self.holds.clear()
        self.pass_time(int(REST / STEP), answering=True)
        assert self.nats.subjects == []
        assert len(self.interests) == 0
        assert not self.nats.receivers


TestSwitching = Switching.TestCase
TestSwitching.settings = settings(max_examples=150, stateful_step_count=40)
