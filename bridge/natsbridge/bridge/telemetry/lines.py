"""Log lines of what peers do, as many as a person can read, whatever the peers do.

Of each kind a few lines a second are written as they come. What goes beyond that is counted, and
told in one line every ten seconds: how many, from which addresses most, and one of them whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from natsbridge.bridge.identity.origins import address_block

INTERVAL: Final = 10.0
"""Seconds that one summed line stands for, at least."""
MAX_KINDS: Final = 256
"""Kinds that are told apart; what comes later is summed up together."""
MAX_BLOCKS: Final = 256
"""Address blocks that are counted apart within one summed line."""
TOLD_BLOCKS: Final = 5
"""Address blocks that a summed line names."""
MAX_TEXT: Final = 128
"""Characters of a peer's text that a line repeats."""

OTHER: Final = "other"

Fields = Callable[[], dict[str, Any]]
"""Makes the fields of a line; called only when one is written."""


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return a peer's text as a line may repeat it: its beginning."""
    return text if len(text) <= most else text[: most - 1] + "…"


class Tally(dict[Any, int]):
    """Counts by key, for a bounded number of keys; the others count together.

    ``other`` is that key, of the same shape as the rest.
    """

    def __init__(self, other: Any = OTHER, most: int = MAX_KINDS) -> None:
        super().__init__()
        self._other: Final = other
        self._most: Final = most

    def add(self, key: Any) -> None:
        """Count one."""
        if key not in self and len(self) >= self._most:
            key = self._other
        self[key] = self.get(key, 0) + 1


class _Kind:
    """How much of one kind was written, and what was not."""

    __slots__ = ("at", "blocks", "left", "level", "missed", "sample", "since")

    def __init__(self, rate: int, now: float) -> None:
        self.left = rate
        """Lines that may still be written in the second that began ``at``."""
        self.at = now
        self.level = logging.INFO
        self.missed = 0
        self.since = now
        self.blocks: Tally = Tally(most=MAX_BLOCKS)
        self.sample: dict[str, Any] = {}


class Lines:
    """Writes to one logger. Called from the event loop only."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        rate: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``rate`` is how many lines a second of one kind are written before they are summed up;
        ``clock`` gives seconds that never go back.
        """
        self._log: Final = logger
        self._rate: Final = rate
        self._clock: Final = clock
        self._kinds: Final[dict[tuple[str, str], _Kind]] = {}

    def say(
        self, level: int, message: str, fields: Fields, *, kind: str = "", address: str = ""
    ) -> None:
        """Write a line, or count it where there were many like it.

        ``message`` is one of a closed set, ``kind`` tells lines of one message apart (a code), and
        ``address`` is the peer's.
        """
        if not self._log.isEnabledFor(level):
            return
        now = self._clock()
        known = self._kinds.get((message, kind))
        if known is None:
            known = self._new(message, kind, now)
        if now >= known.at + 1:
            known.left, known.at = self._rate, now
        if known.left:
            known.left -= 1
            self._log.log(level, message, extra=fields())
            return
        if not known.missed:
            known.since, known.level, known.sample = now, level, fields()
        known.missed += 1
        if address:
            known.blocks.add(address_block(address))

    def _new(self, message: str, kind: str, now: float) -> _Kind:
        if len(self._kinds) >= MAX_KINDS:
            message, kind = OTHER, ""
        return self._kinds.setdefault((message, kind), _Kind(self._rate, now))

    def tick(self) -> None:
        """Tell what was counted since the last time, when it is time for that."""
        now = self._clock()
        for (message, _), known in self._kinds.items():
            if known.missed and now - known.since >= INTERVAL:
                self._tell(message, known, now)

    def flush(self) -> None:
        """Tell all that was counted; for the end of the process."""
        now = self._clock()
        for (message, _), known in self._kinds.items():
            if known.missed:
                self._tell(message, known, now)

    def _tell(self, message: str, known: _Kind, now: float) -> None:
        missed, blocks, sample = known.missed, known.blocks, known.sample
        known.missed, known.blocks, known.sample = 0, Tally(most=MAX_BLOCKS), {}
        most = sorted(blocks.items(), key=lambda each: -each[1])[:TOLD_BLOCKS]
        self._log.log(
            known.level,
            "%s (%d more)",
            message,
            missed,
            extra={
                **sample,
                "count": missed,
                "seconds": round(now - known.since, 1),
                "addresses": dict(most) or None,
            },
        )
