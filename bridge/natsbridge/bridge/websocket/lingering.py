"""Sockets that were told to go, until they are gone.

Each waits a while for its peer's close frame, and takes a descriptor until then. So that a peer
that comes again and again and never answers takes no more of them than one that stays, the oldest
of an owner that has too many is cut.
"""

from __future__ import annotations

from typing import Final, Protocol

PER_OWNER: Final = 16
"""Sockets of one user, or of one address that no user is known of."""
MOST: Final = 1000
"""Sockets of all, where nothing else is said."""


class Goer(Protocol):
    """One of them."""

    whose: str

    def abort(self) -> None: ...


class Lingering:
    """Who has been told to go, by owner, the oldest first."""

    def __init__(self, most: int = MOST) -> None:
        self._most: Final = most
        self._all: Final[dict[Goer, None]] = {}
        self._by_owner: Final[dict[str, dict[Goer, None]]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, who: Goer) -> None:
        """Count one that was told to go; ``whose`` it is may not change any more."""
        mine = self._by_owner.setdefault(who.whose, {})
        mine[who] = self._all[who] = None
        if len(mine) > PER_OWNER:
            self._cut(next(iter(mine)))
        elif len(self._all) > self._most:
            self._cut(next(iter(self._all)))

    def leave(self, who: Goer) -> None:
        """Forget one; safe for one that was never told."""
        if who in self._all:
            del self._all[who]
            mine = self._by_owner[who.whose]
            del mine[who]
            if not mine:
                del self._by_owner[who.whose]

    def make_room(self) -> bool:
        """Cut the oldest; False where there is none."""
        for who in self._all:
            self._cut(who)
            return True
        return False

    def _cut(self, who: Goer) -> None:
        self.leave(who)
        who.abort()
