"""Every session of this process: by id, and by user in the order of connecting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.sessions.states import State

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.session import Session

MAX_WAITING: Final = 16
"""Connections of one user beside those that it may have, while they wait to be opened."""


class Registry:
    """Who is connected, and the limits on how many."""

    def __init__(self, *, max_connections: int, max_per_user: int) -> None:
        self._max_connections: Final = max_connections
        self._max_per_user: Final = max_per_user
        self._by_id: Final[dict[str, Session]] = {}
        self._identified = 0
        self._by_user: Final[dict[str, dict[str, Session]]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_id.values()))

    @property
    def is_full(self) -> bool:
        """Whether one more connection is over the limit of this process."""
        return len(self._by_id) >= self._max_connections

    @property
    def is_crowded(self) -> bool:
        """Whether too many of the places are taken by connections that have not said who they are.

        A quarter is theirs, so that nobody keeps the known ones out without a token.
        """
        return len(self._by_id) - self._identified >= max(1, self._max_connections // 4)

    def add(self, session: Session) -> None:
        """Count a connection, known or not."""
        self._by_id[session.id] = session

    def identify(self, session: Session, user_id: str) -> list[Session]:
        """Count it among its user's; return those that wait to be opened and are too many, oldest
        first. Nobody who is open goes for one that may never be.
        """
        self._identified += 1
        mine = self._by_user.setdefault(user_id, {})
        mine[session.id] = session
        most = self._max_per_user + MAX_WAITING
        if len(mine) <= most:
            return []
        waiting = [each for each in mine.values() if each.state is not State.OPEN]
        return waiting[: len(mine) - most]

    def over(self, user_id: str) -> list[Session]:
        """Return a user's open connections that are over its limit, oldest first."""
        mine = self._by_user.get(user_id, {})
        if len(mine) <= self._max_per_user:
            return []
        opened = [each for each in mine.values() if each.state is State.OPEN]
        return opened[: max(0, len(opened) - self._max_per_user)]

    def remove(self, session: Session, user_id: str | None) -> None:
        """Forget a connection; safe to call twice."""
        self._by_id.pop(session.id, None)
        mine = {} if user_id is None else self._by_user.get(user_id, {})
        if mine.pop(session.id, None) is not None:
            self._identified -= 1
            if not mine:
                del self._by_user[user_id]  # type: ignore[arg-type]  # it was found by it

    def get(self, connection_id: str) -> Session | None:
        """Return the connection with this id, or None."""
        return self._by_id.get(connection_id)

    def of_user(self, user_id: str) -> list[Session]:
        """Return a user's connections, oldest first."""
        return list(self._by_user.get(user_id, {}).values())

    def count_of(self, user_id: str) -> int:
        """Return how many connections a user has."""
        return len(self._by_user.get(user_id, ()))

    @property
    def users(self) -> int:
        """How many users have connections."""
        return len(self._by_user)

    def per_user(self) -> dict[str, int]:
        """Return how many connections each user has."""
        return {user: len(sessions) for user, sessions in self._by_user.items()}
