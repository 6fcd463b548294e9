"""The comparison of clocks: what it makes of answers, and when it speaks."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from natsbridge.bridge.nats.clock import ClockComparison


def at(seconds: float) -> str:
    """Return this Unix time as JetStream writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"


@pytest.mark.parametrize(
    ("there", "asked", "answered", "behind", "words"),
    [
        (1000.0, 999.9, 1000.1, 0.0, ""),
        (1000.0, 995.0, 1010.0, 0.0, ""),  # a slow answer proves nothing
        (1100.0, 999.9, 1000.0, 100.0, "behind NATS by 100 s"),
        (900.0, 1000.0, 1000.1, -100.0, "ahead of NATS by 100 s"),
        (1001.5, 999.9, 1000.0, 1.5, ""),
    ],
)
def test_only_what_is_certain_counts(
    there: float, asked: float, answered: float, behind: float, words: str
) -> None:
    """The time that the answer was under way is nobody's fault."""
    clock = ClockComparison()
    clock.seen(at(there), asked, answered)
    assert clock.behind == pytest.approx(behind, abs=0.001)
    assert clock.words == words


def test_a_difference_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """Not with each answer: there is one a second."""
    caplog.set_level(logging.INFO)
    clock = ClockComparison()
    for now in (0, 100, 101, 102, 0, 0):
        clock.seen(at(1000.0 + now), 1000.0, 1000.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "behind NATS by 100 s" in caplog.text


@pytest.mark.parametrize("stamp", [None, 5, "", "soon", "99999-01-01T00:00:00Z"])
def test_an_answer_without_a_time_says_nothing(stamp: object) -> None:
    """Older servers send none."""
    clock = ClockComparison()
    clock.seen(stamp, 0.0, 0.0)
    assert clock.behind is None
    assert clock.words == ""
