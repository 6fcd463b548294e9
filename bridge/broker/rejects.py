"""Events that must not reach a client: back to NATS with the reason, for their owner to look at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from bridge.broker.connection import Connection
from schemas.envelope import HEADER_REJECT_DETAIL, HEADER_REJECT_REASON
from schemas.errors import EventError
from schemas.subjects import Root, Subjects

log = logging.getLogger(__name__)

MAX_SUBJECT: Final = 1024
"""Longest subject in bytes under which an event is published again; nats-server takes 4,096 for the
whole line."""
REPORT: Final = 10.0
"""Seconds between two log lines."""


class Rejects:
    """Publishes rejected events, and says now and then how many there were."""

    def __init__(
        self, connection: Connection, subjects: Subjects, clock: Callable[[], float]
    ) -> None:
        self._connection: Final = connection
        self._subjects: Final = subjects
        self._clock: Final = clock
        self._told = 0
        self._told_at = -REPORT

    def publish(self, subject: bytes, payload: bytes, error: EventError) -> None:
        """Send an event to ``rejected.<subject>``; never waits."""
        detail = f"{error.field}: {error.detail}" if error.field else error.detail
        shown = subject.decode("ascii", "replace")
        if len(subject) <= MAX_SUBJECT and shown.isascii() and shown.isprintable():
            target = self._subjects.rejected(shown)
        else:
            # What NATS would not take back as a subject, or not beside the prefix in one line.
            target = f"{self._subjects.root(Root.REJECTED)}.unnameable"
        self._connection.publish(
            target,
            payload,
            {
                HEADER_REJECT_REASON: error.reason,
                HEADER_REJECT_DETAIL: " ".join(detail.split())[:256],
            },
        )

    def report(self, counts: Mapping[str, int]) -> None:
        """Log the counts by reason if there are more than at the last time; not for each event."""
        total = sum(counts.values())
        if total > self._told and self._clock() >= self._told_at + REPORT:
            log.warning(
                "%d events rejected since the last report, by reason in all: %s",
                total - self._told,
                counts,
            )
            self._told, self._told_at = total, self._clock()
