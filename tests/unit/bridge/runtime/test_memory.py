"""When memory is given back to the system."""

from __future__ import annotations

from natsbridge.bridge.runtime.memory import MANY, PAUSE, Trimmer


class Scene:
    """Connections and time as a test wants them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        self._count = 0
        self._trimmer = Trimmer(lambda: self._count, lambda: self.now, self._trim)

    def _trim(self) -> None:
        self.done += 1

    def see(self, *counts: int) -> int:
        """Have it look while there are so many connections; returns how often it trimmed."""
        for self._count in counts:
            self._trimmer.tick()
        return self.done


def test_it_is_given_back_when_many_have_gone() -> None:
    """Once half of them have, and not again and again while they come and go."""
    scene = Scene()
    assert scene.see(0, MANY - 1, 0, 5 * MANY, 3 * MANY) == 0
    assert scene.see(MANY) == 1
    assert scene.see(5 * MANY, MANY) == 1
    scene.now += PAUSE
    assert scene.see(MANY) == 2
    assert scene.see(MANY, 0, 0) == 2


def test_the_system_can_be_asked() -> None:
    """Whatever it is: nothing fails."""
    connections = 2 * MANY
    trimmer = Trimmer(lambda: connections, lambda: 1.0)
    trimmer.tick()
    connections = 0
    trimmer.tick()
