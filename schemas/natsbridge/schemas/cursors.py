"""Cursors: where in the stream a client stands. Opaque to clients, read by the bridge alone.

The text is ``<stream>-<position>``, and ``<stream>-<position>-<direct>`` for a client that is
caught up on the events of its user and of everybody, and is still being sent older events of
topics. ``<stream>`` is the stream's identity (its creation time), since sequences start anew when a
stream is made anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from natsbridge.schemas.errors import CursorError

MAX_CURSOR: Final = 64
"""Longest cursor in characters: an identity of 16 digits and two sequences of 64 bits."""
CURSOR_ROOM: Final = len(',"cursor":""') + MAX_CURSOR
"""Bytes that a cursor adds to an event, at the most: a stored event is smaller by so much."""

_CURSOR: Final = re.compile(r"([0-9a-f]{1,16})-([0-9]{1,20})(?:-([0-9]{1,20}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything up to ``position`` has come; of user and all events, up to ``direct``."""

    stream: str
    position: int
    direct: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor; raises :class:`CursorError` for any other text."""
        found = _CURSOR.fullmatch(text) if len(text) <= MAX_CURSOR else None
        if found is None:
            raise CursorError("not a cursor of this bridge")
        position = int(found[2])
        return cls(found[1], position, max(position, int(found[3] or 0)))

    def __str__(self) -> str:
        text = f"{self.stream}-{self.position}"
        return text if self.direct <= self.position else f"{text}-{self.direct}"
