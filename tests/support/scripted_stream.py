"""A JetStream stream in memory: what is stored, what of it is gone, whether it answers.

Stands for both the :class:`natsbridge.bridge.nats.stream.Stream` and the
:class:`natsbridge.bridge.nats.history.History` of a bridge. Each question takes a turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import Batch, Stored
from natsbridge.bridge.nats.stream import Head
from tests.support.republished import republished

NAME: Final = "EVENTS"


class ScriptedStream:
    """Stored events by sequence."""

    def __init__(self, identity: str = "5f") -> None:
        self.identity = identity
        self.messages: Final[dict[int, Stored]] = {}
        self.last = 0
        self.problem = ""
        self.head: Head | None = None
        self.is_away = False
        self.unknown_types: tuple[str, ...] = ()
        self.delay = 0.0
        """Seconds that each answer takes."""
        self.failures = 0
        """So many of the next reads fail, as if JetStream were away for that long."""
        self.breaks = 0
        self.is_replicated = False
        self.lag = 0.0
        """Seconds by which the replica that is read from is behind."""
        self._stored_at: Final[dict[int, float]] = {}
        self.reads: Final[list[tuple[str, int]]] = []
        """The subject of each read, and after which sequence."""
        self.on_read: Callable[[], None] = lambda: None
        """Called while an answer is on its way: what happens meanwhile."""
        self._subjects: Final[dict[bytes, int]] = {}

    @property
    def first(self) -> int:
        """The oldest that is left; past the last while there is none."""
        return min(self.messages, default=self.last + 1)

    def store(self, subject: str, payload: bytes) -> tuple[int, bytes]:
        """Store an event; returns its sequence and the headers that it is republished with."""
        self.last += 1
        name = subject.encode()
        before, self._subjects[name] = self._subjects.get(name, 0), self.last
        headers = republished(name, self.last, before, stream=NAME)
        self.messages[self.last] = Stored(self.last, name, payload)
        if self.is_replicated:
            self._stored_at[self.last] = asyncio.get_running_loop().time()
        return self.last, headers

    def lose(self, upto: int) -> None:
        """Retention took everything up to this sequence."""
        for sequence in [each for each in self.messages if each <= upto]:
            del self.messages[sequence]

    def go_away(self) -> None:
        """From here on it does not answer."""
        self.is_away = True

    def replace(self, identity: str) -> None:
        """Somebody made the stream anew."""
        self.identity = identity
        self.messages.clear()
        self._subjects.clear()
        self._stored_at.clear()
        self.last = 0

    async def look(self) -> Head:
        """Return how far it reaches."""
        await self._answer()
        deleted = self.last - self.first + 1 - len(self.messages)
        self.head = Head(self.identity, self.first, self.last, deleted)
        return self.head

    async def thinned(self, after: int, upto: int) -> bool:
        """Whether something inside this range is gone."""
        if self.head is None or not self.head.deleted:
            return False
        await self._answer()
        inside = range(max(after + 1, self.first), upto + 1)
        return any(sequence not in self.messages for sequence in inside)

    async def present(self, subjects: Sequence[str], after: int) -> set[str]:
        """Return which of these have a message after a sequence."""
        await self._answer()
        return {
            message.subject.decode()
            for sequence, message in self.messages.items()
            if sequence > after
            and message.subject.decode() in subjects
            and not self._lacks(sequence)
        }

    async def read(
        self, subject: str, after: int, most: int, most_bytes: int = 1024 * 1024
    ) -> Batch:
        """Return the next messages of a subject."""
        self.reads.append((subject, after))
        await self._answer()
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("JetStream does not answer")
        found = [
            message
            for sequence, message in sorted(self.messages.items())
            if sequence > after
            and _matches(subject, message.subject.decode())
            and not self._lacks(sequence)
        ]
        return Batch(found[:most], max(0, len(found) - most))

    def _lacks(self, sequence: int) -> bool:
        stored_at = self._stored_at.get(sequence)
        return stored_at is not None and asyncio.get_running_loop().time() < stored_at + self.lag

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay)
        self.on_read()
        if self.is_away:
            self.problem = "JetStream does not answer"
            raise BrokerUnavailable(self.problem)
        self.problem = ""


def _matches(pattern: str, subject: str) -> bool:
    mine, theirs = pattern.split("."), subject.split(".")
    if mine[-1] == ">":
        return theirs[: len(mine) - 1] == mine[:-1] and len(theirs) >= len(mine)
    return len(mine) == len(theirs) and all(
        one in ("*", two) for one, two in zip(mine, theirs, strict=True)
    )
