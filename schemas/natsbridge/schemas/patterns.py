"""Patterns: what a client wishes for, and what a grant allows.

A pattern is NATS's own over ``<domain>.<action>[.<resource>]``: ``*`` is one token, ``>`` the rest.
One or two tokens cover every resource. Internally each of the three places is a token or
:data:`ANY`, which makes matching, containment and intersection decisions of three comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from natsbridge.schemas.errors import PatternError
from natsbridge.schemas.subjects import is_event_type, is_token

ANY: Final = "*"
MAX_PATTERN_LENGTH: Final = 320
"""Longest pattern in characters: two names of 64, a resource of 128, the dots, and room."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern. Each place is a token or ``*``, which stands for any one token."""

    domain: str = ANY
    action: str = ANY
    resource: str = ANY

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern; raises :class:`PatternError` when it is malformed.

        ``>`` may only end a pattern and stands for at least one token. A resource is written as its
        subject token (see :func:`natsbridge.schemas.subjects.encode_id`).
        """
        if not text or len(text) > MAX_PATTERN_LENGTH:
            raise PatternError("a pattern has 1 to 320 characters")
        tokens = text.split(".")
        if tokens[-1] == ">":
            tokens[-1:] = [ANY] * max(1, 4 - len(tokens))
        if not 1 <= len(tokens) <= 3:
            raise PatternError("a pattern is <domain>.<action>[.<resource>]")
        tokens += [ANY] * (3 - len(tokens))
        domain, action, resource = tokens
        name = f"{'a' if domain == ANY else domain}.{'a' if action == ANY else action}"
        if not is_event_type(name):
            raise PatternError("a pattern's domain and action are names or *")
        if resource != ANY and not is_token(resource):
            raise PatternError("a pattern's resource is an encoded id or *")
        return cls(domain, action, resource)

    def __str__(self) -> str:
        return f"{self.domain}.{self.action}.{self.resource}"

    def matches_type(self, event_type: str) -> bool:
        """Whether some resource of this event type is covered."""
        domain, _, action = event_type.partition(".")
        return self.domain in (ANY, domain) and self.action in (ANY, action)

    def matches(self, event_type: str, resource: str) -> bool:
        """Whether this event is covered; ``resource`` is a subject token."""
        return self.resource in (ANY, resource) and self.matches_type(event_type)

    def contains(self, other: Pattern) -> bool:
        """Whether everything that ``other`` covers is covered: language inclusion, no match."""
        return (
            self.domain in (ANY, other.domain)
            and self.action in (ANY, other.action)
            and self.resource in (ANY, other.resource)
        )

    def intersection(self, other: Pattern) -> Pattern | None:
        """Return the pattern of what both cover, or None where that is nothing."""
        places = []
        for mine, theirs in (
            (self.domain, other.domain),
            (self.action, other.action),
            (self.resource, other.resource),
        ):
            if ANY not in (mine, theirs) and mine != theirs:
                return None
            places.append(theirs if mine == ANY else mine)
        return Pattern(*places)
