"""How far this machine's clock is from NATS's: tokens are checked against the one here.

JetStream's answers say what time it is where they were written. That is compared once a second,
with the stream's state, which is asked for anyway. A difference is told in the log, in ``/readyz``
and in the metrics; nothing is corrected by it, since either clock may be the wrong one.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

log = logging.getLogger(__name__)

TOLERANCE: Final = 2.0
"""Seconds by which the clocks may differ without a word."""


class ClockComparison:
    """The difference as it was seen last."""

    def __init__(self) -> None:
        self.behind: float | None = None
        """Seconds by which this machine is behind NATS, negative where it is ahead; None before the
        first answer. At least so many: the time that an answer takes is not counted.
        """
        self.round_trip: float | None = None
        """Seconds that the last answer took."""
        self._is_off = False

    def seen(self, stamp: object, asked_at: float, answered_at: float) -> None:
        """Take an answer's time (RFC 3339), and when it was asked for and came, in Unix seconds."""
        if not isinstance(stamp, str):
            return
        try:
            there = datetime.fromisoformat(stamp).timestamp()
        except (ValueError, OverflowError):
            return
        self.round_trip = max(0.0, answered_at - asked_at)
        self.behind = max(0.0, there - answered_at) or min(0.0, there - asked_at)
        is_off = abs(self.behind) > TOLERANCE
        if is_off and not self._is_off:
            log.warning(
                "this machine's clock is %s: tokens count as not valid yet, or as expired, by that "
                "much too early or too late; set the clock that is wrong",
                self.words,
            )
        elif self._is_off and not is_off:
            log.info("this machine's clock agrees with NATS's again")
        self._is_off = is_off

    @property
    def words(self) -> str:
        """What there is to tell: ``behind NATS by 12 s``; empty while the clocks agree."""
        if self.behind is None or abs(self.behind) <= TOLERANCE:
            return ""
        return f"{'behind' if self.behind > 0 else 'ahead of'} NATS by {abs(self.behind):.0f} s"
