"""How much may be in the spool, and how much is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from natsbridge.publishers.errors import SpoolFull
from natsbridge.publishers.outgoing import OutgoingEvent
from natsbridge.publishers.spool_file import size_of


class Room:
    """Counts the events and bytes in a spool, and keeps them under its caps."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.events = 0
        self.bytes = 0

    def take(self, events: Sequence[OutgoingEvent]) -> int:
        """Make room for all of these or for none; return their bytes.

        Raises :class:`SpoolFull`.
        """
        size = sum(map(size_of, events))
        if self.events + len(events) > self._max_events:
            detail = f"the spool is full: {self.events} of {self._max_events} events"
            raise SpoolFull(detail, events)
        if self.bytes + size > self._max_bytes:
            detail = f"the spool is full: {self.bytes} of {self._max_bytes} bytes"
            raise SpoolFull(detail, events)
        self.add(len(events), size)
        return size

    def add(self, events: int, size: int) -> None:
        """Count what is there already, whatever the caps."""
        self.events += events
        self.bytes += size

    def give(self, events: int, size: int) -> None:
        """Give room back."""
        self.events -= events
        self.bytes -= size
