"""The floor in Python, for machines without a C compiler: what ``native/floor.c`` does."""

from __future__ import annotations

import json
import os
import socket
import sys
import time

from benchmarks.events import MARK, STAMP

_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Floor:
    """The connections and the frame."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._clients: list[socket.socket] = []
        self._frame = bytearray()
        self._stamp_at = 0
        self.times: list[int] = []

    def serve(self, count: int) -> None:
        """Accept until so many are upgraded."""
        while len(self._clients) < count:
            client, _ = self.listener.accept()
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(16384)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(_ANSWER)
            self._clients.append(client)

    def frame(self, size: int) -> None:
        """Make the frame."""
        if size < 126:
            head = bytes((0x81, size))
        elif size < 65536:
            head = b"\x81\x7e" + size.to_bytes(2, "big")
        else:
            head = b"\x81\x7f" + size.to_bytes(8, "big")
        self._frame = bytearray(head + (MARK + STAMP).ljust(size, b"x"))
        self._stamp_at = len(head) + 1

    def burst(self, events: int, batch: int) -> None:
        """Write frames to each, ``batch`` at once."""
        for done in range(0, events, batch):
            frames = self._stamped() * min(batch, events - done)
            for client in self._clients:
                _write(client, frames)

    def rounds(self, count: int, interval: int) -> None:
        """Write one frame to each, at a pace."""
        due = time.monotonic_ns()
        for _ in range(count):
            _sleep_until(due)
            began = time.monotonic_ns()
            frame = self._stamped()
            for client in self._clients:
                _write(client, frame)
            self.times.append(time.monotonic_ns() - began)
            due += interval

    def spread(self, count: int, interval: int) -> None:
        """Write each frame to one connection in turn."""
        due = time.monotonic_ns()
        for done in range(count):
            if interval:
                _sleep_until(due)
                due += interval
            _write(self._clients[done % len(self._clients)], self._stamped())

    def _stamped(self) -> bytes:
        at = self._stamp_at
        self._frame[at : at + len(STAMP)] = b"%019d" % time.monotonic_ns()
        return bytes(self._frame)


def _write(client: socket.socket, data: bytes) -> None:
    sent = os.write(client.fileno(), data)
    while sent < len(data):
        sent += os.write(client.fileno(), data[sent:])


def _sleep_until(due: int) -> None:
    left = due - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


def main() -> None:
    """Serve commands until the input ends."""
    floor = Floor()
    print("ready", floor.listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        name, *words = line.split()
        floor.times.clear()
        cpu = time.process_time_ns()
        getattr(floor, name)(*map(int, words))
        times = sorted(floor.times) or [0]
        answer = {
            "cpu_ns": time.process_time_ns() - cpu,
            "p50": times[len(times) // 2],
            "p99": times[int(len(times) * 0.99)],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
