"""What each user may have done for it in a while: a budget that fills up again as time passes.

Nothing is refused by it. Who has spent all of it waits until there is some again, and what costs
more than is left is paid for afterwards, so that nothing has to be known before it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LIGHT: Final = 0.9
"""What is left, as a share of all, of those who have spent little."""


class Budget:
    """The budget of each key: ``most`` at once, and as much again in each ``window`` seconds."""

    def __init__(self, most: int, window: float, clock: Callable[[], float]) -> None:
        self._most: Final = most
        self._rate: Final = most / window
        self._clock: Final = clock
        self.on_heavy: Callable[[], None] = lambda: None
        """Told when somebody has no longer spent little."""
        self._left: Final[dict[str, tuple[float, float]]] = {}
        """What was left, and when; without the keys that have everything."""

    def __len__(self) -> int:
        return len(self._left)

    def left(self, key: str) -> float:
        """Return what this one may spend now; below zero where it has to wait."""
        found = self._left.get(key)
        if found is None:
            return self._most
        left, at = found
        return min(self._most, left + (self._clock() - at) * self._rate)

    def is_light(self, key: str) -> bool:
        """Whether this one has spent little of late."""
        return self.left(key) >= LIGHT * self._most

    def spend(self, key: str, cost: float) -> None:
        """Take this off, also where there is less."""
        was_light = self.is_light(key)
        self._left[key] = (self.left(key) - cost, self._clock())
        if was_light and not self.is_light(key):
            self.on_heavy()

    def wait(self, key: str) -> float:
        """Return after how many seconds there will be something to spend; 0 where there is."""
        left = self.left(key)
        return 0.0 if left > 0 else (1 - left) / self._rate

    def sweep(self) -> None:
        """Forget those who have everything again."""
        for key in [key for key in self._left if self.left(key) >= self._most]:
            del self._left[key]
