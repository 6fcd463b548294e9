"""Failed handshakes: who is over the limit, what that costs, and what is taken back."""

from __future__ import annotations

import pytest

from natsbridge.bridge.identity.failures import LOOK_UPS, VERIFICATIONS, WINDOW, Failures
from tests.unit.bridge.identity.conftest import Clock

ADDRESS = "192.0.2.1"


@pytest.fixture
def failures(clock: Clock) -> Failures:
    return Failures(3, clock)


def test_an_address_is_over_after_so_many(failures: Failures, clock: Clock) -> None:
    """Its neighbours are not, but for those of its /64; and it is over for a minute."""
    for _ in range(3):
        assert not failures.exceeded("2001:db8::1")
        assert failures.failed("2001:db8::1")
    assert failures.exceeded("2001:db8::2")
    assert not failures.exceeded("2001:db8:0:1::1")
    assert failures.retry_after("2001:db8::1") == WINDOW
    clock.now += WINDOW
    assert not failures.exceeded("2001:db8::1")


def test_what_was_good_is_taken_back(failures: Failures) -> None:
    """As many as come at once may wait; those that turn out to be good leave no trace."""
    for _ in range(3):
        assert failures.failed(ADDRESS)
    assert not failures.failed(ADDRESS), "over the limit nothing more is counted"
    for _ in range(3):
        failures.forgive(ADDRESS)
    assert not failures.exceeded(ADDRESS)
    assert len(failures) == 0
    failures.forgive(ADDRESS)
    assert len(failures) == 0


def test_what_an_address_over_its_limit_may_cost(failures: Failures, clock: Clock) -> None:
    """So many bad tokens, and tickets, a second; another address's are its own."""
    for _ in range(VERIFICATIONS):
        assert failures.may_verify(ADDRESS)
        failures.verified(ADDRESS)
    assert not failures.may_verify(ADDRESS)
    assert sum(failures.may_look_up(ADDRESS) for _ in range(50)) == LOOK_UPS
    assert failures.may_verify("192.0.2.2")
    assert failures.may_look_up("192.0.2.2")
    clock.now += 1
    assert failures.may_verify(ADDRESS)
    assert failures.may_look_up(ADDRESS)


def test_nothing_is_left_of_it_later(failures: Failures, clock: Clock) -> None:
    """A sweep forgets addresses that have been quiet."""
    failures.failed(ADDRESS)
    clock.now += WINDOW
    failures.sweep()
    assert len(failures) == 0
