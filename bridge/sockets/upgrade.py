"""The upgrade of an HTTP connection (RFC 6455 §4.2) and the hand-over of its transport.

uvicorn reads the request and gives it, whole, to the class set as its WebSocket protocol. Here that
is :class:`Upgrades`: it checks the handshake, asks its ``admit`` whom this is, writes the answer,
and hands the transport over to a :class:`~bridge.sockets.socket.Socket`. No ASGI task, queue or
scope is made on the way, and uvicorn keeps nothing of the connection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from bridge.sockets.socket import Parsers, Socket

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


@dataclass(frozen=True, slots=True)
class Admitted:
    """The upgrade goes on; ``take`` gets the connection once the answer is written."""

    take: Callable[[Socket], None]
    subprotocol: str | None = None


Admit = Callable[[Handshake], Refused | Admitted]


class Upgrades:
    """Makes the object that uvicorn hands an upgraded request to."""

    def __init__(self, admit: Admit, parsers: Parsers) -> None:
        self._admit: Final = admit
        self._parsers: Final = parsers

    def __call__(self, config: Any, server_state: Any, app_state: Any) -> _Upgrade:
        """Called by uvicorn with its own objects, none of which is kept."""
        return _Upgrade(self._admit, self._parsers)


class _Upgrade(asyncio.Protocol):
    """The transport's protocol for the length of one request."""

    def __init__(self, admit: Admit, parsers: Parsers) -> None:
        self._admit = admit
        self._parsers = parsers
        self._transport: asyncio.Transport
        self._socket: Socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            # Between the answer and the hand-over, one loop iteration later.
            self._socket.data_received(data)
            return
        handshake = _read(data, self._transport)
        accept = _accept(data, handshake)
        outcome = accept if isinstance(accept, Refused) else self._admit(handshake)
        if isinstance(outcome, Refused):
            self._transport.write(_refusal(outcome))
            self._transport.close()
            return
        assert isinstance(accept, str)
        chosen = outcome.subprotocol
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
            % (
                accept.encode(),
                b"Sec-WebSocket-Protocol: %b\r\n" % chosen.encode() if chosen else b"",
            )
        )
        loop = asyncio.get_running_loop()
        self._socket = Socket(self._transport, self._parsers, loop)
        # uvicorn sets this object as the transport's protocol after this call.
        loop.call_soon(self._transport.set_protocol, self._socket)
        outcome.take(self._socket)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._socket is not None:
            self._socket.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._socket is not None:
            self._socket.pause_writing()

    def resume_writing(self) -> None:
        if self._socket is not None:
            self._socket.resume_writing()


def _read(request: bytes, transport: asyncio.Transport) -> Handshake:
    # uvicorn has parsed the request and writes it anew: one line each, names in lower case.
    lines = request.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(": ")
        if colon:
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    peer = transport.get_extra_info("peername")
    return Handshake(
        target=lines[0].split(" ")[1],
        headers=headers,
        peer=peer[0] if isinstance(peer, tuple) else "",
        secure=transport.get_extra_info("sslcontext") is not None,
    )


def _accept(request: bytes, handshake: Handshake) -> str | Refused:
    """Return the value of ``Sec-WebSocket-Accept``, or why this is no handshake."""
    headers = handshake.headers
    if not request.startswith(b"GET "):
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
