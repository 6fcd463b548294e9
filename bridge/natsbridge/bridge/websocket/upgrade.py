"""The upgrade of an HTTP connection (RFC 6455 §4.2) and the hand-over of its transport.

uvicorn reads the request. :class:`Upgrades` checks the handshake, asks its ``admit`` whom this is,
answers, and hands the transport over to a :class:`~natsbridge.bridge.websocket.socket.Socket`. No
ASGI task or
queue is made on the way, and uvicorn keeps nothing of the connection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from natsbridge.bridge.telemetry.observer import Observer
from natsbridge.bridge.websocket.deadlines import Deadlines
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket

PATIENCE: Final = 0.05
"""Seconds that the answer to a handshake may wait for the first frame, to share its write."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client asks with. Target and headers may hold a token, so they are never shown."""

    target: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    """Names in lower case; a repeated header's values are joined by commas (RFC 9110 §5.2)."""
    peer: str
    secure: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer in place of the upgrade: an HTTP status, a code and words."""

    status: HTTPStatus
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    """What it is counted under where its code says too little."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The upgrade goes on; ``take`` gets the connection.

    Where it ``greets``, the answer waits for its first :meth:`Socket.put`, or a moment: both are
    one write then. Else the answer has been written before.
    """

    take: Callable[[Socket], None]
    subprotocol: str | None = None
    greets: bool = False


Admit = Callable[[Handshake], Refused | Admitted]


class Upgrades:
    """Answers handshakes, and makes the :class:`Socket` of each that is admitted."""

    def __init__(
        self,
        admit: Admit,
        parsers: Parsers,
        observer: Observer | None = None,
        address: Callable[[str, str | None], str | None] = lambda peer, forwarded: peer,
    ) -> None:
        """``address`` takes a peer's address and ``X-Forwarded-For``; see :mod:`.pending`."""
        self._address: Final = address
        self._admit: Final = admit
        self._parsers: Final = parsers
        self._observer: Final = observer or Observer()
        self._put_off: Final = Deadlines(PATIENCE, Socket.put)

    def __call__(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        transport: asyncio.Transport,
    ) -> Socket | None:
        """Answer a request with ``Upgrade: websocket``; names of headers are in lower case.

        Returns the transport's new protocol; None where it was refused, and the transport closed.
        """
        handshake = _handshake(target, headers, transport)
        accept = _accept(method, handshake)
        outcome = accept if isinstance(accept, Refused) else self._admit(handshake)
        if isinstance(outcome, Refused):
            self._observer.handshake_refused(
                outcome.status,
                outcome.reason or outcome.code,
                peer=handshake.peer,
                target=handshake.target,
                headers=handshake.headers,
            )
            transport.write(_refusal(outcome))
            transport.close()
            return None
        assert isinstance(accept, str)
        chosen = outcome.subprotocol
        loop = asyncio.get_running_loop()
        socket = Socket(
            transport,
            self._parsers,
            loop,
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
            % (
                accept.encode(),
                b"Sec-WebSocket-Protocol: %b\r\n" % chosen.encode() if chosen else b"",
            ),
        )
        transport.set_protocol(socket)
        address = self._address(handshake.peer, handshake.headers.get("x-forwarded-for"))
        socket.whose = stranger = address or ""
        self._observer.upgraded += 1
        if outcome.greets:
            self._put_off.begin(socket, loop)
        else:
            socket.put()
        outcome.take(socket)
        if socket.whose is stranger and not socket.is_closing:
            self._parsers.strangers.enter(socket, address)
        return socket


def _handshake(
    target: bytes, lines: Iterable[tuple[bytes, bytes]], transport: asyncio.Transport
) -> Handshake:
    headers: dict[str, str] = {}
    for raw, text in lines:
        name, value = raw.decode("latin-1"), text.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    peer = transport.get_extra_info("peername")
    asked = target.decode("latin-1")
    if not asked.startswith("/"):
        # The absolute form, whose host takes the place of the header's (RFC 9112 §3.2.2).
        with contextlib.suppress(ValueError):
            parts = urlsplit(asked)
            asked = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers["host"] = parts.netloc
    return Handshake(
        target=asked,
        headers=headers,
        peer=peer[0] if isinstance(peer, tuple) else "",
        secure=transport.get_extra_info("sslcontext") is not None,
    )


def _accept(method: str, handshake: Handshake) -> str | Refused:
    """Return the value of ``Sec-WebSocket-Accept``, or why this is no handshake."""
    headers = handshake.headers
    if method != "GET":
        return Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "A WebSocket handshake is a GET",
            (("Allow", "GET"),),
        )
    if "," in headers.get("host", ","):
        return _bad_request("A handshake has one Host")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return _bad_request("A handshake has no body")
    if headers.get("sec-websocket-version") != "13":
        return Refused(
            HTTPStatus.UPGRADE_REQUIRED,
            "UPGRADE_REQUIRED",
            "Sec-WebSocket-Version must be 13",
            (("Sec-WebSocket-Version", "13"),),
        )
    key = headers.get("sec-websocket-key", "")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    if not valid:
        return _bad_request("Sec-WebSocket-Key must be 16 bytes in Base64")
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _bad_request(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", message)


def _refusal(refused: Refused) -> bytes:
    body = json.dumps({"code": refused.code, "message": refused.message}).encode()
    headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *refused.headers,
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    status = refused.status
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + body
