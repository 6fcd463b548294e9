"""The states of a session: the table, and nothing beside it."""

from __future__ import annotations

import itertools

import pytest

from natsbridge.bridge.sessions.states import TRANSITIONS, State, advance

ALLOWED = {
    (State.AWAITING, State.CONFIRMING),
    (State.AWAITING, State.CLOSED),
    (State.CONFIRMING, State.OPEN),
    (State.CONFIRMING, State.CLOSED),
    (State.OPEN, State.CLOSED),
}


@pytest.mark.parametrize(("now", "then"), list(itertools.product(State, State)))
def test_only_the_ways_in_the_table_are_open(now: State, then: State) -> None:
    """Forward and to the end; any other way is a fault of the bridge, and says so."""
    if (now, then) in ALLOWED:
        assert advance(now, then) is then
    else:
        with pytest.raises(AssertionError, match=f"{now.name} to {then.name}"):
            advance(now, then)


def test_every_state_is_in_the_table_and_can_end() -> None:
    """Each state has its row, and CLOSED is reached from all others and never left."""
    assert set(TRANSITIONS) == set(State)
    assert all(State.CLOSED in then for now, then in TRANSITIONS.items() if now != State.CLOSED)
    assert TRANSITIONS[State.CLOSED] == frozenset()
