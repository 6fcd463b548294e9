"""The load client in Python, where there is no C compiler: what ``native/load.c`` does, slower.

Same arguments, same commands, same answers; the figures say when it is what limits.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

from benchmarks.events import MARK, STAMP

READ_SIZE = 256 * 1024


class Seen:
    """What was counted since the last reset."""

    def __init__(self) -> None:
        self.messages = self.bytes = self.reads = self.closed = self.close_code = 0
        self.first = self.last = 0
        self.latencies: list[int] = []


class Connection:
    """One client: its steps, and the bytes of a frame that is not whole yet."""

    def __init__(self, steps: list[tuple[bytes, bytes]], sampled: bool) -> None:
        self.steps = steps
        self.sampled = sampled
        self.step = 1
        self.state = "connecting"
        self.rest = b""
        self.heard = b""
        self.socket = socket.socket()


class Client:
    """The loop over all connections and the commands."""

    def __init__(self, port: int, marks: bool, connections: list[Connection]) -> None:
        self._address = ("127.0.0.1", port)
        self._marks = marks
        self._connections = connections
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._input = b""
        self._seen = Seen()
        self._next = self._ready = self._failed = self._target = self._window = 0
        self._began = 0
        self._connect_until: float | None = None
        self._goal = 0
        self._wait_until: float | None = None

    def run(self) -> None:
        """Serve commands until the input ends."""
        while True:
            for key, _ in self._selector.select(0.05):
                if key.data is None:
                    self._read_commands()
                else:
                    self._on_event(key.data)
            self._advance()

    def _read_commands(self) -> None:
        data = os.read(0, 4096)
        if not data:
            sys.exit(0)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            name, *words = line.decode().split()
            numbers = [int(word) for word in words]
            if name == "connect":
                self._target, self._window = numbers[:2]
                self._began = time.monotonic_ns()
                self._connect_until = time.monotonic() + numbers[2] / 1000
            elif name == "wait":
                self._goal = numbers[0]
                self._wait_until = time.monotonic() + numbers[1] / 1000
            elif name == "reset":
                self._seen = Seen()
                _answer({})
            else:
                self._report()

    def _report(self) -> None:
        seen, found = self._seen, sorted(self._seen.latencies)

        def percentile(share: float) -> int:
            return found[min(len(found) - 1, int(share * len(found)))] if found else 0

        _answer(
            {
                "messages": seen.messages,
                "bytes": seen.bytes,
                "reads": seen.reads,
                "closed": seen.closed,
                "close_code": seen.close_code,
                "segments": seen.reads,
                "cpu_ns": time.process_time_ns(),
                "samples": len(found),
                "p50": percentile(0.5),
                "p99": percentile(0.99),
                "p999": percentile(0.999),
                "max": percentile(1),
            }
        )

    def _advance(self) -> None:
        now = time.monotonic()
        if self._connect_until is not None:
            under_way = self._next - self._ready - self._failed
            while self._next < self._target and under_way < self._window:
                self._open(self._connections[self._next])
                self._next += 1
                under_way += 1
            if self._ready + self._failed >= self._target or now > self._connect_until:
                self._connect_until = None
                taken = time.monotonic_ns() - self._began
                _answer({"ready": self._ready, "failed": self._failed, "ns": taken})
        seen = self._seen
        if self._wait_until is not None and (seen.messages >= self._goal or now > self._wait_until):
            self._wait_until = None
            _answer({"messages": seen.messages, "first": seen.first, "last": seen.last})

    def _open(self, connection: Connection) -> None:
        try:
            connection.socket.connect(self._address)
            connection.socket.sendall(connection.steps[0][1])
        except OSError:
            self._failed += 1
            return
        connection.socket.setblocking(False)
        connection.state = "upgrading"
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _on_event(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(connection)
            return
        now = time.monotonic_ns()
        self._seen.bytes += len(data)
        self._seen.reads += 1
        if connection.state == "upgrading":
            connection.heard += data
            head, end, data = connection.heard.partition(b"\r\n\r\n")
            if not end:
                return
            if head[9:12] != b"101":
                self._lose(connection)
                return
            connection.heard = b""
            connection.state = "talking"
            self._take_steps(connection)
        self._walk(connection, connection.rest + data, now)

    def _lose(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection.state == "ready":
            self._seen.closed += 1
        else:
            self._failed += 1

    def _walk(self, connection: Connection, data: bytes, now: int) -> None:
        at, size = 0, len(data)
        while size - at >= 2:
            length, head = data[at + 1] & 0x7F, 2
            if length >= 126:
                head = 4 if length == 126 else 10
                if size - at < head:
                    break
                length = int.from_bytes(data[at + 2 : at + head], "big")
            if size - at - head < length:
                break
            payload = data[at + head : at + head + length]
            self._frame(connection, data[at], payload, now)
            at += head + length
        connection.rest = data[at:]

    def _frame(self, connection: Connection, first: int, payload: bytes, now: int) -> None:
        opcode = first & 0x0F
        if opcode == 9:
            connection.socket.sendall(bytes((0x8A, 0x80 | len(payload))) + b"\0\0\0\0" + payload)
        elif opcode == 8:
            self._seen.close_code = int.from_bytes(payload[:2], "big")
        elif opcode < 8 and connection.state == "talking":
            connection.heard += payload
            self._take_steps(connection)
        elif opcode < 8:
            self._count(connection, first, payload, now)

    def _count(self, connection: Connection, first: int, payload: bytes, now: int) -> None:
        more = payload.count(MARK) if self._marks else first >> 7
        if not more:
            return
        seen = self._seen
        seen.first = seen.first or now
        seen.last = now
        seen.messages += more
        if connection.sampled:
            for part in payload.split(MARK)[1:]:
                stamp = int(part[: len(STAMP)])
                if stamp:
                    seen.latencies.append(now - stamp)

    def _take_steps(self, connection: Connection) -> None:
        while connection.step < len(connection.steps):
            wait, send = connection.steps[connection.step]
            if wait not in connection.heard:
                return
            connection.heard = b""
            connection.step += 1
            if send:
                connection.socket.sendall(send)
        connection.state = "ready"
        self._ready += 1


def _answer(answer: dict[str, int]) -> None:
    print(json.dumps(answer), flush=True)


def _connections(path: str, sample_every: int) -> list[Connection]:
    script, at = Path(path).read_bytes(), 0

    def number() -> int:
        nonlocal at
        at += 4
        value: int = struct.unpack_from("=I", script, at - 4)[0]
        return value

    def text() -> bytes:
        nonlocal at
        length = number()
        at += length
        return script[at - length : at]

    return [
        Connection([(text(), text()) for _ in range(number())], index % sample_every == 0)
        for index in range(number())
    ]


if __name__ == "__main__":
    port, mode, every, script_path = sys.argv[1:]
    Client(int(port), mode == "marks", _connections(script_path, int(every))).run()
