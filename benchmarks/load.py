"""The load client's handle: scripts for its connections, commands, what it measured."""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import native
from benchmarks.machine import LOAD_CORE
from benchmarks.processes import Process

Script = Sequence[tuple[bytes, bytes]]
"""What one connection waits for and what it then sends; the first step is the HTTP request."""

HANDSHAKE_WINDOW = 256
"""Handshakes under way at once."""


class Load:
    """The client process, with one script for each connection."""

    def __init__(
        self, port: int, scripts: Sequence[Script], *, marks: bool = False, sample_every: int = 1
    ) -> None:
        with tempfile.NamedTemporaryFile(prefix="bench-script-", delete=False) as file:
            file.write(_packed(scripts))
        self._script = Path(file.name)
        binary = native.program("load")
        command = [binary] if binary else [sys.executable, "-m", "benchmarks.load_fallback"]
        arguments = [str(port), "marks" if marks else "frames", str(sample_every), file.name]
        self.process = Process([*command, *arguments], core=LOAD_CORE)
        self._connected = 0

    def connect(self, to: int, *, window: int = HANDSHAKE_WINDOW, deadline: float = 120) -> float:
        """Open connections up to number ``to``; return how many came ready a second."""
        return self.start_connecting(to, window=window, deadline=deadline).finish()

    def start_connecting(self, to: int, *, window: int, deadline: float) -> Storm:
        """Begin to open connections, and return at once."""
        storm = Storm(self.process, to - self._connected, to, deadline)
        self._connected = to
        self.process.tell(f"connect {to} {window} {int(deadline * 1000)}")
        return storm

    def reset(self) -> None:
        """Forget what was counted."""
        self.process.ask("reset")

    def wait(self, messages: int, deadline: float) -> dict[str, Any]:
        """Wait until so many messages came; ``messages`` of the answer tells how many did."""
        return self.process.ask(f"wait {messages} {int(deadline * 1000)}", deadline + 10)

    def report(self) -> dict[str, Any]:
        """Return counts and latencies (nanoseconds) since the reset."""
        return self.process.ask("report", 30)

    def stop(self) -> None:
        """End it; safe to call twice."""
        self.process.stop()
        self._script.unlink(missing_ok=True)


class Storm:
    """Connections being opened. Nothing else may be asked of the client until it is over."""

    def __init__(self, process: Process, count: int, target: int, deadline: float) -> None:
        self._process = process
        self._count = count
        self._target = target
        self._deadline = deadline

    def is_over(self) -> bool:
        """Whether all are ready, or it took too long; does not wait."""
        return self._process.has_line()

    def finish(self) -> float:
        """Wait for the end; return how many came ready a second."""
        answer = self._process.answer(self._deadline + 10)
        if answer["failed"] or answer["ready"] != self._target:
            raise RuntimeError(
                f"{answer['ready']} of {self._target} connections are ready, "
                f"{answer['failed']} failed"
            )
        return float(self._count / (answer["ns"] / 1e9))


def _packed(scripts: Sequence[Script]) -> bytes:
    number = struct.Struct("=I").pack
    parts = [number(len(scripts))]
    for script in scripts:
        parts.append(number(len(script)))
        for wait, send in script:
            parts += (number(len(wait)), wait, number(len(send)), send)
    return b"".join(parts)


def request(path: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the bytes of an upgrade request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    ).encode()


def text(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame, masked with zeros, which leaves the payload as it is."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    return head + b"\x00\x00\x00\x00" + payload
