"""Who is entitled to which event, computed from the contract's words and nothing else.

This is a second opinion on what the bridge does: token by token, without its catalogue expansion,
its interests or its pattern class.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Final

from natsbridge.schemas.subjects import Address, Audience, encode_id

TYPES: Final = (
    "upload.progress",
    "upload.completed",
    "upload.error",
    "upload.cancelled",
    "review.created",
    "review.updated",
    "review.deleted",
    "system.notification",
    "user.status_changed",
    "file.processing",
    "file.ready",
)
"""All types of the project but ``system.maintenance``, which is kept for the end marker."""

MARKER: Final = "system.maintenance"
RESOURCES: Final = ("1", "2", "3", "77", "a.b c")
PATTERNS: Final = (
    *TYPES,
    "upload.*",
    "review.*",
    "file.>",
    "system",
    "*.updated",
    "*.*.77",
    "review.*.77",
    "review.updated.77",
    "review.updated.1",
    "upload.progress.2",
    "upload.*.a=2Eb=20c",
    "file.ready.3",
    "user.status_changed.1",
    ">",
)
DENIED: Final = ("review.updated.77", "upload.*", "*.*.1", "system.notification", "file.ready.>")


@cache
def covers(pattern: str, event_type: str, resource: str) -> bool:
    """NATS's own matching over three tokens; one or two tokens stand for all below them."""
    tokens = pattern.split(".")
    subject = [*event_type.split("."), resource]
    if tokens[-1] == ">":
        tokens.pop()
    return all(mine in ("*", theirs) for mine, theirs in zip(tokens, subject, strict=False))


@dataclass
class Wish:
    """One connection: whose it is, what its token permits, what it asks for."""

    user: str
    allow: tuple[str, ...] = (">",)
    deny: tuple[str, ...] = ()
    direct: bool = True
    subscribe: list[str] = field(default_factory=list)
    unsubscribe: list[str] = field(default_factory=list)

    @property
    def claims(self) -> dict[str, Any]:
        """The token's claims beyond the user, none where the default says the same."""
        if self.allow == (">",) and not self.deny:
            return {}
        return {"grants": {"subscribe": {"allow": list(self.allow), "deny": list(self.deny)}}}

    @cached_property
    def token(self) -> str:
        """The user as it stands in subjects."""
        return encode_id(self.user)

    @cached_property
    def held(self) -> set[str]:
        """The patterns that it holds in the end."""
        return {*self.subscribe} - {*self.unsubscribe}

    def gets(self, address: Address) -> bool:
        """Whether an event is delivered to this connection."""
        kind, resource = address.event_type, address.resource
        if address.audience is Audience.USER and address.user != self.token:
            return False
        own = [pattern.replace("{user_id}", self.token) for pattern in self.allow]
        if not any(covers(pattern, kind, resource) for pattern in own):
            return False
        if any(covers(pattern, kind, resource) for pattern in self.deny):
            return False
        if self.direct and address.audience is not Audience.TOPIC:
            return True
        return any(covers(pattern, kind, resource) for pattern in self.held)


def random_wishes(dice: random.Random, count: int) -> list[Wish]:
    """Return so many connections, of users with one to three each."""
    wishes: list[Wish] = []
    number = 0
    while len(wishes) < count:
        number += 1
        user = dice.choice(("user-{}", "user.{}@example.com", "ü {}")).format(number)
        for _ in range(min(dice.choice((1, 1, 2, 3)), count - len(wishes))):
            wish = Wish(user, direct=dice.random() < 0.8)
            if dice.random() < 0.4:
                allowed = dice.sample(PATTERNS, dice.randint(1, 8))
                if dice.random() < 0.3:
                    allowed.append("user.status_changed.{user_id}")
                wish.allow = (MARKER, *allowed)
            if dice.random() < 0.3:
                wish.deny = tuple(dice.sample(DENIED, dice.randint(1, 2)))
            if dice.random() < 0.85:
                wish.subscribe = dice.sample(PATTERNS, dice.randint(1, 5))
                wish.unsubscribe = [each for each in wish.subscribe if dice.random() < 0.2]
            wishes.append(wish)
    return wishes


def random_address(dice: random.Random, users: list[str]) -> Address:
    """Return the address of an event for somebody."""
    kind = dice.choice(TYPES)
    resource = "-"
    if not kind.startswith("system."):
        resource = encode_id(dice.choice(RESOURCES))
    audience = dice.choices((Audience.USER, Audience.TOPIC, Audience.ALL), (12, 6, 1))[0]
    user = encode_id(dice.choice(users)) if audience is Audience.USER else ""
    return Address(audience, kind, resource, user)
