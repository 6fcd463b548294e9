"""What one session wants delivered: its patterns, and the units that they and its grants come to.

Changing them changes what the hub delivers at once, and what NATS is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from bridge.broker.topics import Topics
from bridge.delivery.hub import Hub
from bridge.delivery.outbox import Outbox
from bridge.identity.grants import Grants
from schemas.catalogue import Catalogue
from schemas.patterns import ANY, Pattern


class Wishes:
    """The patterns of one session as its client wrote them, and what is held for them."""

    __slots__ = ("_catalogue", "_hub", "_keys", "_outbox", "_topics", "_unconfirmed", "patterns")

    def __init__(self, catalogue: Catalogue, hub: Hub, topics: Topics, outbox: Outbox) -> None:
        self._catalogue: Final = catalogue
        self._hub: Final = hub
        self._topics: Final = topics
        self._outbox: Final = outbox
        self._keys: dict[tuple[str, str], frozenset[str]] = {}
        self._unconfirmed: set[str] = set()
        self.patterns: dict[str, Pattern] = {}

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

    def regrant(self, grants: Grants) -> list[str]:
        """Go on with other grants; returns the patterns that come to nothing now, taken away."""
        removed = [
            text
            for text, pattern in self.patterns.items()
            if not grants.resolve(pattern, self._catalogue)
        ]
        kept = {text: each for text, each in self.patterns.items() if text not in removed}
        self.become(kept, grants)
        return removed

    def clear(self) -> None:
        """Want nothing more."""
        self.patterns = {}
        self._want({})

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
        keys = grants.resolve_all(self.patterns.values(), self._catalogue)
        self._want({(key.event_type, key.resource): key.excluded for key in keys})

    def _want(self, keys: dict[tuple[str, str], frozenset[str]]) -> None:
        """Make what is delivered what is in ``keys``, with no moment in between without it."""
        if keys == self._keys:
            return
        # What is held is written down step by step: a fault amid this leaves nothing held for ever,
        # and gives nothing back twice, which would take it from others.
        self._keys = dict(self._keys)
        for key, excluded in keys.items():
            event_type, resource = key
            route = self._hub.topic(event_type)
            if key not in self._keys:
                self._topics.hold(event_type, resource, route.receive)
            self._keys[key] = excluded
            route.add(self._outbox, resource, excluded)
        for key in self._keys.keys() - keys.keys():
            event_type, resource = key
            del self._keys[key]
            self._hub.topic(event_type).remove(self._outbox, resource)
            self._topics.release(event_type, resource)
