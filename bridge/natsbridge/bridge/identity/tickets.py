"""Tickets: a good token, exchanged for a short-lived word that may stand in a URL.

A ticket is a random name. Whom it was issued to waits in a bucket under a hash of that name, so
that whoever can list the bucket can use none of it, and whichever replica the client comes to takes
it, once. While the bucket can't be written, a ticket is kept in the memory of the replica that
issues it and is good there alone: it then says whose it is and until when, ``<replica>.<time>.
<secret>``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from pydantic_core import from_json

from natsbridge.bridge.errors import BrokerUnavailable, BucketFull, TicketError
from natsbridge.bridge.identity.grants import ADMIN, GrantPolicy
from natsbridge.bridge.identity.tokens import Identity
from natsbridge.schemas.subjects import encode_id

log = logging.getLogger(__name__)

_SECRET_BYTES: Final = 32
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_LOCAL: Final = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9a-f]{1,12})\.[A-Za-z0-9_-]{43}")
CLOCKS: Final = 60.0
"""Seconds by which the clocks of two replicas may differ."""


class TicketsExhausted(TicketError):
    """As many tickets wait as may; none was issued, and none was taken from anybody."""


class Shelf(Protocol):
    """Where tickets wait for any replica: a bucket."""

    def create(self, key: str, value: bytes) -> Awaitable[None]:
        """Store it; raises :class:`BucketFull` or :class:`BrokerUnavailable`."""

    def take(self, key: str) -> Awaitable[bytes | None]:
        """Return it, once, or None; raises :class:`BrokerUnavailable`."""


class Tickets:
    """Issues tickets, and takes those that any replica issued."""

    def __init__(self, shelf: Shelf, local: LocalTickets, policy: GrantPolicy) -> None:
        self._shelf: Final = shelf
        self._local: Final = local
        self._policy: Final = policy

    async def issue(self, identity: Identity) -> str:
        """Return a new ticket; raises :class:`TicketsExhausted` when too many wait."""
        ticket = secrets.token_urlsafe(_SECRET_BYTES)
        value = json.dumps(identity_to_json(identity), separators=(",", ":")).encode()
        try:
            await self._shelf.create(key_of(ticket), value)
        except BucketFull:
            raise TicketsExhausted("too many tickets wait to be used") from None
        except BrokerUnavailable:
            return self._local.issue(identity)
        return ticket

    async def redeem(self, ticket: str) -> Identity:
        """Return whom the ticket was issued to, and forget it.

        Raises :class:`TicketError`, with one reason for all, when it is unknown, was used, or is
        too old, and :class:`BrokerUnavailable` when that can't be told here and now. That its token
        has not expired or been revoked since, the caller checks.
        """
        if _TICKET.fullmatch(ticket) is None:
            return self._local.redeem(ticket)
        value = await self._shelf.take(key_of(ticket))
        if value is None:
            raise _gone()
        try:
            return identity_from_json(from_json(value, allow_inf_nan=False), self._policy)
        except (TicketError, ValueError):
            log.error("a value in the bucket of tickets is no ticket's: who else writes there?")
            raise _gone() from None


class LocalTickets:
    """The tickets that this replica issued for itself, and that nobody used yet."""

    def __init__(
        self, ttl: float, capacity: int, replica_id: str, wall: Callable[[], float]
    ) -> None:
        """``ttl`` is in seconds of ``wall``, Unix time that must not go back.

        At most ``capacity`` wait. ``replica_id`` is 1 to 64 characters of ``A-Z a-z 0-9 _ -``;
        raises :class:`ValueError` for another.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", replica_id):
            raise ValueError("a replica id is 1 to 64 characters of A-Z a-z 0-9 _ -")
        self._ttl: Final = ttl
        self._capacity: Final = capacity
        self._replica: Final = replica_id
        self._wall: Final = wall
        # In the order of issue, which is that of expiry, since all live equally long.
        self._waiting: Final[dict[str, tuple[float, Identity]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def issue(self, identity: Identity) -> str:
        """Return a new ticket; raises :class:`TicketsExhausted` at capacity."""
        self.purge()
        if len(self._waiting) >= self._capacity:
            raise TicketsExhausted("too many tickets wait to be used")
        ends = self._wall() + self._ttl
        ticket = f"{self._replica}.{math.ceil(ends):x}.{secrets.token_urlsafe(_SECRET_BYTES)}"
        self._waiting[ticket] = (ends, identity)
        return ticket

    def redeem(self, ticket: str) -> Identity:
        """Return whom the ticket was issued to, and forget it; raises as :meth:`Tickets.redeem`.

        One of another replica is good there until its time is over, and nowhere from then on.
        """
        found = _LOCAL.fullmatch(ticket)
        if found is None:
            raise _gone()
        now = self._wall()
        if found[1] != self._replica:
            ends = int(found[2], 16)
            if now < ends + CLOCKS and ends < now + self._ttl + CLOCKS:
                raise BrokerUnavailable("the ticket is another replica's")
            raise _gone()
        expires_at, identity = self._waiting.pop(ticket, (None, None))
        if expires_at is None or identity is None or expires_at <= now:
            raise _gone()
        return identity

    def purge(self) -> int:
        """Forget the expired ones; returns how many."""
        now = self._wall()
        expired = []
        for ticket, (expires_at, _) in self._waiting.items():
            if expires_at > now:
                break
            expired.append(ticket)
        for ticket in expired:
            del self._waiting[ticket]
        return len(expired)


def key_of(ticket: str) -> str:
    """Return the key that a ticket waits under: from it nobody can tell the ticket."""
    return hashlib.sha256(ticket.encode()).hexdigest()


def _gone() -> TicketError:
    return TicketError("the ticket is unknown, was used, or is too old")


def identity_to_json(identity: Identity) -> dict[str, Any]:
    """Return an identity as JSON values, its grants whole, to keep it for another replica."""
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

    Raises :class:`TicketError` for anything else. Only bridges may write where it comes from: its
    form is checked, and no signature.
    """
    try:
        if not isinstance(value, dict) or value.keys() != _FIELDS:
            raise TypeError("not an identity")
        user_id, role = _text(value["user_id"]), _text(value["role"])
        return Identity(
            user_id=user_id,
            user=encode_id(user_id),
            role=role,
            admin=role == ADMIN,
            email=_optional(value["email"], str),
            name=_optional(value["name"], str),
            expires_at=_time(value["expires_at"]),
            issued_at=None if value["issued_at"] is None else _time(value["issued_at"]),
            token_id=_optional(value["token_id"], str),
            grants=policy.restore(value["grants"], role),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TicketError("the identity of a ticket is malformed") from None


_FIELDS: Final = frozenset(
    ("user_id", "role", "email", "name", "expires_at", "issued_at", "token_id", "grants")
)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("not a time")
    return float(value)


def _optional(value: Any, kind: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError("not of its type")
    return value
