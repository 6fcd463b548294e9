"""What happened to one client, short enough to be read when it went wrong."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from tests.support.accounting import sequences_of

KEPT: Final = 60
"""How many lines are kept, the newest ones."""


class Story:
    """Lines about connections and answers; the events between two of them share one line."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._cursors: deque[str] = deque(maxlen=1)
        self._first = ""
        self._count = 0

    def tell(self, line: str) -> None:
        """Add a line of one's own."""
        self._events_end()
        self._lines.append(line)

    def note(self, message: dict[str, Any]) -> None:
        """Add a message; an event is counted with its neighbours."""
        kind, data = message["type"], message["data"]
        match kind:
            case "connection.established":
                self.tell(f"established cursor={data['cursor']} resume={data['resume']}")
            case "subscription.acknowledged":
                self.tell(f"acknowledged {message.get('reply_to')} cursor={data.get('cursor')}")
            case "resume.completed" | "gap" | "error" | "connection.draining":
                self.tell(f"{kind} {message.get('reply_to', '')} {data}")
            case _ if "cursor" in message:
                self._event(message["cursor"])

    def _event(self, cursor: str) -> None:
        # A step back is worth a line, and so is another form.
        if self._cursors:
            before, now = sequences_of(self._cursors[-1]), sequences_of(cursor)
            if now <= before or len(now) != len(before):
                self._events_end()
        if not self._count:
            self._first = cursor
        self._count += 1
        self._cursors.append(cursor)

    def _events_end(self) -> None:
        if self._count:
            self._lines.append(f"{self._count} events {self._first} … {self._cursors[-1]}")
        self._count = 0
        self._cursors.clear()

    def __str__(self) -> str:
        self._events_end()
        return "\n".join(f"  {line}" for line in self._lines)
