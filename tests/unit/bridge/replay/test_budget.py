"""How much of the process all replays may take together."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.replay.budget import Turns


@dataclass(eq=False)
class Reader:
    """A replay that stands somewhere."""

    needs: int


@given(needs=st.lists(st.integers(-1, 20)), low=st.integers(0, 20))
def test_what_is_needed_is_the_lowest_place_that_is_not_behind(needs: list[int], low: int) -> None:
    """One that is further back, or does not know yet, reads from elsewhere: it keeps nothing."""
    turns = Turns()
    turns.under_way.update(map(Reader, needs))
    assert turns.needed(low) == min((each for each in needs if each >= low), default=sys.maxsize)
