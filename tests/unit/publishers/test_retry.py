"""How long the publisher waits between two attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.publishers.retry import FIRST, LONGEST, TRIES, patience, pause

CHANCES = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10**9), CHANCES)
def test_a_pause_is_bounded_and_never_nothing(failures: int, chance: float) -> None:
    """However long an outage lasts, the next attempt comes, and attempts do not spin."""
    assert FIRST / 2 <= pause(failures, chance) <= LONGEST


@given(st.integers(1, 1000), CHANCES)
def test_pauses_grow_with_failures(failures: int, chance: float) -> None:
    """With the same chance no later pause is shorter."""
    assert pause(failures, chance) <= pause(failures + 1, chance)


@given(st.integers(1, 1000))
def test_chance_spreads_over_half_of_what_is_allowed(failures: int) -> None:
    """Publishers that failed together do not all come back at the same moment."""
    shortest, longest = pause(failures, 0), pause(failures, 1)
    assert shortest == longest / 2


@given(st.floats(0.01, 60), st.floats(0.01, 100))
def test_there_is_time_for_another_attempt(timeout: float, deadline: float) -> None:
    """One lost acknowledgement does not use up the deadline."""
    assert 0 < patience(timeout, deadline) <= min(timeout, deadline / TRIES)
