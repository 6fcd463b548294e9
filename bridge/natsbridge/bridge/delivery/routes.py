"""The routes of the hub: who gets what comes in on which subscription.

A route is one user's, everybody's, or that of one event type's topic. Called from NATS's read loop;
synchronous.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.delivery.outbox import Outbox
from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.patterns import ANY
from natsbridge.schemas.subjects import Audience

if TYPE_CHECKING:
    from natsbridge.bridge.delivery.hub import Hub


@dataclass(slots=True)
class Types:
    """The types that one audience may have, by their name as it stands in a subject."""

    audience: Final[Audience]
    every: Final[Mapping[bytes, EventType]]
    stored: Final[Mapping[bytes, EventType]]
    """Those that are durable: nothing else is in the stream."""
    durable: int = 0
    """Events with a place in the stream that came and were in order."""
    live: int = 0
    """Events without one that came and were in order."""

    @classmethod
    def of(cls, catalogue: Catalogue, audience: Audience) -> Types:
        """Return the types of a catalogue that this audience may have."""
        every = {
            name.encode(): found
            for name in catalogue.types
            if (found := catalogue.get(name)) and audience in found.traits.audiences
        }
        stored = {name: found for name, found in every.items() if found.traits.durable}
        return cls(audience, every, stored)


NOT_YET: Final = sys.maxsize
"""A sequence that none is behind."""

CROWD: Final = 8
"""Receivers from which on it pays to gather events for all of them."""


class DirectRoute:
    """Events that come without a subscription: one user's, or everybody's."""

    __slots__ = ("_hub", "began", "holders", "receivers", "skip_sent", "skip_stored", "types")

    def __init__(self, hub: Hub, types: Types, skips: tuple[int, int]) -> None:
        """``skips`` is how much of a subject stands before the type: a service's, the stream's."""
        self._hub = hub
        self.types: Final = types
        self.skip_sent, self.skip_stored = skips
        self.holders = 0
        self.began = 0
        self.receivers: dict[Outbox, None] = {}

    def add(self, outbox: Outbox) -> None:
        """Deliver to this one too."""
        if not self.receivers:
            self.began = self._hub.order.horizon
        self.receivers[outbox] = None

    def since(self, subject: bytes) -> int:
        """The sequence after which this route has had receivers."""
        return self.began

    def wanted(self, event_type: str, resource: str) -> tuple[Collection[Outbox], int]:
        """Return who is to have an event, and how many may not; as :meth:`receive` has it."""
        chosen = [
            each
            for each in self.receivers
            if each.permits is None or each.permits(event_type, resource)
        ]
        return chosen, len(self.receivers) - len(chosen)

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        """Deliver one message of NATS."""
        receivers = self.receivers
        if not receivers:
            return
        hub = self._hub
        event = hub.read(self, subject, headers, payload)
        if event is None:
            return
        event_type, resource, frame = event
        flush = hub.flush
        if flush.crowd is not None:
            flush.settle()
        dirty = flush.dirty
        delivered = 0
        for outbox in receivers:
            permits = outbox.permits
            if permits is None or permits(event_type.name, resource):
                frames = outbox.frames
                if not frames:
                    dirty.append(outbox)
                frames.append(frame)
                delivered += 1
        hub.counts.deliveries += delivered
        if not flush.scheduled:
            flush.schedule()


class TopicRoute:
    """Events of one type for whoever subscribed.

    ``every`` maps those who want any resource to the resources they may not see; ``single`` maps a
    resource to those who want just that. An outbox is never in both, so it gets one copy.
    """

    __slots__ = (
        "_began",
        "_began_every",
        "_hub",
        "every",
        "guarded",
        "single",
        "skip_sent",
        "skip_stored",
        "types",
    )

    def __init__(self, hub: Hub, types: Types, skips: tuple[int, int]) -> None:
        """``skips`` is how much of a subject stands before the type: a service's, the stream's."""
        self._hub = hub
        self.types: Final = types
        self.skip_sent, self.skip_stored = skips
        self.every: dict[Outbox, frozenset[str]] = {}
        self.single: dict[str, dict[Outbox, None]] = {}
        self.guarded = 0
        self._began: dict[str, int] = {}
        self._began_every = NOT_YET

    def since(self, subject: bytes) -> int:
        """The sequence after which events with this subject have come in for receivers."""
        resource = subject[subject.rfind(b".") + 1 :].decode("utf-8", "replace")
        if not self.every:
            return self._began.get(resource, 0)
        return min(self._began_every, self._began.get(resource, self._began_every))

    def add(self, outbox: Outbox, resource: str, excluded: frozenset[str]) -> None:
        """Deliver events of a resource, or of any (``*``) but those excluded."""
        self._hub.flush.settle()
        if resource == ANY:
            if not self.every:
                self._began_every = NOT_YET
            self.guarded += bool(excluded) - bool(self.every.get(outbox))
            self.every[outbox] = excluded
            return
        holders = self.single.get(resource)
        if holders is None:
            holders = self.single[resource] = {}
            self._began[resource] = NOT_YET
        holders[outbox] = None

    def confirmed(self, resource: str) -> None:
        """NATS has the subscription: what does not come from here on is missing.

        Not from where events have come to: what is being read from the stream goes further, and
        what came behind that before there was a subscription would be taken for a hole.
        """
        if resource == ANY:
            if self._began_every == NOT_YET:
                self._began_every = self._hub.order.horizon
        elif self._began.get(resource) == NOT_YET:
            self._began[resource] = self._hub.order.horizon

    def wanted(self, event_type: str, resource: str) -> tuple[Collection[Outbox], int]:
        """Return who is to have an event, and how many may not; as :meth:`receive` has it."""
        single = self.single.get(resource)
        if not single and not self.guarded:
            return self.every, 0
        chosen = [each for each, excluded in self.every.items() if resource not in excluded]
        return [*chosen, *(single or ())], len(self.every) - len(chosen)

    def remove(self, outbox: Outbox, resource: str) -> None:
        """Undo :meth:`add`; from here on nothing more is offered."""
        self._hub.flush.settle()
        if resource == ANY:
            self.guarded -= bool(self.every.pop(outbox, None))
        else:
            holders = self.single.get(resource)
            if holders is not None:
                holders.pop(outbox, None)
                if not holders:
                    del self.single[resource]
                    del self._began[resource]

    def receive(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        """Deliver one message of NATS."""
        every, single = self.every, None
        if self.single:
            single = self.single.get(subject[subject.rfind(b".") + 1 :].decode("utf-8", "replace"))
        if not every and not single:
            return
        hub = self._hub
        event = hub.read(self, subject, headers, payload)
        if event is None:
            return
        _, resource, frame = event
        if len(every) >= CROWD and not single and not self.guarded:
            hub.flush.gather(every, frame)
            hub.counts.deliveries += len(every)
            hub.flush.schedule()
            return
        hub.flush.settle()
        dirty = hub.flush.dirty
        receivers: list[Outbox] | dict[Outbox, frozenset[str]] = every
        if self.guarded:
            receivers = [each for each, excluded in every.items() if resource not in excluded]
        for outbox in receivers:
            frames = outbox.frames
            if not frames:
                dirty.append(outbox)
            frames.append(frame)
        hub.counts.deliveries += len(receivers)
        if single:
            for outbox in single:
                frames = outbox.frames
                if not frames:
                    dirty.append(outbox)
                frames.append(frame)
            hub.counts.deliveries += len(single)
        hub.flush.schedule()
