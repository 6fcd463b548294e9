"""Units: what a user holds, and what it gave back a short while ago."""

from __future__ import annotations

from natsbridge.bridge.limits.units import STEPS, Units

WINDOW = 60.0


class Clock:
    """Seconds that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_held_counts_and_what_was_given_back_for_a_while() -> None:
    """Another user is not touched by it; after the window and a step of it all is left again."""
    clock = Clock()
    units = Units(100, WINDOW, clock)
    units.change("1", 80, 0)
    assert (units.left("1"), units.left("2")) == (20, 100)
    units.change("1", 20, 80)
    assert (units.counted("1"), units.left("1")) == (100, 0)
    clock.now += WINDOW - 1
    assert units.left("1") == 0
    clock.now += 2 + WINDOW / STEPS
    assert (units.counted("1"), units.left("1")) == (20, 80)


def test_more_than_the_limit_is_no_debt() -> None:
    """A setting that was lowered, or grants that came to more: nothing is left, not less."""
    units = Units(10, WINDOW, Clock())
    units.change("1", 50, 0)
    assert units.left("1") == 0


def test_memory_is_bounded_whatever_is_given_back() -> None:
    """A user that changes its subscriptions all the time is a few numbers, and none after it."""
    clock = Clock()
    units = Units(100, WINDOW, clock)
    for _ in range(10_000):
        units.change("1", 1, 1)
        clock.now += 0.1
    released = units._accounts["1"].released
    assert released is not None
    assert len(released) <= STEPS + 2
    units.sweep()
    assert len(units) == 1
    clock.now += 2 * WINDOW
    units.sweep()
    assert len(units) == 0
