"""The wait for a peer's close frame after ours (RFC 6455 §7.1.1).

A peer may be in the middle of sending when it is told to go. If the connection were closed then,
the kernel would reset it, and a reset takes with it what the peer has not read: the close frame.
Over TLS one direction can't be ended alone, and nothing may follow the alert that ends both. So
what comes is read and dropped until the peer's own close frame, within bounds.
"""

from __future__ import annotations

from typing import Final

from natsbridge.bridge.websocket.parsers import Skimmer

CLOSE_TIMEOUT: Final = 5.0
"""Seconds after a close frame in which the connection ends, whatever its peer does."""
LAST_SECOND: Final = 1.0
"""The end of these: nothing more is waited for, but TLS and TCP may still be closed in order."""
QUIET: Final = 1.0
"""Seconds without a byte after which a peer whose frames can't be read has stopped sending."""
MAX_DISCARDED: Final = 16 * 1024 * 1024
"""Bytes that are read and dropped of a peer that goes on sending."""


class CloseWait:
    """One such wait; ``now`` is the event loop's time."""

    __slots__ = ("_asked", "_discarded", "_until", "skimmer")

    def __init__(self, now: float) -> None:
        self.skimmer = Skimmer()
        self._until = now + CLOSE_TIMEOUT - LAST_SECOND
        self._discarded = 0
        self._asked = 0

    def count(self, size: int) -> bool:
        """So many bytes came; whether more may come."""
        self._discarded += size
        return self._discarded <= MAX_DISCARDED

    def is_over(self, now: float) -> bool:
        """Whether nothing is to be waited for any more; asked every :data:`QUIET` seconds where
        the close frame can't be found.
        """
        heard = self._discarded > self._asked
        self._asked = self._discarded
        return now >= self._until or (self.skimmer.is_lost and not heard)
