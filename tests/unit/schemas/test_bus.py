"""The settings of the bus: what they take, and what nats-py is given of them."""

from __future__ import annotations

import pytest

from natsbridge.schemas.bus import BusSettings, SettingsError


def test_answers_come_to_the_inbox_prefix_that_is_set() -> None:
    """It is nats-py's default unless ``BRIDGE_NATS_INBOX_PREFIX`` names another."""
    assert BusSettings().connect_options()["inbox_prefix"] == "_INBOX"
    settings = BusSettings.from_environment({"BRIDGE_NATS_INBOX_PREFIX": "_INBOX_a.b-1"})
    assert settings.connect_options()["inbox_prefix"] == "_INBOX_a.b-1"


@pytest.mark.parametrize("prefix", ["a.", ".a", "a..b", "*", "a.>", "a b", "é", "a\n", "x" * 65])
def test_an_inbox_prefix_that_is_no_subject_is_refused(prefix: str) -> None:
    """The error names the variable: no wildcard, no empty token, nothing that is not plain."""
    with pytest.raises(SettingsError, match="BRIDGE_NATS_INBOX_PREFIX"):
        BusSettings.from_environment({"BRIDGE_NATS_INBOX_PREFIX": prefix})
