"""What is said of a connection that goes away: a line, seldom another, and one when it is back."""

from __future__ import annotations

import logging

import pytest

from natsbridge.bridge.telemetry.outage import FIRST_REMINDER, MAX_TROUBLES, REMINDER, Outage

LOG = logging.getLogger("natsbridge.test.outage")


class Time:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def outage(time: Time, caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.INFO, LOG.name)
    return Outage(LOG, "NATS", time)


def test_an_hour_away_is_about_sixty_lines(
    outage: Outage, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """A try a second for an hour: when it went, reminders a minute apart, when it was back."""
    outage.began()
    for _ in range(3600):
        time.now += 1
        outage.failed("connection refused")
    outage.ended()
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "NATS: disconnected"
    assert told[-1] == "NATS: connected again"
    assert set(told[1:-1]) == {"NATS: still disconnected"}
    assert len(told) - 2 == 1 + (3600 - FIRST_REMINDER) // REMINDER
    last = vars(caplog.records[-1])
    assert (last["seconds"], last["tries"], last["error"]) == (3600, 3600, "connection refused")


def test_a_short_break_is_two_lines(
    outage: Outage, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Back within seconds: that it went, and that it is back."""
    outage.began()
    time.now += 1
    outage.failed("connection refused")
    time.now += 1
    outage.ended()
    assert len(caplog.records) == 2


def test_the_same_trouble_is_told_once_a_minute(
    outage: Outage, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal each second is a line a minute that says how often it came; another one is told."""
    for _ in range(120):
        outage.trouble("Permissions Violation for Subscription to live.x")
        time.now += 1
    outage.trouble("slow consumer")
    told = [vars(record) for record in caplog.records]
    assert [each["error"][:4] for each in told] == ["Perm", "Perm", "slow"]
    assert [each["repeated"] for each in told] == [None, 59, None]


def test_troubles_without_end_are_bounded(outage: Outage) -> None:
    """Of ever new troubles a bounded number is remembered."""
    for number in range(10 * MAX_TROUBLES):
        outage.trouble(f"{number} " + "x" * 10_000)
    assert len(outage._troubles) <= MAX_TROUBLES
    assert all(len(each) <= 256 for each in outage._troubles)
