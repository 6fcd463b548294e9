"""How many units (subscriptions at NATS, at the most) each user may come to.

A unit counts while it is held, and for a while after that: it lingers at NATS, and a client that
subscribes and unsubscribes by turns would else come to any number of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

STEPS: Final = 32
"""Into how many parts the window is divided; what was given back within one is counted together."""


class _Account:
    __slots__ = ("held", "released")

    def __init__(self) -> None:
        self.held = 0
        self.released: deque[list[float]] | None = None
        """When, and how many."""


class Units:
    """The units of each user, over all of its connections to this process."""

    def __init__(self, most: int, window: float, clock: Callable[[], float]) -> None:
        """``window`` is for how many seconds what was given back still counts."""
        self._most: Final = most
        self._window: Final = window
        self._clock: Final = clock
        self._accounts: Final[dict[str, _Account]] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def counted(self, user: str) -> int:
        """Return how many this user has now: held, or given back a short while ago."""
        account = self._accounts.get(user)
        if account is None:
            return 0
        self._forget(account)
        return account.held + int(sum(count for _, count in account.released or ()))

    def left(self, user: str) -> int:
        """Return how many more this user may hold."""
        return max(0, self._most - self.counted(user))

    def change(self, user: str, held: int, released: int) -> None:
        """So many more are held, and so many were given back."""
        if not held and not released:
            return
        account = self._accounts.get(user)
        if account is None:
            account = self._accounts[user] = _Account()
        account.held += held - released
        if released:
            now = self._clock()
            if account.released is None:
                account.released = deque()
            self._forget(account)
            if account.released and now - account.released[-1][0] < self._window / STEPS:
                account.released[-1][1] += released
            else:
                account.released.append([now, released])

    def sweep(self) -> None:
        """Forget users that have none."""
        for account in self._accounts.values():
            self._forget(account)
        for user in [
            user for user, each in self._accounts.items() if not each.held and not each.released
        ]:
            del self._accounts[user]

    def _forget(self, account: _Account) -> None:
        # A step late rather than early: the first of a step counts for as long as the last.
        over = self._clock() - self._window * (1 + 1 / STEPS)
        while account.released and account.released[0][0] <= over:
            account.released.popleft()
