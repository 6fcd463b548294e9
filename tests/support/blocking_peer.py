"""A WebSocket client on a blocking socket, for threads: it makes no cycles and no tasks."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import struct
from typing import Final, Self
from urllib.parse import urlsplit

from tests.support.clients import mint
from tests.support.lean import CLOSE, TEXT, masked

DEADLINE: Final = 10.0
UNCHECKED: Final = ssl.create_default_context()
UNCHECKED.check_hostname = False
UNCHECKED.verify_mode = ssl.CERT_NONE


class Peer:
    """A client that blocks and makes no cycles itself; a context manager that hangs up."""

    def __init__(self, url: str, path: str, *headers: str) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port), DEADLINE)
        if place.scheme == "https":
            self._socket = UNCHECKED.wrap_socket(self._socket)
        lines = "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {place.netloc}", *headers, "", ""))
        self._socket.sendall(lines.encode())
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def until(self, words: str) -> None:
        """Read until these words have come."""
        while words.encode() not in self._read:
            data = self._socket.recv(65536)
            assert data, f"closed before {words}"
            self._read += data
        self._read = self._read.partition(words.encode())[2]

    def read(self, times: int) -> None:
        """Read a little, so often."""
        for _ in range(times):
            self._socket.recv(1000)

    def send(self, data: bytes) -> None:
        """Send these bytes, as many of them as are taken."""
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def drain(self) -> None:
        """Read until the other side has closed."""
        with contextlib.suppress(OSError):
            while self._socket.recv(65536):
                pass

    def ask(self, kind: str, data: object, answer: str) -> None:
        """Send a message and wait for what comes of it."""
        self._socket.sendall(masked(TEXT, json.dumps({"type": kind, "data": data}).encode()))
        self.until(answer)

    def close_politely(self) -> None:
        """Send a close frame and wait for the bridge's, and for the end."""
        self._socket.sendall(masked(CLOSE, b""))
        while self._socket.recv(65536):
            pass

    def reset(self) -> None:
        """End with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def upgraded(url: str, user: str, query: str = "", token: str = "", *, header: bool = True) -> Peer:
    """A peer that asked for a WebSocket, with a token in the header or without one."""
    key = base64.b64encode(os.urandom(16)).decode()
    return Peer(
        url,
        f"/ws{query}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *((f"Authorization: Bearer {token or mint(user)}",) if header else ()),
    )
