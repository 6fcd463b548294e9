"""What nats-server writes around an event that it republishes from the stream, read strictly.

It appends to the event's own headers (NATS ADR-28; nats-server 2.14 and 2.15, ``stream.go``)::

    Nats-Stream: EVENTS
    Nats-Subject: events.user.42.upload.completed.u1
    Nats-Sequence: 7
    Nats-Time-Stamp: 2026-01-08T10:30:00.123456789Z
    Nats-Last-Sequence: 3

Whoever publishes may write such lines into the event too, but only before these: of repeated ones
the last count. A Direct Get answers with the same lines, but without ``Nats-Last-Sequence``, or
with ``Nats-Num-Pending``: sent to a live subject as a reply, it is no event.
"""

from __future__ import annotations

from typing import Final

MAX_DIGITS: Final = 20
"""A stream's sequence is an unsigned 64-bit number."""

SEQUENCE: Final = b"Nats-Sequence: "
NUMBERED: Final = b"\r\n" + SEQUENCE
TIME: Final = b"Nats-Time-Stamp: "
BEFORE: Final = b"Nats-Last-Sequence: "

_STREAM: Final = b"\r\nNats-Stream: "

Place = tuple[bytes, bytes]
"""The sequence of an event, and that of the one before it of its subject, in digits."""


class Republished:
    """Reads the headers of one stream's events.

    ``line`` is what stands before the subject below its root; the hub begins with it and reads the
    usual block in place, since a call costs it as much as the reading.
    """

    __slots__ = ("_events", "_name", "line")

    def __init__(self, stream: str, events_root: str) -> None:
        """``events_root`` is that of stored subjects, without a trailing dot."""
        self._name: Final = stream.encode()
        self._events: Final = f"{events_root}.".encode()
        self.line: Final = _STREAM + self._name + b"\r\nNats-Subject: " + self._events

    def read(self, headers: bytes, rest: bytes) -> Place | None:
        """Return where in the stream an event is, whose subject below the root is ``rest``.

        None where these are not the headers of the stream's event with this subject. Takes them in
        any order, with other lines among them, as another version of the server may write them.
        """
        at = headers.rfind(_STREAM)
        lines = headers[at + 2 :].split(b"\r\n") if at >= 0 else []
        found: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b": ")
            found[name] = value
        sequence, before = found.get(b"Nats-Sequence", b""), found.get(b"Nats-Last-Sequence", b"")
        if (
            found.get(b"Nats-Stream") != self._name
            or found.get(b"Nats-Subject") != self._events + rest
            or b"Nats-Num-Pending" in found
            or not (sequence.isdigit() and before.isdigit())
            or len(sequence) > MAX_DIGITS
        ):
            return None
        return sequence, before


def sequence_of(headers: bytes) -> int:
    """Return the sequence of an event whose headers were taken for the stream's; 0 without any."""
    start = headers.rfind(NUMBERED) + len(NUMBERED)
    return int(headers[start : headers.find(b"\r", start)]) if headers else 0
