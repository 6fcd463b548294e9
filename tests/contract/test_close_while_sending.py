"""Each close that the bridge begins reaches a client that is still sending, over TCP and over TLS.

The client is the least favourable one: a thread that writes without ever reading until it has sent
megabytes more than what ended its connection, and only then reads.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
import pytest

from natsbridge.schemas import codes
from natsbridge.schemas.codes import CloseCode
from tests.support.blocking_peer import DEADLINE, UNCHECKED
from tests.support.bridge import BridgeProcess, finish
from tests.support.certificates import self_signed
from tests.support.clients import mint, new_user
from tests.support.lean import CLOSE, TEXT, masked
from tests.support.nats_server import NatsServer

REPETITIONS: Final = int(os.environ.get("CLOSE_REPETITIONS", "4"))
MORE: Final = 1024
"""Messages that a client sends after it did what ends its connection: 2 MB."""
MESSAGE: Final = masked(TEXT, b'{"type":"heartbeat","pad":"%s"}' % (b"x" * 2000))
EARLY: Final = masked(TEXT, b'{"type":"heartbeat"}') * 150
"""More messages than may come before the connection is established."""
BIG: Final = masked(TEXT, b"x" * 300_000)
SETTINGS: Final = {
    "BRIDGE_RATE_LIMIT_MESSAGES": "1000000000",
    "BRIDGE_AUTH_TIMEOUT": "1",
    "BRIDGE_CONNECTION_TIMEOUT": "2",
    "BRIDGE_HEARTBEAT_INTERVAL": "0.5",
}


@pytest.fixture(scope="module", params=["ws", "wss"])
def sent_to(
    request: pytest.FixtureRequest,
    nats_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[BridgeProcess]:
    """A bridge without TLS, and one with its own."""
    process = BridgeProcess(nats_server.url, SETTINGS | tls(request.param, tmp_path_factory))
    process.wait_ready()
    yield process
    finish([process])


def tls(scheme: str, folders: pytest.TempPathFactory) -> dict[str, str]:
    """Return the settings of this scheme."""
    if scheme == "ws":
        return {}
    cert, key = self_signed(folders.mktemp("tls"))
    return {"BRIDGE_TLS_CERT": str(cert), "BRIDGE_TLS_KEY": str(key)}


class Sender:
    """A client that writes and does not read, until it looks how its connection ended."""

    def __init__(self, url: str, token: str = "", *, behind: bytes = b"") -> None:
        """``behind`` is sent in one write with the request."""
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port), DEADLINE)
        if place.scheme == "https":
            self._socket = UNCHECKED.wrap_socket(self._socket)
        key = base64.b64encode(os.urandom(16)).decode()
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        request = (
            f"GET /ws HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n{authorization}\r\n"
        )
        self._read = b""
        self._newer: list[Sender] = []
        self.write(request.encode() + behind)
        self.hear("\r\n\r\n")
        self._read = self._read.partition(b"\r\n\r\n")[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self, *self._newer):
            each._socket.close()

    def hear(self, words: str) -> None:
        """Read until these words have come."""
        while words.encode() not in self._read:
            data = self._socket.recv(65536)
            assert data, f"closed before {words}"
            self._read += data

    def replace(self, url: str, token: str) -> None:
        """Take this client's place with newer ones of the same user, which stay."""
        for _ in range(3):
            self.write(MESSAGE)
            newer = Sender(url, token)
            newer.hear('"connection.established"')
            self._newer.append(newer)

    def can_read(self) -> bool:
        """Whether something has come."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def write(self, data: bytes) -> None:
        """Write all of it, however long the bridge takes to read it."""
        self._socket.sendall(data)

    def write_for(self, seconds: float) -> None:
        """Write message after message for a while, and less than a closing bridge reads."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.write(MESSAGE)
            time.sleep(0.001)

    def end(self) -> tuple[int, str]:
        """Write on, answer the close that must have come, and return its code and reason.

        After it the connection ends in order: without a reset, with TLS's own alert.
        """
        for _ in range(MORE):
            self.write(MESSAGE)
        self.write(masked(CLOSE, (1000).to_bytes(2, "big")))
        while data := self._socket.recv(1 << 20):
            self._read += data
        opcode, payload = list(frames(self._read))[-1]
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read what a server sent: opcode and payload."""
    at = 0
    while at < len(data):
        size, start = data[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        yield data[at] & 0x0F, data[start : start + size]
        at = start + size


def joined(url: str, token: str) -> Sender:
    """Return a client whose connection is established."""
    sender = Sender(url, token)
    sender.hear('"connection.established"')
    return sender


def sends(data: bytes) -> Callable[[str], Sender]:
    """Return what joins and sends this."""

    def way(url: str) -> Sender:
        sender = joined(url, mint(new_user()))
        sender.write(MESSAGE * 3 + data)
        return sender

    return way


def trickles(url: str, seconds: float, token: str) -> Sender:
    """Send a frame so slowly that no message and no other sign of life comes."""
    sender = Sender(url, token)
    frame = masked(TEXT, b"x" * (200_000 if token else 10_000))  # a stranger may not send more
    size = len(frame) // 100
    pieces = [frame[at : at + size] for at in range(0, len(frame), size)]
    for piece in pieces:
        sender.write(piece)
        time.sleep(seconds / len(pieces))
    return sender


def expires(url: str) -> Sender:
    """Send until after the token's end."""
    sender = joined(url, mint(new_user(), lifetime=1))
    sender.write_for(1.3)
    return sender


