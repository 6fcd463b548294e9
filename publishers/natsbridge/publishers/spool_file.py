"""The spool's file: durable events on disk, in the order in which they were published.

Everything here blocks, and belongs to one thread. What a method has returned for is on the disk:
SQLite in WAL mode with ``synchronous=FULL``, which flushes each commit. The file is locked as long
as it is open; the system takes the lock back from a process that is killed. A network file system
gives neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from natsbridge.publishers.errors import SpoolFailed, SpoolLocked
from natsbridge.publishers.outgoing import OutgoingEvent

APPLICATION: Final = 0x62737031
"""Marks the file as a spool of this version."""

OVERHEAD: Final = 256
"""Bytes that an event is taken to need beside its texts."""

_COLUMNS: Final = "size, spooled_at, id, type, user, subject, live_subject, payload, headers"
_TYPED: Final = """size INTEGER NOT NULL, spooled_at REAL NOT NULL, id TEXT NOT NULL,
    type TEXT NOT NULL, user TEXT, subject TEXT NOT NULL, live_subject TEXT NOT NULL,
    payload BLOB NOT NULL, headers TEXT NOT NULL"""
_SCHEMA: Final = f"""
CREATE TABLE event (position INTEGER PRIMARY KEY AUTOINCREMENT, {_TYPED});
CREATE TABLE refused (position INTEGER PRIMARY KEY, {_TYPED}, reason TEXT NOT NULL);
CREATE TABLE mark (one INTEGER PRIMARY KEY CHECK (one = 1), removed INTEGER NOT NULL,
    stream TEXT, sequence INTEGER NOT NULL);
INSERT INTO mark VALUES (1, 0, NULL, 0);
PRAGMA application_id = {APPLICATION};
"""  # noqa: S608  # this module's own text


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the spool has been emptied.

    Everything up to the position ``removed`` is with the stream, or refused. ``sequence`` is what
    ``stream`` gave to the last of it that was stored: what comes later gets a higher one.
    """

    removed: int = 0
    stream: str | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Spooled:
    """An event in the spool. ``spooled_at`` is in seconds of Unix time."""

    position: int
    size: int
    spooled_at: float
    event: OutgoingEvent


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that the stream will not take, and why. ``spooled_at`` is as in :class:`Spooled`."""

    position: int
    spooled_at: float
    event: OutgoingEvent
    reason: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What a file holds: events that wait and those that were refused, and the bytes of both.

    ``last`` is the highest position given so far.
    """

    waiting: int
    waiting_bytes: int
    refused: int
    refused_bytes: int
    last: int


def size_of(event: OutgoingEvent) -> int:
    """Return the bytes that an event counts for."""
    texts = (event.id, event.type, event.user or "", event.subject, event.live_subject)
    headers = sum(len(name) + len(value) for name, value in event.headers.items())
    return OVERHEAD + len(event.payload) + sum(map(len, texts)) + headers


def to_row(event: OutgoingEvent, spooled_at: float) -> tuple[Any, ...]:
    """Return the columns of an event, without its position."""
    return (
        size_of(event),
        spooled_at,
        event.id,
        event.type,
        event.user,
        event.subject,
        event.live_subject,
        event.payload,
        json.dumps(dict(event.headers)),
    )


def from_row(row: Sequence[Any]) -> Spooled:
    """Return the event of a row that begins with its position."""
    position, size, spooled_at, event_id, kind, user, subject, live_subject, payload, headers = row
    event = OutgoingEvent(
        type=kind,
        id=event_id,
        user=user,
        durable=True,
        subject=subject,
        live_subject=live_subject,
        payload=payload,
        headers=json.loads(headers),
    )
    return Spooled(position, size, spooled_at, event)


