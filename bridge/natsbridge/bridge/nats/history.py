"""Reading stored events: batched Direct Get, stateless, in the stream's order (NATS ADR-31).

A request names a subject filter, a sequence to begin at, and how many; the answers come back on an
inbox of this bridge, past nats-py like everything that may be much. No consumer is made, so a
thousand clients that come back at once leave nothing behind.

Any replica of the stream answers, also one that has not everything yet, and does not tell: see
:meth:`natsbridge.bridge.nats.continuity.Continuity.settled`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.connection import Connection
from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.schemas.envelope import named_schema
from natsbridge.schemas.trace import sampled, splice_traceparent

BATCH: Final = 32
"""Messages that a replay reads at a time. Live events wait behind them, in the server and here:
behind four times as many the worst hundredth waits two thirds longer, while a thousand clients come
back at once.
"""
MAX_BATCH_BYTES: Final = 1024 * 1024
"""Bytes after which nats-server ends a batch."""

MAX_ASKED: Final = 512
"""Subjects that are looked up at once; nats-server answers 1,024 at the most."""

EVERYTHING: Final = ">"
"""The filter of a whole stream: nats-server reads it several times faster than the stream's own
subject, which it matches with each message."""

_STATUS: Final = b"NATS/1.0 "
_SUBJECT: Final = b"Nats-Subject: "
_SEQUENCE: Final = b"\r\nNats-Sequence: "
_PENDING: Final = b"Nats-Num-Pending: "
_END, _NONE, _NOBODY = b"204", b"404", b"503"


@dataclass(slots=True)
class Stored:
    """One message of the stream."""

    sequence: int
    subject: bytes
    payload: bytes
    recalled: tuple[bytes, Any] | None = None
    """What it was found to be with which cursor, for the next who reads it."""


@dataclass(slots=True)
class Batch:
    """What one request brought. ``pending`` is how many that match come after these, or 1 from a
    reader that does not count.
    """

    messages: list[Stored] = field(default_factory=list)
    pending: int = 0


class History:
    """The stored events of one stream."""

    def __init__(
        self, connection: Connection, interests: Interests, stream: str, timeout: float
    ) -> None:
        """``timeout`` is the longest wait for a batch, in seconds."""
        self._connection: Final = connection
        self._interests: Final = interests
        self._subject: Final = f"$JS.API.DIRECT.GET.{stream}".encode()
        self._inbox: Final = connection.new_inbox()
        self._timeout: Final = timeout
        self.breaks = 0
        """How many connections are gone: what one replica had says nothing of the next."""
        self._next = 0
        self._asked: Final[dict[bytes, tuple[Batch, asyncio.Future[None]]]] = {}

    def open(self) -> None:
        """Hold the inbox; whoever reads waits for its confirmation first."""
        self._interests.hold(f"{self._inbox}.*", self._on_answer, lasting=True)

    def on_down(self) -> None:
        """The connection is gone, and with it every answer that was on its way."""
        self.breaks += 1
        for _, done in self._asked.values():
            if not done.done():
                done.set_exception(BrokerUnavailable("the connection to NATS is gone"))

    async def read(
        self, subject: str, after: int, most: int, most_bytes: int = MAX_BATCH_BYTES
    ) -> Batch:
        """Return the next stored messages of a subject after a sequence: so many at the most, and
        none after those that have come to so many bytes.

        Raises :class:`BrokerUnavailable`.
        """
        return await self._request(
            {"seq": after + 1, "batch": most, "max_bytes": most_bytes, "next_by_subj": subject}
        )

    async def present(self, subjects: Sequence[str], after: int) -> set[str]:
        """Return which of these single subjects have a message after a sequence.

        nats-server looks them up without going through the stream, and answers with the newest
        message of each, so this is to be asked before much is read for subjects that may have none.
        Raises :class:`BrokerUnavailable`.
        """
        found: set[str] = set()
        for at in range(0, len(subjects), MAX_ASKED):
            some = list(subjects[at : at + MAX_ASKED])
            last, pending = after, 1
            while pending:
                batch = await self._request(
                    {
                        "seq": last + 1,
                        "batch": MAX_ASKED,
                        "max_bytes": MAX_BATCH_BYTES,
                        "multi_last": some,
                    }
                )
                if not batch.messages:
                    break
                found.update(each.subject.decode() for each in batch.messages)
                last, pending = batch.messages[-1].sequence, batch.pending
        return found

    async def _request(self, asked: dict[str, Any]) -> Batch:
        if not self._connection.is_up:
            raise BrokerUnavailable("there is no connection to NATS")
        self._next += 1
        number = b"%d" % self._next
        batch = Batch()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[number] = (batch, done)
        request = json.dumps(asked).encode()
        self._connection.write(
            b"PUB %b %b.%b %d\r\n%b\r\n"
            % (self._subject, self._inbox.encode(), number, len(request), request)
        )
        try:
            async with asyncio.timeout(self._timeout):
                await done
        except TimeoutError:
            raise BrokerUnavailable("JetStream does not answer") from None
        finally:
            del self._asked[number]
        return batch

    def _on_answer(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        asked = self._asked.get(subject[subject.rfind(b".") + 1 :])
        if asked is None:
            return  # nobody waits for it any more
        batch, done = asked
        if headers.startswith(_STATUS):
            self._end(headers, batch, done)
            return
        at = headers.rfind(_SEQUENCE)
        name = headers.rfind(_SUBJECT, 0, at)
        if at < 0 or name < 0:
            return
        start = at + len(_SEQUENCE)
        stored = headers[name + len(_SUBJECT) : headers.find(b"\r", name)]
        batch.messages.append(
            Stored(
                int(headers[start : headers.find(b"\r", start)]),
                stored,
                as_read_live(headers[:name], stored, payload),
            )
        )

    def _end(self, headers: bytes, batch: Batch, done: asyncio.Future[None]) -> None:
        if done.done():
            return
        status = headers[len(_STATUS) : len(_STATUS) + 3]
        if status == _END:
            at = headers.find(_PENDING)
            if at >= 0:
                batch.pending = int(headers[at + len(_PENDING) : headers.find(b"\r", at)])
            done.set_result(None)
        elif status == _NONE:
            done.set_result(None)
        elif status == _NOBODY:
            done.set_exception(BrokerUnavailable("JetStream is not there"))
        else:
            words = headers[len(_STATUS) :].split(b"\r", 1)[0].decode("utf-8", "replace")
            done.set_exception(BrokerUnavailable(f"JetStream refuses: {words}"))


def as_read_live(headers: bytes, subject: bytes, payload: bytes) -> bytes:
    """Return a stored event's text as it is live: with the trace of its publisher's headers, and
    nothing, which is no event, where they name another type than the subject.
    """
    lower = headers.lower()
    named = named_schema(headers, lower)
    if named is not None and named[0].encode() != b".".join(subject.split(b".")[-3:-1]):
        return b""
    traceparent = sampled(headers, lower)
    return splice_traceparent(payload, traceparent) if traceparent else payload
