"""The header block in which nats-server 2.15 republishes a stored event."""

from __future__ import annotations


def republished(
    subject: str | bytes,
    sequence: object,
    before: object = 0,
    *,
    stream: str = "EVENTS",
    own: bytes = b"Nats-Msg-Id: 1\r\n",
) -> bytes:
    """Return the headers of the event that is stored under a subject, behind its own.

    ``before`` is the sequence of the one before it of the same subject.
    """
    name = subject if isinstance(subject, bytes) else subject.encode()
    lines = (
        f"Nats-Stream: {stream}\r\nNats-Subject: ".encode(),
        name,
        f"\r\nNats-Sequence: {sequence}\r\nNats-Time-Stamp: 2026-01-08T10:30:00.123456789Z\r\n"
        f"Nats-Last-Sequence: {before}\r\n\r\n".encode(),
    )
    return b"NATS/1.0\r\n" + own + b"".join(lines)
