"""Connections that are written to, and a flush whose iterations a test ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from natsbridge.bridge.delivery.outbox import Flush, Outbox
from tests.support.kinds import DURABLE
from tests.support.scripted_nats import Turns

MAX_FRAMES: Final = 3
MAX_BYTES: Final = 100


class Connection:
    """An outbox, what was written from it, and how often its owner was told of an overflow."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.overflows = 0
        self.outbox = Outbox(self.writes.append, self._overflowed)

    def _overflowed(self) -> None:
        self.overflows += 1


class Scene:
    """A flush whose iterations a test ends."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.calls = 0
        self.now = 0.0
        self.flush = Flush(
            self._call_soon, max_frames=MAX_FRAMES, max_bytes=MAX_BYTES, clock=lambda: self.now
        )

    def _call_soon(self, call: Callable[[], None]) -> None:
        self.calls += 1
        self.turns.call_soon(call)

    def offer(self, connection: Connection, *frames: bytes) -> None:
        for frame in frames:
            self.flush.offer(connection.outbox, frame)

    def event(self, connection: Connection, sequence: int, frame: bytes) -> None:
        """Offer a durable event as the hub does."""
        if self.flush.detours:
            self.flush.know(DURABLE, "7", b"%d" % sequence, frame)
        self.flush.offer(connection.outbox, frame)

    def block(self, connection: Connection) -> None:
        """The connection can't be written to."""
        self.flush.detour(connection.outbox).blocked = True

    def unblock(self, connection: Connection, position: int = 0) -> None:
        """The connection can be written to again."""
        assert connection.outbox.backlog is not None
        connection.outbox.backlog.unblock()
        self.flush.straighten(connection.outbox, position)
