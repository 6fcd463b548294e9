"""No log line is written without end, whatever makes it."""

from __future__ import annotations

import logging

from natsbridge.bridge.telemetry.floods import MAX_LINES, Floods


class Time:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def record(message: str, name: str = "natsbridge.bridge.nats.control") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, message, None, None)


def test_a_flood_is_a_few_lines_a_second() -> None:
    """Of a thousand in a second a few are written, and the next one says how many were not."""
    time = Time()
    floods = Floods(3, time)
    assert sum(floods.filter(record("control: %s failed")) for _ in range(1000)) == 3
    assert floods.filter(record("another"))
    time.now += 1
    after = record("control: %s failed")
    assert floods.filter(after)
    assert vars(after)["left_out"] == 997
    last = record("control: %s failed")
    assert floods.filter(last)
    assert "left_out" not in vars(last)


def test_what_administrators_did_is_all_written() -> None:
    """Their lines, and those that are bounded where they are made, pass."""
    floods = Floods(1, Time())
    assert all(floods.filter(record("administrator action", "natsbridge.admin")) for _ in range(50))


def test_messages_without_end_are_bounded() -> None:
    """Ever new messages do not grow the memory of those that came."""
    floods = Floods(1, Time())
    for number in range(5 * MAX_LINES):
        floods.filter(record(f"{number} " + "x" * 5000))
    assert len(floods._lines) <= MAX_LINES
    assert all(len(key[2]) <= 128 for key in floods._lines)
