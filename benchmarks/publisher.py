"""A raw NATS publisher: ready-made protocol bytes written straight to a socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from benchmarks.events import Message

DEADLINE = 60.0


class Publisher:
    """One connection to the broker. Everything blocks, within the deadline."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.recv(65536)
        self._socket.sendall(b'CONNECT {"verbose":false,"headers":true,"pedantic":false}\r\n')
        self.flush()

    def flush(self) -> None:
        """Wait until the broker has read everything written so far."""
        self._socket.sendall(b"PING\r\n")
        answer = b""
        while b"PONG\r\n" not in answer:
            data = self._socket.recv(65536)
            if not data or b"-ERR" in data:
                raise ConnectionError(f"the broker ended the publisher's connection: {data!r}")
            answer = (answer + data).replace(b"PING\r\n", b"")

    def ask(self, subject: str, payload: bytes) -> None:
        """Request something, wait for the answer, and close; fails on an answer with an error."""
        self._socket.sendall(
            b"SUB answer 1\r\nPUB %b answer %d\r\n%b\r\n"
            % (subject.encode(), len(payload), payload)
        )
        answer = b""
        while not answer.rstrip().endswith(b"}"):
            answer += self._socket.recv(65536)
        self.close()
        if b'"error"' in answer:
            raise ConnectionError(f"{subject}: {answer!r}")

    def burst(self, messages: Sequence[Message]) -> None:
        """Write all of them at once."""
        self._socket.sendall(b"".join(message.wire for message in messages))

    def paced(self, messages: Sequence[Message], interval: float) -> float:
        """Write one every ``interval`` seconds, stamped; return the longest delay in seconds.

        A message that is late is written at once, and the next ones keep their times.
        """
        send, now, longest = self._socket.sendall, time.monotonic, 0.0
        due = now()
        for message in messages:
            left = due - now()
            if left > 0:
                time.sleep(left)
            else:
                longest = max(longest, -left)
            send(message.stamp())
            due += interval
        return longest

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
