"""What one session wants delivered: its patterns, and the units that they and its grants come to.

Changing them changes what the hub delivers at once, and what NATS is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Outbox
from natsbridge.bridge.identity.grants import HELD_NOTHING, Grants, Holding
from natsbridge.bridge.limits.units import Units
from natsbridge.bridge.nats.topics import Topics
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.patterns import ANY, Pattern

_NONE: Final[frozenset[str]] = frozenset()


class Wishes:
    """The patterns of one session as its client wrote them, and what is held for them."""

    __slots__ = (
        "_catalogue",
        "_grants",
        "_holding",
        "_hub",
        "_keys",
        "_outbox",
        "_topics",
        "_unconfirmed",
        "_units",
        "user",
    )

    def __init__(
        self, catalogue: Catalogue, hub: Hub, topics: Topics, outbox: Outbox, units: Units
    ) -> None:
        self._catalogue: Final = catalogue
        self._hub: Final = hub
        self._topics: Final = topics
        self._outbox: Final = outbox
        self._holding: Holding = HELD_NOTHING
        """What the patterns come to with these grants."""
        self._keys: dict[tuple[str, str], frozenset[str]] = HELD_NOTHING.keys
        """What of it is held; shared with others, so another one takes its place."""
        self._unconfirmed: frozenset[str] = _NONE
        self._grants: Grants | None = None
        self._units: Final = units
        self.user = ""
        """The token of the user whom units are counted for."""

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """The patterns by their text; never changed in place."""
        return self._holding.patterns

    def become(self, patterns: Mapping[str, Pattern], grants: Grants) -> None:
        """Want these patterns; those that are new wait for their confirmation."""
        new = patterns.keys() - self.patterns.keys()
        self._unconfirmed = (self._unconfirmed | new) & patterns.keys() or _NONE
        # Working out what a pattern comes to is most of the cost, and most are held already.
        before = self._holding if grants is self._grants else None
        self._grants = grants
        self._holding = grants.hold(patterns, self._catalogue, before)
        self._want(self._holding.keys)

    def begin(self, keys: Collection[tuple[str, str]]) -> None:
        """NATS has these units; those that are not held any more are left out."""
        for event_type, resource in self._keys.keys() & keys:
            self._hub.topic(event_type).confirmed(resource)

    def confirmed(self, named: Iterable[str], done: bool, grants: Grants) -> bool:
        """NATS has these patterns, or did not confirm them in time: then they are given back.

        Returns False when something had to be given back.
        """
        waiting = self._unconfirmed.intersection(named)
        self._unconfirmed = self._unconfirmed - waiting or _NONE
        if done or not waiting:
            return True
        kept = {text: each for text, each in self.patterns.items() if text not in waiting}
        self.become(kept, grants)
        return False

    def regrant(self, grants: Grants, most: int, left: int) -> list[str]:
        """Go on with other grants; returns the patterns that were taken away: they come to nothing
        now, to over ``most`` units in all, or to more than the ``left`` ones that are not held.
        """
        if grants == self._grants:
            return []
        removed: list[str] = []
        kept: dict[str, Pattern] = {}
        units = fresh = 0
        for text, pattern in self.patterns.items():
            keys = grants.resolve(pattern, self._catalogue)
            new = sum((key.event_type, key.resource) not in self._keys for key in keys)
            if not keys or units + len(keys) > most or fresh + new > left:
                removed.append(text)
                continue
            kept[text] = pattern
            units += len(keys)
            fresh += new
        self.become(kept, grants)
        return removed

    def clear(self) -> None:
        """Want nothing more."""
        self._holding = HELD_NOTHING
        self._want(HELD_NOTHING.keys)

    @property
    def units(self) -> int:
        """How many units the patterns come to, each by itself."""
        return self._holding.count

    def covers(self, event_type: str, resource: str) -> bool:
        """Whether an event is among what is wanted; ``resource`` is a subject token."""
        return self.key_of(event_type, resource) is not None

    def unknown(self, event_types: Iterable[str]) -> list[str]:
        """Return which of these types, of which the catalogue has none, the patterns cover."""
        patterns = self.patterns.values()
        return [name for name in event_types if any(each.matches_type(name) for each in patterns)]

    def names(self, event_type: str, resource: str) -> bool:
        """Whether the patterns and the grants cover an event, of whatever type."""
        grants = self._grants
        return (
            grants is not None
            and grants.permits(event_type, resource)
            and any(each.matches(event_type, resource) for each in self.patterns.values())
        )

    def key_of(self, event_type: str, resource: str) -> tuple[str, str] | None:
        """Return the unit by which an event is wanted; None where it is not."""
        excluded = self._keys.get((event_type, ANY))
        if excluded is not None:
            return None if resource in excluded else (event_type, ANY)
        key = (event_type, resource)
        return key if key in self._keys else None

    @property
    def keys(self) -> Collection[tuple[str, str]]:
        """The units, each an event type and a resource token or ``*``."""
        return self._keys.keys()

    @property
    def excluded(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """What is left out of each unit that is all of a type."""
        return self._keys

    def _want(self, keys: dict[tuple[str, str], frozenset[str]]) -> None:
        """Make what is delivered what is in ``keys``, with no moment in between without it."""
        if keys == self._keys:
            return
        # What is held is written down step by step: a fault amid this leaves nothing held for ever,
        # and gives nothing back twice, which would take it from others.
        self._keys = dict(self._keys)
        held = released = 0
        try:
            for key, excluded in keys.items():
                before = self._keys.get(key)
                if before == excluded:
                    continue
                event_type, resource = key
                route = self._hub.topic(event_type)
                if before is None:
                    self._topics.hold(event_type, resource, route.receive)
                    held += 1
                self._keys[key] = excluded
                route.add(self._outbox, resource, excluded)
            for key in self._keys.keys() - keys.keys():
                event_type, resource = key
                del self._keys[key]
                released += 1
                self._hub.topic(event_type).remove(self._outbox, resource)
                self._topics.release(event_type, resource)
            self._keys = keys
        finally:
            self._units.change(self.user, held, released)
