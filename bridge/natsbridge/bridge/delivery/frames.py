"""WebSocket frames of a server (RFC 6455 §5.2): unmasked, never fragmented, never compressed.

They are the same bytes for every client, which is why one encoding serves all receivers.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from natsbridge.schemas.codes import CloseCode

_TEXT: Final = 0x81
_MEDIUM: Final = Struct("!BBH").pack
_LONG: Final = Struct("!BBQ").pack

PING: Final = b"\x89\x00"
"""A ping without payload: one for all connections."""


def _head(length: int) -> bytes:
    if length < 126:
        return bytes((_TEXT, length))
    return _MEDIUM(_TEXT, 126, length) if length < 65536 else _LONG(_TEXT, 127, length)


_READY: Final = 2048
_HEADS: Final = tuple(_head(length) for length in range(_READY))
"""The heads of most frames: looking one up costs a fifth of making it."""


def text_frame(payload: bytes) -> bytes:
    """Return a final text frame around UTF-8 text."""
    length = len(payload)
    return (_HEADS[length] if length < _READY else _head(length)) + payload


def cursor_frame(event: bytes, opening: bytes, sequence: bytes) -> bytes:
    """Return the text frame of an event that ends with its brace, with a cursor as its last field.

    The same as a frame around what :func:`natsbridge.schemas.envelope.splice_cursor` returns,
    copied once.
    ``opening`` is what stands between the event's fields and the cursor's last part.
    """
    length = len(event) + len(opening) + len(sequence) + 1
    head = _HEADS[length] if length < _READY else _head(length)
    return b"".join((head, event[:-1], opening, sequence, b'"}'))


def hold_cursor(frame: bytes, position: int) -> bytes:
    """Return the frame of an event with its cursor held at an earlier position.

    The event's own sequence becomes the cursor's last part; see :mod:`natsbridge.schemas.cursors`.
    """
    start = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
    at = frame.rfind(b"-") + 1
    sequence = frame[at:-2]
    if int(sequence) <= position:
        return frame
    return text_frame(b'%b%d-%b"}' % (frame[start:at], position, sequence))


def close_frame(close: CloseCode) -> bytes:
    """Return a close frame with the code and, as its reason, the name from the table."""
    payload = close.code.to_bytes(2, "big") + close.name.encode()
    return bytes((0x88, len(payload))) + payload


def pong_frame(payload: bytes) -> bytes:
    """Return the pong for a ping with this payload, at most 125 bytes (RFC 6455 §5.5)."""
    return bytes((0x8A, len(payload))) + payload
