"""A NATS server as a script: the wire that interests write to, and what comes back on it.

It does nothing by itself. A test says when what was written is read (:meth:`process`), and which of
the copies and PONGs that wait come in next (:meth:`deliver`, :meth:`pong`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from natsbridge.bridge.nats.ingest import Receive


class Latch(Protocol):
    """Whom a PONG is for."""

    def done(self) -> bool: ...

    def set_result(self, result: bool, /) -> None: ...


@dataclass(frozen=True)
class Copy:
    """A message on its way to one subscription; ``at`` is when it was published."""

    sid: bytes
    subject: bytes
    headers: bytes
    payload: bytes
    at: float


class Turns:
    """Stands for the loop's calls: what is called waits for the end of the iteration."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self.delays: list[float] = []
        """Seconds that were asked for."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Remember a call."""
        self._calls.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Remember a call, which need not wait so long here."""
        self.delays.append(seconds)
        self._calls.append(call)

    def step(self) -> None:
        """End this iteration."""
        self.between(lambda: None)

    def between(self, look: Callable[[], None]) -> None:
        """End this iteration, and look after each call."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()
            look()

    def run(self) -> None:
        """End this iteration, and those that follow from it."""
        while self._calls:
            self.step()


class ScriptedNats:
    """One connection to a server. ``written`` has all that was ever put on the wire."""

    def __init__(self) -> None:
        self.is_up = True
        self.now = 0.0
        self.written: Final[list[bytes]] = []
        self.receivers: Final[dict[bytes, Receive]] = {}
        self.subscriptions: Final[dict[bytes, str]] = {}
        self.copies: Final[list[Copy]] = []
        self._unread: Final[deque[bytes | Latch]] = deque()
        self._pongs: Final[deque[Latch]] = deque()
        self.lost: Final[list[Latch]] = []
        """Who waited for a PONG that was lost with its connection."""
        self.refused: Final[set[str]] = set()
        """Subjects that may not be subscribed to."""
        self.on_denied: Callable[[str], None] = lambda subject: None

    def clock(self) -> float:
        """The time, which a test moves."""
        return self.now

    # The wire of the interests.

    def write(self, operations: bytes) -> None:
        """Take whole operations; without a connection they are lost."""
        if self.is_up:
            self.written.append(operations)
            self._unread.extend(operations.splitlines())

    def ping(self, operations: bytes, latch: Latch) -> None:
        """Take operations with a PING behind them."""
        self.write(operations)
        self.written.append(b"PING\r\n")
        self._unread.append(latch)

    # The script.

    @property
    def subjects(self) -> list[str]:
        """What the server has been subscribed to, each as often as it is."""
        return sorted(self.subscriptions.values())

    @property
    def pings(self) -> int:
        """How many PINGs were written so far."""
        return self.written.count(b"PING\r\n")

    def process(self, count: int | None = None) -> None:
        """Read so many of the operations that were written, or all of them."""
        for _ in range(len(self._unread) if count is None else min(count, len(self._unread))):
            operation = self._unread.popleft()
            if not isinstance(operation, bytes):
                self._pongs.append(operation)
                continue
            words = operation.split()
            if words[0] == b"SUB":
                assert words[2] not in self.subscriptions, "an id was used twice"
                if words[1].decode() in self.refused:
                    self.on_denied(words[1].decode())
                    continue
                self.subscriptions[words[2]] = words[1].decode()
            else:
                assert words[0] == b"UNSUB"
                self.subscriptions.pop(words[1], None)

    def refuse(self, subject: str) -> None:
        """Take the permission for this subject away, and with it who is subscribed."""
        self.refused.add(subject)
        for sid in [sid for sid, each in self.subscriptions.items() if each == subject]:
            del self.subscriptions[sid]
            self.on_denied(subject)

    def publish(self, subject: str, payload: bytes, headers: bytes = b"") -> int:
        """Match a message as NATS does; return to how many subscriptions it is on its way."""
        matching = [sid for sid, each in self.subscriptions.items() if _matches(each, subject)]
        self.copies.extend(
            Copy(sid, subject.encode(), headers, payload, self.now) for sid in matching
        )
        return len(matching)

    def deliver(self, place: int = 0) -> None:
        """Let the copy at this place, in the order of publishing, come in."""
        copy = self.copies.pop(place)
        receive = self.receivers.get(copy.sid)
        if receive is not None:
            receive(copy.subject, copy.headers, copy.payload)

    def deliver_all(self) -> None:
        """Let all copies come in, in the order of publishing."""
        while self.copies:
            self.deliver()

    def pong(self) -> bool:
        """Let the next PONG come in; False where none waits."""
        if not self._pongs:
            return False
        self._pongs.popleft().set_result(True)
        return True

    def answer(self) -> None:
        """Read all that was written and let every PONG come in."""
        self.process()
        while self.pong():
            self.process()

    def down(self) -> None:
        """Lose the connection and all that is on it."""
        self.is_up = False
        self.lost.extend(self._pongs)
        self._unread.clear()
        self._pongs.clear()
        self.copies.clear()
        self.subscriptions.clear()

    def up(self) -> None:
        """Connect again, without any subscription."""
        self.is_up = True


def _matches(pattern: str, subject: str) -> bool:
    mine, theirs = pattern.split("."), subject.split(".")
    if mine[-1] == ">":
        mine.pop()
        return len(theirs) > len(mine) and all(
            one in ("*", two) for one, two in zip(mine, theirs, strict=False)
        )
    return len(mine) == len(theirs) and all(
        one in ("*", two) for one, two in zip(mine, theirs, strict=True)
    )
