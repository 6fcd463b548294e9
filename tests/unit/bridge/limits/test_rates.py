"""Rates: the exact sliding window, against a model that keeps every hit for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.limits.rates import SlidingWindow, steady_clock

WINDOW = 10.0

# Eighths are exact as floats, so that a hit exactly one window old does occur.
steps = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")),
        st.integers(0, 40).map(lambda eighths: eighths / 8),
        st.sampled_from(("allow", "record", "sweep")),
    ),
    max_size=80,
)


@given(st.integers(1, 5), steps)
def test_the_window_is_exact(limit: int, given_steps: list[tuple[str, float, str]]) -> None:
    """Allowed is what leaves no window with more hits than the limit, whatever was swept before."""
    window = SlidingWindow(limit, WINDOW)
    recorded: dict[str, list[float]] = {}
    now = 1000.0
    for key, passed, call in given_steps:
        now += passed
        hits = recorded.setdefault(key, [])
        fresh = [hit for hit in hits if hit > now - WINDOW]
        full = len(fresh) >= limit
        assert window.exceeded(key, now) is full
        if call == "allow":
            assert window.allow(key, now) is not full
            if not full:
                hits.append(now)
        elif call == "record":
            window.record(key, now)
            hits.append(now)
        else:
            window.sweep(now)
            assert all(any(hit > now - WINDOW for hit in recorded[k]) for k in window._hits)
        if full and call == "allow":
            # At the limit, the reset is when the hit that fills the window is over.
            reset = window.reset_time(key)
            assert reset == fresh[-limit] + WINDOW
            assert not window.exceeded(key, reset)


def test_the_seed_s_example() -> None:
    """A hundred in a minute; the next when the oldest is over; a refused one costs nothing."""
    window = SlidingWindow(100, 60)
    assert all(window.allow("user", float(second)) for second in range(50))
    assert all(window.allow("user", 50.0) for _ in range(50))
    assert not any(window.allow("user", 59.9) for _ in range(1000))
    assert window.reset_time("user") == 60.0
    assert window.allow("user", 60.0)
    assert not window.allow("user", 60.5)
    assert window.allow("user", 61.0)


def test_keys_do_not_share() -> None:
    """One user at the limit leaves the others theirs."""
    window = SlidingWindow(1, WINDOW)
    assert window.allow("a", 0.0)
    assert window.allow("b", 0.0)
    assert not window.allow("a", 0.0)


def test_asking_records_nothing() -> None:
    """Good handshakes ask and never count: only failures are recorded."""
    window = SlidingWindow(1, WINDOW)
    assert not any(window.exceeded("a", 0.0) for _ in range(100))
    assert len(window) == 0
    window.record("a", 0.0)
    assert window.exceeded("a", 0.0)
    assert not window.exceeded("a", WINDOW)


def test_a_key_without_hits_has_no_reset() -> None:
    """So a user who sent nothing is told none."""
    assert SlidingWindow(1, WINDOW).reset_time("a") is None


def test_the_memory_of_a_key_is_bounded() -> None:
    """Failures over the limit replace older ones: at most ``limit`` moments are kept."""
    window = SlidingWindow(3, WINDOW)
    for number in range(1000):
        window.record("a", number / 1000)
    assert len(window._hits["a"]) == 3
    assert window.exceeded("a", 10.99)
    assert not window.exceeded("a", 10.999)


def test_idle_keys_are_swept() -> None:
    """A key goes when its last hit is over, and not before."""
    window = SlidingWindow(5, WINDOW)
    window.record("a", 0.0)
    window.record("b", 1.0)
    window.record("a", 2.0)
    assert window.sweep(10.9) == 0
    assert window.sweep(11.0) == 1
    assert len(window) == 1
    assert window.sweep(12.0) == 1
    assert len(window) == 0


def test_the_number_of_keys_is_bounded() -> None:
    """One key too many makes the idlest one forgotten; it is counted when it had hits to lose."""
    window = SlidingWindow(1, WINDOW, max_keys=2)
    window.record("a", 0.0)
    window.record("b", 1.0)
    window.record("a", 2.0)
    window.record("c", 3.0)
    assert not window.exceeded("b", 3.0)
    assert window.exceeded("a", 3.0)
    assert window.exceeded("c", 3.0)
    assert window.forgotten == 1
    window.record("d", 12.0)
    assert window.forgotten == 1
    assert len(window) == 2


def test_the_clock_never_jumps() -> None:
    """It begins at the wall's time and then follows what passes, whatever the wall does."""
    wall, passed = [1000.0], [5.0]
    clock = steady_clock(lambda: wall[0], lambda: passed[0])
    assert clock() == pytest.approx(1000.0)
    wall[0] = 0.0
    passed[0] = 7.5
    assert clock() == pytest.approx(1002.5)
