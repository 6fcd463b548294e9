"""Tickets: a good token, exchanged for a short-lived word that may stand in a URL.

A ticket is ``<replica>.<secret>``: another replica reads in it whom to ask, and gets the identity
as JSON over the control subjects. Synchronous; held in memory and used once.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge.errors import TicketError
from bridge.identity.grants import ADMIN, GrantPolicy
from bridge.identity.tokens import Identity
from schemas.subjects import encode_id

MAX_TICKET_LENGTH: Final = 128
_SECRET_BYTES: Final = 32
_TICKET: Final = re.compile(r"([A-Za-z0-9_-]{1,64})\.[A-Za-z0-9_-]{43}")


class TicketsExhausted(TicketError):
    """As many tickets wait as may; none was issued, and none was taken from anybody."""


class Tickets:
    """The tickets that one replica issued and that nobody used yet."""

    def __init__(
        self,
        ttl: float,
        capacity: int,
        replica_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``ttl`` is in seconds of ``clock``, which must not go back; at most ``capacity`` wait.

        ``replica_id`` is 1 to 64 characters of ``A-Z a-z 0-9 _ -``; raises :class:`ValueError` for
        another.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", replica_id):
            raise ValueError("a replica id is 1 to 64 characters of A-Z a-z 0-9 _ -")
        self._ttl: Final = ttl
        self._capacity: Final = capacity
        self._replica: Final = replica_id
        self._clock: Final = clock
        # In the order of issue, which is that of expiry, since all live equally long.
        self._waiting: Final[dict[str, tuple[float, Identity]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def issue(self, identity: Identity) -> str:
        """Return a new ticket; raises :class:`TicketsExhausted` at capacity."""
        self.purge()
        if len(self._waiting) >= self._capacity:
            raise TicketsExhausted("too many tickets wait to be used")
        ticket = f"{self._replica}.{secrets.token_urlsafe(_SECRET_BYTES)}"
        self._waiting[ticket] = (self._clock() + self._ttl, identity)
        return ticket

    def redeem(self, ticket: str) -> Identity:
        """Return whom the ticket was issued to, and forget it.

        Raises :class:`TicketError`, with one reason for all, when it is unknown, was used, or is
        too old. That its token has not expired or been revoked since, the caller checks.
        """
        expires_at, identity = self._waiting.pop(ticket, (None, None))
        if expires_at is None or identity is None or expires_at <= self._clock():
            raise TicketError("the ticket is unknown, was used, or is too old")
        return identity

    def purge(self) -> int:
        """Forget the expired ones; returns how many."""
        now = self._clock()
        expired = []
        for ticket, (expires_at, _) in self._waiting.items():
            if expires_at > now:
                break
            expired.append(ticket)
        for ticket in expired:
            del self._waiting[ticket]
        return len(expired)


def owner(ticket: str) -> str:
    """Return the id of the replica that issued a ticket, a plain subject token.

    Raises :class:`TicketError` for what can't be one.
    """
    found = _TICKET.fullmatch(ticket)
    if found is None:
        raise TicketError("the ticket is malformed")
    return found[1]


def identity_to_json(identity: Identity) -> dict[str, Any]:
    """Return an identity as JSON values, its grants whole, to carry it to another replica."""
    return {
        "user_id": identity.user_id,
        "role": identity.role,
        "email": identity.email,
        "name": identity.name,
        "expires_at": identity.expires_at,
        "issued_at": identity.issued_at,
        "token_id": identity.token_id,
        "grants": identity.grants.to_json(),
    }


def identity_from_json(value: Mapping[str, Any], policy: GrantPolicy) -> Identity:
    """Return the identity that :func:`identity_to_json` wrote.

    Raises :class:`TicketError` for anything else. The bus is trusted: no signature is checked.
    """
    try:
        user_id, role = value["user_id"], value["role"]
        return Identity(
            user_id=user_id,
            user=encode_id(user_id),
            role=role,
            admin=role == ADMIN,
            email=_optional(value["email"], str),
            name=_optional(value["name"], str),
            expires_at=float(value["expires_at"]),
            issued_at=_optional(value["issued_at"], int | float),
            token_id=_optional(value["token_id"], str),
            grants=policy.restore(value["grants"], role),
        )
    except (KeyError, TypeError, ValueError):
        raise TicketError("the identity of a ticket is malformed") from None


def _optional(value: Any, kind: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError("not of its type")
    return value
