"""A budget that fills up as time passes."""

from __future__ import annotations

import pytest

from natsbridge.bridge.limits.budget import Budget


def test_who_has_spent_all_waits_and_others_do_not() -> None:
    """What costs more than is left is paid for by waiting longer."""
    now = 0.0
    budget = Budget(600, 60, lambda: now)
    budget.spend("1", 599)
    assert budget.wait("1") == 0
    budget.spend("1", 101)
    assert budget.left("1") == -100
    assert budget.wait("1") == pytest.approx(10.1)
    assert budget.wait("2") == 0
    now = 10.2
    assert budget.wait("1") == 0


def test_it_is_never_more_than_full_and_then_forgotten() -> None:
    """A user that reads nothing for a window is not remembered."""
    now = 0.0
    budget = Budget(600, 60, lambda: now)
    budget.spend("1", 300)
    now = 20.0
    budget.sweep()
    assert (len(budget), budget.left("1")) == (1, 500)
    now = 1000.0
    assert budget.left("1") == 600
    budget.sweep()
    assert len(budget) == 0


def test_who_has_spent_little_of_late_is_light() -> None:
    """A tenth of the budget, which is told when it is over; and again when that was given back by
    time.
    """
    now, told = 0.0, list[bool]()
    budget = Budget(600, 60, lambda: now)
    budget.on_heavy = lambda: told.append(budget.is_light("1"))
    budget.spend("1", 60)
    assert budget.is_light("1")
    budget.spend("1", 1)
    budget.spend("1", 1)
    assert told == [False]
    assert not budget.is_light("1")
    now = 1.0
    assert budget.is_light("1")
