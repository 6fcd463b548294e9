"""Sends what is in the spool to the stream, one event after the other.

One at a time is what keeps the order: with several under way, a stream that changes its leader, or
is full for one event and not for the next, may store a later one and not an earlier one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

from opentelemetry.trace import Span

from natsbridge.publishers import lookup, tracing
from natsbridge.publishers.connection import Connection
from natsbridge.publishers.errors import BrokerError, BrokerUnavailable, CallerError, SpoolFailed
from natsbridge.publishers.lookup import CannotTell
from natsbridge.publishers.outgoing import OutgoingEvent
from natsbridge.publishers.retry import pause
from natsbridge.publishers.spool import Spool
from natsbridge.publishers.spool_file import Spooled
from natsbridge.publishers.storing import NotNow, store

log = logging.getLogger("publishers")

TELL_AGAIN: Final = 60.0
"""Seconds between two lines of the log about one and the same trouble."""


class Forwarder:
    """Empties one spool over one connection for as long as :meth:`run` is not cancelled."""

    def __init__(
        self, spool: Spool, connection: Connection, *, stream: str, patience: float
    ) -> None:
        """``stream`` is asked for events before any was stored; ``patience`` is the longest wait
        for one answer, in seconds."""
        self._spool = spool
        self._connection = connection
        self._stream = stream
        self._patience = patience
        self._in_trouble = False
        self._told = float("-inf")
        self._told_unable = False

    async def run(self) -> None:
        """Send for ever. Trouble with the broker or with the disk is told in the log."""
        failures = 0
        while True:
            try:
                for spooled in await self._spool.next():
                    await self._spool.allow(spooled.position)
                    with tracing.forwarding(spooled.event, spooled.spooled_at) as span:
                        await self._deliver(spooled, span)
                    failures = 0
            except SpoolFailed as error:
                failures += 1
                self._tell(error.detail)
                await asyncio.sleep(pause(failures, random.random()))  # noqa: S311  # spread

    async def _deliver(self, spooled: Spooled, span: Span) -> None:
        """Return when the event is stored, or put aside."""
        event = spooled.event
        doubtful = spooled.position <= self._spool.doubtful
        failures = 0
        while True:
            try:
                await self._connection.ready(self._deadline())
                if doubtful and (found := await self._find(event)) is not None:
                    self._spool.done(spooled, *found)
                    tracing.found(span, *found)
                    break
                receipt = await store(self._connection, event, self._deadline())
            except (BrokerUnavailable, NotNow, _Unanswered) as error:
                failures += 1
                doubtful |= isinstance(error, NotNow) and error.doubtful
                self._tell(str(error))
                seconds = pause(failures, random.random())  # noqa: S311  # spread, not secret
                tracing.retried(span, failures, error, seconds)
                await asyncio.sleep(seconds)
            except (BrokerError, CallerError) as error:
                await self._spool.refuse(spooled, str(error))
                tracing.fail(span, error)
                log.error("the spool puts an event aside: %s", error)
                break
            else:
                self._spool.done(spooled, receipt.stream, receipt.sequence)
                tracing.stored(span, receipt)
                break
        if self._in_trouble:
            self._in_trouble = False
            log.info("the spool moves on: %d events wait", self._spool.waiting)

    async def _find(self, event: OutgoingEvent) -> tuple[str, int] | None:
        """Return stream and sequence of an event that is stored already, None for any other.

        Raises :class:`_Unanswered`.
        """
        mark = self._spool.last_stored
        stream = mark.stream or self._stream
        try:
            sequence = await lookup.find(
                self._connection, stream, event, mark.sequence, self._deadline()
            )
        except TimeoutError:
            # The broker may be frozen, and then answers later; or the one question is not answered
            # by anybody, and waiting for it would hold up the spool for ever.
            if not await self._connection.answers(self._deadline()):
                raise _Unanswered(f"the broker does not say whether it has {event}") from None
            self._unable(f"{stream} does not answer a Direct Get")
            return None
        except CannotTell as error:
            self._unable(str(error))
            return None
        return None if sequence is None else (stream, sequence)

    def _unable(self, detail: str) -> None:
        if not self._told_unable:
            self._told_unable = True
            log.warning("events may be stored twice after an outage: %s", detail)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience

    def _tell(self, detail: str) -> None:
        self._in_trouble = True
        now = asyncio.get_running_loop().time()
        if now >= self._told + TELL_AGAIN:
            self._told = now
            log.warning("%d events wait in the spool: %s", self._spool.waiting, detail)


class _Unanswered(Exception):
    """The broker was asked for an event and did not answer."""
