"""The states of a session and the only ways between them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a session is in its life."""

    AWAITING = auto()
    """Upgraded without a token: a first message must bring it."""
    CONFIRMING = auto()
    """Known who it is; NATS has not confirmed the user's interest yet."""
    OPEN = auto()
    """``connection.established`` was sent."""
    CLOSED = auto()
    """A close was begun by either side; nothing is delivered or handled any more."""


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.AWAITING: frozenset({State.CONFIRMING, State.CLOSED}),
    State.CONFIRMING: frozenset({State.OPEN, State.CLOSED}),
    State.OPEN: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


def advance(now: State, then: State) -> State:
    """Return ``then``; a way that is not in the table is a fault of ours."""
    if then not in TRANSITIONS[now]:
        raise AssertionError(f"a session can't go from {now.name} to {then.name}")
    return then
