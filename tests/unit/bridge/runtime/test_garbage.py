"""When old objects are collected: in a quiet second, after a while at any rate."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from natsbridge.bridge.runtime.garbage import LATEST, SOONEST, TICK, Collector
from tests.support.scripted_peer import ScriptedLoop


class Scene:
    """A collector, and how often it has collected since its start."""

    def __init__(self) -> None:
        self.loop = ScriptedLoop()
        self.done = 0
        self.collected = -1
        self.collector = Collector(self.loop, lambda: self.done, self._collect)  # type: ignore[arg-type]

    def _collect(self) -> int:
        self.collected += 1
        return 0

    def work(self, seconds: float) -> None:
        """Let time pass with something to do in each second of it."""
        for _ in range(int(seconds / TICK)):
            self.done += 1
            self.loop.advance(TICK)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """One that was started; the process's own collector is as before in the end."""
    before = gc.get_threshold()
    scene = Scene()
    scene.collector.start()
    yield scene
    scene.collector.stop()
    gc.unfreeze()
    gc.set_threshold(*before)


def test_it_waits_for_a_quiet_second(scene: Scene) -> None:
    """Not before its time, not while there is something to do, and then once."""
    scene.loop.advance(SOONEST - 2 * TICK)
    assert scene.collected == 0
    scene.work(20 * TICK)
    assert scene.collected == 0
    scene.loop.advance(2 * TICK)
    assert scene.collected == 1
    scene.loop.advance(SOONEST - 5 * TICK)
    assert scene.collected == 1


def test_it_does_not_wait_for_ever(scene: Scene) -> None:
    """A bridge that always has something to do collects all the same, seldom."""
    scene.work(LATEST + 2 * TICK)
    assert scene.collected == 1
    scene.work(LATEST)
    assert scene.collected == 2


def test_it_ends(scene: Scene) -> None:
    """After the stop nothing is due any more."""
    scene.collector.stop()
    scene.collector.stop()
    scene.loop.advance(2 * LATEST)
    assert scene.collected == 0
