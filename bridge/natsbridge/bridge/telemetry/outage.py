"""The log lines of a connection that goes and comes back: when it goes, now and then, when it is
back; and of what goes wrong on it meanwhile, however often it does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from natsbridge.bridge.telemetry.lines import cut

FIRST_REMINDER: Final = 10.0
"""Seconds after which an outage is told again."""
REMINDER: Final = 60.0
"""Seconds between two reminders after that, and between two lines of the same trouble."""
MAX_TROUBLES: Final = 64
"""Different troubles that are told apart."""
MAX_TEXT: Final = 256


class Outage:
    """Writes to one logger. ``name`` is what is connected to, as the lines name it."""

    def __init__(
        self, log: logging.Logger, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` gives seconds that never go back."""
        self._log: Final = log
        self._name: Final = name
        self._clock: Final = clock
        self._since: float | None = None
        self._next = 0.0
        self._tries = 0
        self._last = ""
        self._troubles: Final[dict[str, tuple[float, int]]] = {}

    def began(self, level: int = logging.WARNING) -> None:
        """The connection is gone."""
        now = self._clock()
        self._since, self._next, self._tries = now, now + FIRST_REMINDER, 0
        self._log.log(level, "%s: disconnected", self._name, extra={"error": self._last or None})
        self._last = ""

    def failed(self, why: str) -> None:
        """One more try to connect did not work."""
        self._tries += 1
        self._last = cut(why, MAX_TEXT)
        now = self._clock()
        if self._since is not None and now >= self._next:
            self._next = now + REMINDER
            self._log.warning("%s: still disconnected", self._name, extra=self._told(now))
        else:
            self._log.debug("%s: attempt failed", self._name, extra={"error": self._last})

    def ended(self) -> None:
        """The connection is there again."""
        told = {} if self._since is None else self._told(self._clock())
        self._since, self._last = None, ""
        self._log.info("%s: connected again", self._name, extra=told)

    def trouble(self, what: str) -> None:
        """Something went wrong on a connection that is there."""
        now, what = self._clock(), cut(what, MAX_TEXT)
        self._last = what
        told_at, count = self._troubles.get(what, (-REMINDER, 0))
        if now < told_at + REMINDER:
            self._troubles[what] = (told_at, count + 1)
            return
        if what not in self._troubles and len(self._troubles) >= MAX_TROUBLES:
            self._troubles.pop(next(iter(self._troubles)))
        self._troubles[what] = (now, 0)
        extra = {"error": what, "repeated": count or None}
        self._log.warning("%s: error", self._name, extra=extra)

    def _told(self, now: float) -> dict[str, object]:
        seconds = 0.0 if self._since is None else now - self._since
        return {"seconds": round(seconds, 1), "tries": self._tries, "error": self._last or None}
