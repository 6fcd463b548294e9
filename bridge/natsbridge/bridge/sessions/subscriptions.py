"""What one session wants delivered: its patterns, and the units that they and its grants come to.

Changing them changes what the hub delivers at once, and what NATS is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Outbox
from natsbridge.bridge.identity.grants import Grants
from natsbridge.bridge.limits.units import Units
from natsbridge.bridge.nats.topics import Topics
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.patterns import ANY, Pattern

Unit = tuple[tuple[str, str], frozenset[str]]
"""An event type and a resource token or ``*``, and what is left out of it."""

_NOTHING: Final[Mapping[str, tuple[Unit, ...]]] = {}


class Wishes:
    """The patterns of one session as its client wrote them, and what is held for them."""

    __slots__ = (
        "_catalogue",
        "_grants",
        "_hub",
        "_keys",
        "_outbox",
        "_resolved",
        "_topics",
        "_unconfirmed",
        "_units",
        "patterns",
        "user",
    )

    def __init__(
        self, catalogue: Catalogue, hub: Hub, topics: Topics, outbox: Outbox, units: Units
    ) -> None:
        self._catalogue: Final = catalogue
        self._hub: Final = hub
        self._topics: Final = topics
        self._outbox: Final = outbox
        self._keys: dict[tuple[str, str], frozenset[str]] = {}
        self._unconfirmed: set[str] = set()
        self._grants: Grants | None = None
        self._resolved: Mapping[str, tuple[Unit, ...]] = _NOTHING
        """What each pattern comes to with these grants."""
        self.patterns: dict[str, Pattern] = {}
        self._units: Final = units
        self.user = ""
        """The token of the user whom units are counted for."""

    def become(self, patterns: dict[str, Pattern], grants: Grants) -> None:
        """Want these patterns; those that are new wait for their confirmation."""
        self._unconfirmed |= patterns.keys() - self.patterns.keys()
        self._unconfirmed &= patterns.keys()
        self.patterns = patterns
        self._hold(grants)

    def begin(self, keys: Collection[tuple[str, str]]) -> None:
        """NATS has these units; those that are not held any more are left out."""
        for event_type, resource in self._keys.keys() & keys:
            self._hub.topic(event_type).confirmed(resource)

    def confirmed(self, named: Iterable[str], done: bool, grants: Grants) -> bool:
        """NATS has these patterns, or did not confirm them in time: then they are given back.

        Returns False when something had to be given back.
        """
        waiting = self._unconfirmed.intersection(named)
        self._unconfirmed -= waiting
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
        self.patterns = {}
        self._resolved = _NOTHING
        self._want({})

    @property
    def units(self) -> int:
        """How many units the patterns come to, each by itself."""
        return sum(map(len, self._resolved.values()))

    def covers(self, event_type: str, resource: str) -> bool:
        """Whether an event is among what is wanted; ``resource`` is a subject token."""
        return self.key_of(event_type, resource) is not None

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

    def _hold(self, grants: Grants) -> None:
        # Working out what a pattern comes to is most of the cost, and most are held already.
        before = self._resolved if grants is self._grants else _NOTHING
        self._grants = grants
        self._resolved = {
            text: before.get(text) or self._resolve(pattern, grants)
            for text, pattern in self.patterns.items()
        }
        keys: dict[tuple[str, str], frozenset[str]] = {}
        for resolved in self._resolved.values():
            keys.update(resolved)
        whole = {event_type for event_type, resource in keys if resource == ANY}
        if whole:
            keys = {
                key: excluded
                for key, excluded in keys.items()
                if key[1] == ANY or key[0] not in whole
            }
        self._want(keys)

    def _resolve(self, pattern: Pattern, grants: Grants) -> tuple[Unit, ...]:
        return tuple(
            ((key.event_type, key.resource), key.excluded)
            for key in grants.resolve(pattern, self._catalogue)
        )

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
        finally:
            self._units.change(self.user, held, released)
