"""The pace that a client asked for: at most so many events of a type a second, the newest kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from natsbridge.schemas.catalogue import EventType


class Pace:
    """One type's pace. What has to wait is kept once for each resource, the newest of it."""

    __slots__ = ("_bytes", "_due", "_interval", "_waiting")

    def __init__(self, max_rate: float) -> None:
        """``max_rate`` is in events a second."""
        self._interval: Final = 1 / max_rate
        self._due = 0.0
        self._bytes = 0
        self._waiting: dict[str, tuple[EventType, bytes]] = {}

    @property
    def due(self) -> float | None:
        """When the next one that waits may go; None where nothing waits."""
        return self._due if self._waiting else None

    def lets_through(self, now: float) -> bool:
        """Whether an event may go out now; if so, it counts."""
        if self._waiting or now < self._due:
            return False
        self._due = now + self._interval
        return True

    def keep(self, kind: EventType, resource: str, frame: bytes) -> bool:
        """Let an event wait; returns True when it took an older one's place."""
        before = self._waiting.get(resource)
        self._waiting[resource] = (kind, frame)
        self._bytes += len(frame) - (0 if before is None else len(before[1]))
        return before is not None

    def holds(self, frame: bytes) -> bool:
        """Whether this very frame waits."""
        return any(kept is frame for _, kept in self._waiting.values())

    def shed(self, most: int, most_bytes: int = 1 << 20) -> bool:
        """Let go of the oldest when more than this wait; returns whether one went."""
        if len(self._waiting) <= most and self._bytes <= most_bytes:
            return False
        self._take()
        return True

    def _take(self) -> tuple[EventType, str, bytes]:
        resource = next(iter(self._waiting))
        kind, frame = self._waiting.pop(resource)
        self._bytes -= len(frame)
        return kind, resource, frame

    def release(self, now: float) -> tuple[EventType, str, bytes] | None:
        """Return the next event that may go now, or None."""
        if not self._waiting or now < self._due:
            return None
        self._due = now + self._interval
        return self._take()

    def rest(self) -> Iterator[tuple[EventType, str, bytes]]:
        """Yield all that waits: the pace is not kept any more."""
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        for resource, (kind, frame) in waiting.items():
            yield kind, resource, frame


class Paces(dict[str, Pace]):
    """The paces of one connection, by event type."""

    def due(self) -> float | None:
        """When something that waits may go; None where nothing waits."""
        return min((due for pace in self.values() if (due := pace.due) is not None), default=None)

    def holds(self, frame: bytes) -> bool:
        """Whether this very frame waits for its pace."""
        return any(pace.holds(frame) for pace in self.values())

    def release(self, now: float) -> Iterator[tuple[EventType, str, bytes]]:
        """Yield every event that may go now."""
        for pace in self.values():
            while (found := pace.release(now)) is not None:
                yield found
