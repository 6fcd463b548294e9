"""Events as the SDK and JetStream put them on NATS: valid for the catalogue, with every header.

What is published goes straight to where a peer listens, with the header block that the stream's
republish writes, so that the broker's storage is not part of what is measured.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

FIRST = 10_000_000
"""The sequences begin behind this one, where the stream reaches past all of them: a bridge asks
JetStream about an event that is further on than the stream.
"""
REACH = 90_000_000
"""How far the stream reaches; with as many digits."""

MARK = b"^"
STAMP = b"0" * 19
"""Nanoseconds of CLOCK_MONOTONIC at publishing go here; zeros are not counted as a latency."""

_TIME = "2026-01-08T10:30:00.123456Z"
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@dataclass(slots=True)
class Message:
    """One publish operation of the NATS protocol, ready but for its stamp."""

    wire: bytearray
    stamp_at: int

    def stamp(self) -> bytearray:
        """Write the present time into the payload, and return the operation."""
        at = self.stamp_at
        self.wire[at : at + len(STAMP)] = b"%019d" % time.monotonic_ns()
        return self.wire


class Mint:
    """Makes messages with sequences that go up as a stream's do. ``size`` is the payload's."""

    def __init__(self, root: str) -> None:
        """``root`` is that of the peer, see :class:`benchmarks.peers.base.Peer`."""
        self._root = root
        self._sequence = FIRST
        self._last: dict[str, int] = {}

    def topic(self, resource: str, size: int) -> Message:
        """An event for whoever subscribed to ``review.updated``."""
        data: dict[str, object] = {"review_id": resource, "changes": {}}
        return self._message("topic", "review.updated", resource, data, "changes", size)

    def user(self, user: str, size: int) -> Message:
        """An event for every connection of one user."""
        data: dict[str, object] = {"upload_id": "u1", "result": {}}
        return self._message(f"user.{user}", "upload.completed", "u1", data, "result", size)

    def everybody(self, size: int) -> Message:
        """An event for every connection."""
        data: dict[str, object] = {"message": "hello", "level": "info"}
        return self._message("all", "system.notification", "-", data, None, size)

    def _message(
        self,
        audience: str,
        event_type: str,
        resource: str,
        data: dict[str, object],
        room: str | None,
        size: int,
    ) -> Message:
        self._sequence += 1
        sequence = self._sequence
        tail = f"{audience}.{event_type}.{resource}"
        event_id = f"019b9d60-7a3c-7000-8000-{sequence:012x}"
        inner: dict[str, object] = {"at": (MARK + STAMP).decode()}
        data = {**data, room: inner} if room else {**data, **inner}
        event = {"type": event_type, "id": event_id, "timestamp": _TIME, "data": data}
        payload = json.dumps(event, separators=(",", ":")).encode()
        missing = size - len(payload) - len(b',"pad":""')
        if missing > 0:
            stamp_end = payload.index(MARK) + 1 + len(STAMP) + 1
            pad = b',"pad":"%s"' % (b"x" * missing)
            payload = payload[:stamp_end] + pad + payload[stamp_end:]
        headers = (
            f"NATS/1.0\r\ntraceparent: {_TRACE}\r\nNats-Msg-Id: {event_id}\r\n"
            f"Bridge-Schema: {event_type}@1\r\n"
            f"Nats-Stream: EVENTS\r\nNats-Subject: events.{tail}\r\n"
            f"Nats-Sequence: {sequence}\r\nNats-Time-Stamp: 2026-01-08T10:30:00.123456789Z\r\n"
            f"Nats-Last-Sequence: {self._last.get(tail, 0)}\r\n\r\n"
        ).encode()
        self._last[tail] = sequence
        line = f"HPUB {self._root}.{tail} {len(headers)} {len(headers) + len(payload)}\r\n".encode()
        wire = bytearray(line + headers + payload + b"\r\n")
        return Message(wire, len(line) + len(headers) + payload.index(MARK) + 1)
