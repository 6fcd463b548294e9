"""Who wants what, for the Python peers: sets of connections by user, by topic, and all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import Generic, TypeVar
from urllib.parse import parse_qs

_Connection = TypeVar("_Connection", bound=Hashable)


class Rooms(Generic[_Connection]):
    """The connections of one server."""

    def __init__(self) -> None:
        self.everybody: set[_Connection] = set()
        self._users: defaultdict[str, set[_Connection]] = defaultdict(set)
        self._topics: defaultdict[str, set[_Connection]] = defaultdict(set)
        self._nobody: set[_Connection] = set()

    def join(self, connection: _Connection, query: str) -> None:
        """Register a connection by the query of its URL."""
        user, topics = introduction(query)
        self.everybody.add(connection)
        self._users[user].add(connection)
        for topic in topics:
            self._topics[topic].add(connection)

    def leave(self, connection: _Connection) -> None:
        """Forget a connection."""
        for room in (self.everybody, *self._users.values(), *self._topics.values()):
            room.discard(connection)

    def receivers(self, subject: str) -> set[_Connection]:
        """Return who gets an event that came in on this subject."""
        words = subject.split(".")
        if words[1] == "user":
            return self._users.get(words[2], self._nobody)
        if words[1] == "all":
            return self.everybody
        every = self._topics.get(f"{words[2]}.{words[3]}", self._nobody)
        single = self._topics.get(".".join(words[2:]))
        return every | single if single else every


def introduction(query: str) -> tuple[str, list[str]]:
    """Read user and topics from a query."""
    asked = parse_qs(query)
    topics = asked.get("topics", [""])[0]
    return asked["user"][0], topics.split(",") if topics else []
