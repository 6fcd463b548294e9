"""Revocations: users whose tokens, up to a moment, are no longer good.

Synchronous and in memory; each replica learns of a revocation over the control subjects and keeps
it as long as a token that it concerns could live.
"""

from __future__ import annotations

from typing import Final

from natsbridge.bridge.identity.tokens import Identity

MAX_AGE: Final = 24 * 3600.0
"""How long a revocation is kept by default (seconds); tokens that live longer outlive it."""

CAPACITY: Final = 100_000


class Revocations:
    """Which users were revoked, and when."""

    __slots__ = ("_capacity", "_max_age", "_users", "forgotten")

    def __init__(self, capacity: int = CAPACITY, max_age: float = MAX_AGE) -> None:
        """Keep at most ``capacity`` users, each for ``max_age`` seconds."""
        self._capacity: Final = capacity
        self._max_age: Final = max_age
        # In the order of revocation: the oldest first.
        self._users: Final[dict[str, float]] = {}
        self.forgotten = 0
        """How many were forgotten before their time, for want of room."""

    def __len__(self) -> int:
        return len(self._users)

    def revoke(self, user: str, now: float) -> bool:
        """Refuse the tokens issued to this user (a subject token) up to ``now`` (Unix seconds).

        A full memory forgets its oldest revocation, whose tokens are the likeliest to have expired
        by themselves; the answer is then False, for the caller to log.
        """
        self.purge(now)
        earlier = self._users.pop(user, now)
        room = len(self._users) < self._capacity
        if not room:
            del self._users[next(iter(self._users))]
            self.forgotten += 1
        self._users[user] = max(earlier, now)
        return room

    def is_revoked(self, identity: Identity) -> bool:
        """Whether this token was issued no later than its user was revoked.

        A token without ``iat`` is: nothing shows that it is newer. ``iat`` is mostly in whole
        seconds, so one issued in the second of the revocation, but after it, is refused too.
        """
        revoked_at = self._users.get(identity.user)
        if revoked_at is None:
            return False
        return identity.issued_at is None or identity.issued_at <= revoked_at

    def purge(self, now: float) -> int:
        """Forget the revocations older than the maximal age; returns how many."""
        horizon = now - self._max_age
        old = []
        for user, revoked_at in self._users.items():
            if revoked_at > horizon:
                break
            old.append(user)
        for user in old:
            del self._users[user]
        return len(old)
