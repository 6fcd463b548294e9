"""Paces of a connection: each type its own, what waits comes in the order of its resources."""

from __future__ import annotations

import pytest

from natsbridge.bridge.delivery.pacing import Pace, Paces
from tests.support.kinds import CONFLATED


def test_the_first_event_goes_at_once_and_the_next_ones_wait() -> None:
    """Five a second are one each 200 ms; the newest of those that came meanwhile."""
    pace = Pace(5)
    assert pace.due is None
    assert pace.lets_through(10.0)
    assert not pace.lets_through(10.1)
    assert not pace.keep(CONFLATED, "7", b"1")
    assert pace.keep(CONFLATED, "7", b"2")
    assert pace.due == pytest.approx(10.2)
    assert pace.release(10.19) is None
    assert pace.release(10.21) == (CONFLATED, "7", b"2")
    assert pace.due is None


def test_resources_take_turns() -> None:
    """What waited first goes first; a newer event of a resource keeps that one's turn."""
    pace = Pace(1)
    pace.lets_through(0)
    for resource, frame in (("a", b"a1"), ("b", b"b1"), ("a", b"a2")):
        pace.keep(CONFLATED, resource, frame)
    assert pace.release(1) == (CONFLATED, "a", b"a2")
    assert pace.release(1.5) is None
    assert pace.release(2) == (CONFLATED, "b", b"b1")


def test_nothing_overtakes_what_waits() -> None:
    """While something waits, an event that comes late enough to go at once waits behind it."""
    pace = Pace(1)
    pace.lets_through(0)
    pace.keep(CONFLATED, "a", b"a1")
    assert not pace.lets_through(5)


def test_each_type_has_a_pace_of_its_own() -> None:
    """The earliest of all is when to come back, and each gives what is due then."""
    paces = Paces({"slow": Pace(0.5), "fast": Pace(10)})
    assert paces.due() is None
    for name, pace in paces.items():
        pace.lets_through(0)
        pace.keep(CONFLATED, name, name.encode())
    assert paces.due() == pytest.approx(0.1)
    assert [frame for _, _, frame in paces.release(0.2)] == [b"fast"]
    assert paces.due() == pytest.approx(2)
    assert [frame for _, _, frame in paces.release(3)] == [b"slow"]


def test_without_its_pace_all_that_waits_comes() -> None:
    """Once, in the order in which it waited."""
    pace = Pace(1)
    pace.lets_through(0)
    for resource in "cab":
        pace.keep(CONFLATED, resource, resource.encode())
    assert [frame for _, _, frame in pace.rest()] == [b"c", b"a", b"b"]
    assert pace.due is None


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    """The oldest goes first; what was replaced or released counts no more."""
    pace = Pace(1)
    pace.lets_through(0)
    for resource in "abc":
        pace.keep(CONFLATED, resource, b"x" * 40)
    pace.keep(CONFLATED, "c", b"x" * 20)
    assert not pace.shed(3, 100)
    assert pace.shed(2, 100)
    assert not pace.shed(2, 60)
    assert pace.shed(2, 59)
    assert pace.release(1) == (CONFLATED, "c", b"x" * 20)
    pace.keep(CONFLATED, "d", b"x" * 60)
    assert not pace.shed(2, 60)
