"""Summed log lines: few of each kind, and nothing that peers do makes them many or long."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from natsbridge.bridge.telemetry.lines import (
    INTERVAL,
    MAX_BLOCKS,
    MAX_KINDS,
    MAX_TEXT,
    Lines,
    Tally,
    cut,
)

LOGGER = logging.getLogger("natsbridge.test.lines")


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def at_info() -> Iterator[None]:
    """Lines of the level info are written."""
    LOGGER.setLevel(logging.INFO)
    yield
    LOGGER.setLevel(logging.NOTSET)


def make(rate: int = 3) -> tuple[Lines, Time]:
    time = Time()
    return Lines(LOGGER, rate=rate, clock=time), time


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_few_lines_are_written_as_they_come(caplog: pytest.LogCaptureFixture) -> None:
    """Up to the rate each line stands alone, with its fields, and nothing is summed up."""
    lines, time = make()
    for number in range(6):
        lines.say(logging.INFO, "seen", lambda n=number: {"n": n})
        time.now += 0.5
    lines.flush()
    assert messages(caplog) == ["seen"] * 6
    assert [vars(record)["n"] for record in caplog.records] == list(range(6))


def test_a_flood_is_one_line_in_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    """What is over the rate comes as a count, with the addresses that did it most and a sample."""
    lines, time = make()
    for number in range(1000):
        lines.say(
            logging.WARNING,
            "refused",
            lambda n=number: {"n": n},
            address="10.0.0.1" if number % 4 else "2001:db8::1",
        )
    lines.tick()
    assert messages(caplog) == ["refused"] * 3
    time.now += INTERVAL
    lines.tick()
    lines.tick()
    assert messages(caplog) == ["refused"] * 3 + ["refused (997 more)"]
    told = vars(caplog.records[-1])
    assert (told["count"], told["seconds"], told["n"]) == (997, INTERVAL, 3)
    assert list(told["addresses"]) == ["10.0.0.1", "2001:db8::/64"]
    assert sum(told["addresses"].values()) == 997
    assert caplog.records[-1].levelno == logging.WARNING


def test_one_kind_does_not_hide_another(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of one kind leaves the first line of another to be written."""
    lines, _ = make()
    for _ in range(100):
        lines.say(logging.INFO, "closed", dict, kind="1006")
    lines.say(logging.INFO, "closed", lambda: {"rare": True}, kind="1011")
    assert vars(caplog.records[-1])["rare"]


def test_fields_are_made_only_for_what_is_written() -> None:
    """A line that is under the level, or one of many, costs no formatting."""
    lines, _ = make(rate=1)
    made: list[int] = []

    def fields() -> dict[str, Any]:
        made.append(1)
        return {}

    lines.say(logging.DEBUG, "quiet", fields)
    assert not made
    for _ in range(50):
        lines.say(logging.INFO, "many", fields)
    assert len(made) == 2  # the line, and the sample


def test_memory_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Kinds and addresses without end are told together from a bound on."""
    lines, time = make(rate=1)
    for number in range(3 * MAX_KINDS):
        for _ in range(2):
            lines.say(logging.INFO, "m", dict, kind=str(number), address="a")
    for number in range(3 * MAX_BLOCKS):
        lines.say(logging.INFO, "m", dict, kind="0", address=f"10.0.{number >> 8}.{number & 255}")
    assert len(lines._kinds) <= MAX_KINDS + 1
    assert all(len(each.blocks) <= MAX_BLOCKS + 1 for each in lines._kinds.values())
    before = len(caplog.records)
    time.now += INTERVAL
    lines.tick()
    assert len(caplog.records) - before <= MAX_KINDS + 1


def test_a_tally_keeps_to_its_bound() -> None:
    """Keys beyond the bound count as one."""
    tally = Tally(("other", "other"), most=2)
    for key in (("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("a", "1")):
        tally.add(key)
    assert dict(tally) == {("a", "1"): 2, ("b", "1"): 1, ("other", "other"): 2}


def test_a_peers_text_is_cut() -> None:
    """What a line repeats of a peer is its beginning."""
    assert cut("short") == "short"
    assert len(cut("x" * 10_000)) == MAX_TEXT