def leaves(body: object) -> Callable[[str], Sender]:
    """Return what sends until an administrator has sent its user away."""

    def way(url: str) -> Sender:
        user = new_user()
        sender = joined(url, mint(user))
        sender.write(MESSAGE * 3)
        headers = {"Authorization": f"Bearer {mint('root', role='admin')}"}
        path = f"{url}/ws/users/{user}/disconnect"
        answer = httpx.post(path, json=body, headers=headers, verify=UNCHECKED, trust_env=False)
        assert answer.json()["data"]["connections_closed"] == 1, answer.text
        return sender

    return way


def replaced(url: str) -> Sender:
    """Send until three newer connections of the same user are there."""
    token = mint(new_user())
    sender = joined(url, token)
    sender.replace(url, token)
    return sender


WAYS: Final[dict[CloseCode, Callable[[str], Sender]]] = {
    codes.PROTOCOL_ERROR: sends(b"\x83\x80" + bytes(4)),
    codes.INVALID_UTF8: sends(masked(TEXT, b"\xff")),
    codes.MESSAGE_TOO_BIG: sends(BIG),
    codes.TRY_AGAIN_LATER: lambda url: Sender(url, mint(new_user()), behind=EARLY),
    codes.HEARTBEAT_TIMEOUT: lambda url: trickles(url, 4, mint(new_user())),
    codes.TOKEN_EXPIRED: expires,
    codes.RECONNECT: leaves(None),
    codes.INVALID_TOKEN: lambda url: Sender(url, mint(new_user(), secret="x" * 64)),
    codes.REVOKED: leaves({"revoke": True}),
    codes.REPLACED: replaced,
    codes.TOO_MANY_ERRORS: sends(masked(TEXT, b"{}") * 25),
    codes.NOT_AUTHENTICATED: lambda url: trickles(url, 4, ""),
}
"""What brings each close about. A fault of ours (1011) and a slow client (4002) close as 4003."""


@pytest.mark.parametrize("row", WAYS, ids=lambda row: str(row.code))
def test_the_code_arrives(sent_to: BridgeProcess, row: CloseCode) -> None:
    """Code and reason are read, nothing that was sent meets a reset, and the end is in order."""

    def once(_: int) -> tuple[int, str]:
        with WAYS[row](sent_to.url) as sender:
            return sender.end()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(once, range(REPETITIONS))) == [(row.code, row.name)] * REPETITIONS


def test_the_drain_reaches_who_is_sending(sent_to: BridgeProcess) -> None:
    """SIGTERM while clients send: 1001 for each. The last test here, since it ends the bridge."""
    senders = [joined(sent_to.url, mint(new_user())) for _ in range(max(8, REPETITIONS))]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(senders)) as threads:
        for sender in senders:
            stack.enter_context(sender)

        def send(sender: Sender) -> tuple[int, str]:
            while not sender.can_read():
                sender.write_for(0.01)
            return sender.end()

        ends = [threads.submit(send, sender) for sender in senders]
        sent_to.terminate()
        assert {end.result() for end in ends} == {(1001, "GOING_AWAY")}
    assert sent_to.wait() == 0
