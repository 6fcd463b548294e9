"""The parts of the sample services that need no broker."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsbridge.publishers.samples.service import SampleSettings, deck
from natsbridge.schemas.bus import SettingsError


@given(st.lists(st.integers(), min_size=1, max_size=8), st.integers(1, 5))
def test_a_deck_deals_each_card_in_its_share(cards: list[int], rounds: int) -> None:
    """After each full round every outcome has come as often as the deck has it."""
    dealt = list(itertools.islice(deck(cards), len(cards) * rounds))
    expected = Counter(cards)
    assert Counter(dealt) == Counter({card: n * rounds for card, n in expected.items()})


def test_sample_settings_have_defaults_and_name_what_is_wrong() -> None:
    """A demo needs no configuration, and a wrong one is told by name."""
    assert SampleSettings.from_environment({}).users == ("42", "43")
    assert SampleSettings.from_environment({"SAMPLE_USERS": "a, b"}).users == ("a", "b")
    with pytest.raises(SettingsError, match="SAMPLE_INTERVAL"):
        SampleSettings.from_environment({"SAMPLE_INTERVAL": "-1"})
    with pytest.raises(SettingsError, match="SAMPLE_USERS"):
        SampleSettings.from_environment({"SAMPLE_USERS": " , "})
