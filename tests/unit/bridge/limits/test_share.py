"""The share of a loop iteration that client messages have."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from natsbridge.bridge.limits.share import Share


class Loop:
    """Iterations that a test steps through; each call takes as long as it says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []
        self.is_behind = False
        self.made: list[str] = []

    def step(self) -> None:
        """Make what was to be made soon."""
        soon, self.soon = self.soon, []
        for call in soon:
            call()

    def call(self, name: str, seconds: float = 0.0) -> Callable[[], None]:
        """Return a call that takes so long."""

        def call() -> None:
            self.made.append(name)
            self.now += seconds

        return call


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def share(loop: Loop) -> Share:
    return Share(
        lambda call: loop.soon.append(call),
        lambda _, call: loop.later.append(call),
        is_behind=lambda: loop.is_behind,
        most=0.005,
        timer=lambda: loop.now,
    )


def test_what_is_over_the_share_waits_for_the_next_iteration(loop: Loop, share: Share) -> None:
    """The call that goes over it is the last; the others come in their order, a share at a time."""
    for name, seconds in (("a", 0.003), ("b", 0.004), ("c", 0.006), ("d", 0.001), ("e", 0.0)):
        share.run(loop.call(name, seconds))
    assert (loop.made, share.waiting, share.is_free) == (["a", "b"], 3, False)
    loop.step()
    assert loop.made == ["a", "b", "c"]
    loop.step()
    assert loop.made == ["a", "b", "c", "d", "e"]
    loop.step()
    assert share.is_free
    assert not loop.soon


def test_heavy_calls_wait_behind_the_others(loop: Loop, share: Share) -> None:
    """What one takes beyond the share is left to others before the next heavy one."""
    share.run(loop.call("heavy", 0.020), heavy=True)
    share.run(loop.call("next heavy"), heavy=True)
    share.run(loop.call("light"))
    loop.step()
    assert loop.made == ["light", "heavy"]
    for _ in range(2):
        share.run(loop.call("light"))
        loop.step()
    assert "next heavy" not in loop.made
    loop.step()
    assert loop.made[-1] == "next heavy"


def test_nothing_heavy_is_begun_while_others_are_behind(loop: Loop, share: Share) -> None:
    """It is looked again a little later; what is light goes on."""
    loop.is_behind = True
    share.run(loop.call("heavy"), heavy=True)
    loop.step()
    assert (loop.made, len(loop.later)) == ([], 1)
    share.run(loop.call("light"))
    assert loop.made == ["light"]
    loop.is_behind = False
    loop.later.pop()()
    assert loop.made == ["light", "heavy"]


def test_what_is_asked_for_amid_a_call_comes_after_it(loop: Loop, share: Share) -> None:
    """In the same iteration or in the next, never inside: no depth of calls can be asked for."""

    def outer() -> None:
        share.run(loop.call("inner"))
        loop.made.append("outer")

    share.run(outer)
    loop.step()
    assert loop.made == ["outer", "inner"]


def test_a_fault_keeps_nobody_waiting(
    loop: Loop, share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next has its turn."""
    with caplog.at_level(logging.CRITICAL, "natsbridge.bridge.limits.share"):
        share.run(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        share.run(loop.call("next"))
        loop.step()
    assert loop.made == ["next"]