class SpoolFile:
    """A file that is open and locked."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it where there is none, readable by its owner alone.

        Raises :class:`SpoolLocked`, and :class:`SpoolFailed` for a file that is no spool.
        """
        self._path = path
        with self._told():
            # SQLite gives its other files the same permissions.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            with self._told():
                self._prepare()
                self.mark = self._read_mark()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        run = self._database.execute
        # The lock is taken with the first access and kept until the file is closed.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        # On macOS a plain fsync leaves data in the drive; elsewhere these do nothing.
        run("PRAGMA fullfsync = ON")
        run("PRAGMA checkpoint_fullfsync = ON")
        with self._transaction():
            (application,) = run("PRAGMA application_id").fetchone()
            (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
            if application != APPLICATION and tables:
                raise SpoolFailed(f"{self._path} is not a spool of this version")
            if not tables:
                for statement in _SCHEMA.split(";"):
                    run(statement)

    def _read_mark(self) -> Mark:
        return Mark(
            *self._database.execute("SELECT removed, stream, sequence FROM mark").fetchone()
        )

    def write(self, events: Sequence[OutgoingEvent], mark: Mark, now: float) -> None:
        """Add events behind all others, and take out what ``mark`` says is done, in one commit.

        ``now`` is in seconds of Unix time. Raises :class:`SpoolFailed`.
        """
        with self._told(), self._transaction():
            self._move(mark)
            self._add(to_row(event, now) for event in events)
        self.mark = mark

    def refuse(self, position: int, reason: str, mark: Mark) -> None:
        """Put the event at ``position`` aside, in one commit; raises :class:`SpoolFailed`."""
        with self._told(), self._transaction():
            # The columns are this module's own: nothing of an event is in these statements.
            self._database.execute(
                f"INSERT INTO refused (position, {_COLUMNS}, reason) "  # noqa: S608  # own names
                f"SELECT position, {_COLUMNS}, ? FROM event WHERE position = ?",
                (reason, position),
            )
            self._move(mark)
        self.mark = mark

    def after(self, position: int, limit: int) -> list[Spooled]:
        """Return the next events behind a position, oldest first."""
        with self._told():
            rows = self._database.execute(
                f"SELECT position, {_COLUMNS} FROM event "  # noqa: S608  # own names
                "WHERE position > ? ORDER BY position LIMIT ?",
                (position, limit),
            )
            return [from_row(row) for row in rows]

    def refused(self, limit: int) -> list[RefusedEvent]:
        """Return the first events that were put aside."""
        with self._told():
            rows = self._database.execute(
                f"SELECT position, {_COLUMNS}, reason FROM refused "  # noqa: S608  # own names
                "ORDER BY position LIMIT ?",
                (limit,),
            )
            told = []
            for *row, reason in rows:
                kept = from_row(row)
                told.append(RefusedEvent(kept.position, kept.spooled_at, kept.event, reason))
            return told

    def put_back(self, positions: Sequence[int]) -> int:
        """Put refused events behind all that wait, in the order they had; return how many."""
        with self._told(), self._transaction():
            rows = self._take_refused(positions)
            self._add(row[1:] for row in rows)
            return len(rows)

    def discard(self, positions: Sequence[int]) -> tuple[int, int]:
        """Delete refused events; return how many there were, and their bytes."""
        with self._told(), self._transaction():
            rows = self._take_refused(positions)
            return len(rows), sum(row[1] for row in rows)

    def totals(self) -> Totals:
        """Count what the file holds."""
        with self._told():
            events, refused = (
                self._database.execute(
                    f"SELECT count(*), coalesce(sum(size), 0) FROM {table}"  # noqa: S608  # own names
                ).fetchone()
                for table in ("event", "refused")
            )
            return Totals(events[0], events[1], refused[0], refused[1], self._last())

    def close(self) -> None:
        """Close and unlock."""
        with self._told():
            self._database.close()

    def _add(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._database.executemany(
            f"INSERT INTO event ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # own names
            rows,
        )

    def _last(self) -> int:
        found = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        row = found.fetchone()
        return 0 if row is None else int(row[0])

    def _move(self, mark: Mark) -> None:
        if mark == self.mark:
            return
        self._database.execute("DELETE FROM event WHERE position <= ?", (mark.removed,))
        self._database.execute(
            "UPDATE mark SET removed = ?, stream = ?, sequence = ?",
            (mark.removed, mark.stream, mark.sequence),
        )

    def _take_refused(self, positions: Sequence[int]) -> list[tuple[Any, ...]]:
        rows = []
        for position in sorted(set(positions)):
            found = self._database.execute(
                f"SELECT position, {_COLUMNS} FROM refused WHERE position = ?",  # noqa: S608  # own names
                (position,),
            )
            rows += found.fetchall()
            self._database.execute("DELETE FROM refused WHERE position = ?", (position,))
        return rows

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back by itself.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell SQLite's and the system's errors as the spool's own."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise SpoolLocked(f"{self._path} is in use by another publisher") from None
            raise SpoolFailed(f"{self._path}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise SpoolFailed(f"{self._path}: {error}") from error
