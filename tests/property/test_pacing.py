"""Pace: never faster than was asked, and what comes is the newest of each resource."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.delivery.pacing import Pace, Paces
from tests.support.kinds import CONFLATED

RATES = (0.01, 0.3, 1, 2, 5, 7.5, 60, 1000)
TOLERANCE = 1e-6

arrivals = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.001, 0.05, 0.2, 0.7, 1.3, 5.0]),
        st.sampled_from("abcd"),
        st.sampled_from([0.0, 0.0, 0.01, 0.4]),
    ),
    max_size=60,
)
"""Seconds since the one before, the resource, and how late the timer is by then."""

Sent = list[tuple[float, str, int]]
"""When, the resource, and the number of the event."""


class Driver:
    """A pace, and the timer that comes back when its next event is due."""

    def __init__(self, rate: float) -> None:
        self.paces = Paces({CONFLATED.traits.type: Pace(rate)})
        self.pace = self.paces[CONFLATED.traits.type]
        self.sent: Sent = []
        self.replaced: set[int] = set()
        self.waiting: dict[str, int] = {}
        self.numbers: dict[bytes, int] = {}

    def event(self, now: float, resource: str, number: int) -> None:
        """An event comes in."""
        frame = b"frame %d" % number
        self.numbers[frame] = number
        if self.pace.lets_through(now):
            self.sent.append((now, resource, number))
        elif self.pace.keep(CONFLATED, resource, frame):
            self.replaced.add(self.waiting[resource])
            self.waiting[resource] = number
        else:
            self.waiting[resource] = number

    def wake(self, until: float, late: float) -> None:
        """Let the timer come for all that is due by then, so late each time."""
        while (due := self.paces.due()) is not None and due + late <= until:
            for kind, resource, frame in self.paces.release(due + late):
                assert kind is CONFLATED
                assert self.waiting.pop(resource) == self.numbers[frame]
                self.sent.append((due + late, resource, self.numbers[frame]))


@given(st.sampled_from(RATES), arrivals)
def test_no_window_of_a_second_has_more_than_was_asked(
    rate: float, steps: list[tuple[float, str, float]]
) -> None:
    """Wherever it begins; nothing is lost but what a newer one replaced, the newest comes last,
    and nothing waits for longer than its turn.
    """
    driver, now = Driver(rate), 0.0
    newest: dict[str, int] = {}
    for number, (pause, resource, late) in enumerate(steps):
        now += pause
        driver.wake(now, late)
        driver.event(now, resource, number)
        newest[resource] = number
    driver.wake(math.inf, 0.0)
    assert driver.paces.due() is None
    times = [at for at, _, _ in driver.sent]
    assert times == sorted(times)
    for at in times:
        inside = [each for each in times if at <= each < at + 1 - TOLERANCE]
        assert len(inside) <= max(1, math.ceil(rate))
    came = {number for _, _, number in driver.sent}
    assert len(came) == len(driver.sent)
    assert came.isdisjoint(driver.replaced)
    assert came | driver.replaced == set(range(len(steps)))
    assert {resource: number for _, resource, number in driver.sent} == newest


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 5))
def test_what_waits_is_bounded_and_the_oldest_goes(resources: list[str], most: int) -> None:
    """Over the bound one goes for each that comes; whoever asks is told."""
    pace, shed, kept = Pace(1), 0, 0
    assert pace.lets_through(0)
    for resource in resources:
        kept += not pace.keep(CONFLATED, resource, resource.encode())
        shed += pace.shed(most)
    left = [frame for _, _, frame in pace.rest()]
    assert len(left) == kept - shed <= most
    assert list(pace.rest()) == []
    if resources:
        assert resources[-1].encode() in left
