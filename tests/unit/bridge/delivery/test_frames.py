"""Frames of the server: the bytes of RFC 6455, read back by another implementation."""

from __future__ import annotations

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from natsbridge.bridge.delivery.frames import (
    PING,
    close_frame,
    cursor_frame,
    pong_frame,
    text_frame,
)
from natsbridge.schemas.codes import CLOSE_CODES, CloseCode
from natsbridge.schemas.envelope import splice_cursor


def read(data: bytes) -> Frame:
    """Return the one frame that these bytes are, as a client reads it."""
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert not reader.buffer
    frame: Frame = done.value.value
    return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_a_text_frame_of_any_size(size: int) -> None:
    """One final text frame without a mask, its length in the shortest form."""
    frame = read(text_frame(b"x" * size))
    assert (frame.opcode, frame.fin, len(frame.data)) == (Opcode.TEXT, True, size)
    head = 2 if size < 126 else 4 if size < 65_536 else 10
    assert len(text_frame(b"x" * size)) == head + size


@pytest.mark.parametrize("size", [2, 98, 99, 100, 101, 2020, 2021, 2022, 65_509, 65_510, 70_000])
def test_an_event_with_its_cursor_in_one_copy(size: int) -> None:
    """The frame that splicing first and framing then would give, around each change of its head."""
    event = b'{"a":"%b"}' % (b"x" * size)
    spliced = splice_cursor(event, b"5f-123")
    assert cursor_frame(event, b',"cursor":"5f-', b"123") == text_frame(spliced)


@pytest.mark.parametrize("row", CLOSE_CODES.values(), ids=lambda row: str(row.code))
def test_a_close_frame_has_code_and_name(row: CloseCode) -> None:
    """Every row of the table fits, with its name as the reason."""
    frame = read(close_frame(row))
    assert frame.opcode is Opcode.CLOSE
    assert Close.parse(bytes(frame.data)) == Close(row.code, row.name)


def test_control_frames() -> None:
    """A ping without payload; a pong with the ping's, up to its 125 bytes."""
    assert (read(PING).opcode, bytes(read(PING).data)) == (Opcode.PING, b"")
    for payload in (b"", b"x" * 125):
        frame = read(pong_frame(payload))
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, payload)
