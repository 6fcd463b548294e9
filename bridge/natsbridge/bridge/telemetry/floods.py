"""Keeps any one log line from being written without end, whoever logs it.

Lines about clients are bounded where they are made (:mod:`natsbridge.bridge.telemetry.lines`). This
is for all
else: a peer, a service or a broker that makes the same thing fail thousands of times a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

MAX_LINES: Final = 512
"""Lines that are told apart."""
BOUNDED_ELSEWHERE: Final = ("natsbridge.clients", "natsbridge.admin")
"""Loggers of lines that are bounded, or that must all be written."""


class Floods(logging.Filter):
    """Lets so many lines of one logger and one message through in a second.

    The next line of that kind says how many were left out before it (``left_out``).
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._rate: Final = rate
        self._clock: Final = clock
        self._lines: dict[tuple[str, int, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.name in BOUNDED_ELSEWHERE:
            return True
        now = self._clock()
        key = (record.name, record.levelno, str(record.msg)[:128])
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                self._lines.clear()
            line = self._lines[key] = [now, 0, 0]
        if now >= line[0] + 1:
            line[:2] = now, 0
        line[1] += 1
        if line[1] > self._rate:
            line[2] += 1
            return False
        if line[2]:
            record.left_out, line[2] = int(line[2]), 0
        return True
