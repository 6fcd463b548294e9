"""A WebSocket peer as a script: a transport that writes down, a loop whose time a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK: Final = b"\x5a\x00\xff\x21"

Frame = tuple[int, bytes]
"""Opcode and payload."""


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes | None = MASK, bits: int = 0
) -> bytes:
    """Return a frame as clients send it; ``mask=None`` and ``bits`` make what is forbidden."""
    size = len(payload)
    head = bytes(((0x80 if fin else 0) | bits | opcode,))
    flag = 0 if mask is None else 0x80
    if size < 126:
        head += bytes((flag | size,))
    elif size < 1 << 16:
        head += bytes((flag | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((flag | 127,)) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def close_payload(code: int, reason: str = "") -> bytes:
    """Return what a close frame holds."""
    return code.to_bytes(2, "big") + reason.encode()


def server_frames(data: bytes) -> list[Frame]:
    """Read whole frames of a server: final, not masked."""
    frames, at = [], 0
    while at < len(data):
        assert data[at] & 0xF0 == 0x80, "a final frame without extensions"
        length, start = data[at + 1], at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        frames.append((data[at] & 0x0F, data[start : start + length]))
        at = start + length
    return frames


class ScriptedTransport(asyncio.Transport):
    """What a socket may do to its transport, written down."""

    def __init__(self, *, eof: bool = True, **extra: Any) -> None:
        super().__init__(extra)
        self._can_write_eof = eof
        self.written = b""
        self.writes = 0
        self.reading = True
        self.closed = False
        self.aborted = False
        self.ended = False
        self.protocol: asyncio.BaseProtocol | None = None
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written to after the close"
        self.written += data
        self.writes += 1

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def can_write_eof(self) -> bool:
        return self._can_write_eof

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    @property
    def frames(self) -> list[Frame]:
        """All frames that were written."""
        return server_frames(self.written)


@dataclass(eq=False)
class Timer:
    """A call that is due."""

    at: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class ScriptedLoop:
    """Timers and soon calls, run when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *args: Any) -> Timer:
        timer = Timer(self.now + delay, lambda: call(*args))
        self.timers.append(timer)
        return timer

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        self._soon.append(lambda: call(*args))

    def run(self) -> None:
        """Do what was to be done soon."""
        while self._soon:
            self._soon.pop(0)()

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what is due in its order."""
        until = self.now + seconds
        while True:
            self.run()
            due = [each for each in self.timers if not each.cancelled and each.at <= until]
            if not due:
                break
            timer = min(due, key=lambda each: each.at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.call()
        self.now = until


@dataclass
class Owner:
    """The receiver of a socket; writes down what it is told."""

    messages: list[tuple[bytes, bool]] = field(default_factory=list)
    signs: int = 0
    told: list[str] = field(default_factory=list)

    def on_message(self, data: bytes, is_text: bool) -> None:
        self.messages.append((data, is_text))

    def on_sign_of_life(self) -> None:
        self.signs += 1

    def on_pause(self) -> None:
        self.told.append("pause")

    def on_resume(self) -> None:
        self.told.append("resume")

    def on_lost(self) -> None:
        self.told.append("lost")


class Peer:
    """One connection: a socket, its owner, its transport."""

    def __init__(
        self, parsers: Parsers | None = None, *, max_size: int = 1 << 20, eof: bool = True
    ) -> None:
        self.loop = ScriptedLoop()
        self.transport = ScriptedTransport(eof=eof)
        self.owner = Owner()
        self.socket = Socket(
            self.transport,
            parsers or Parsers(max_size),
            self.loop,  # type: ignore[arg-type]  # as much of a loop as it needs
        )
        self.socket.start(self.owner)

    def send(self, *chunks: bytes) -> None:
        """Let these bytes come in, read by read, for as long as the transport is open."""
        for chunk in chunks:
            if not self.transport.closed and chunk:
                self.socket.data_received(chunk)
        self.loop.run()

    def lose(self) -> None:
        """The transport is gone."""
        self.transport.closed = True
        self.socket.connection_lost(None)

    @property
    def pongs(self) -> list[bytes]:
        """The payloads of the pongs that were written."""
        return [payload for opcode, payload in self.transport.frames if opcode == PONG]

    @property
    def closes(self) -> list[tuple[int, str]]:
        """Code and reason of each close frame that was written; 1005 for one without."""
        return [
            (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")
            for opcode, payload in self.transport.frames
            if opcode == CLOSE
        ]
