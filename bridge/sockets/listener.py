"""uvicorn's HTTP protocol with the bounds that it lacks.

Without them a peer may hold a connection open with half a request for ever, send headers or a body
without end, ask for a thousand answers in one breath and read none of them.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, Final

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.sockets.deadlines import Deadlines

MAX_HEADER_BYTES: Final = 32 * 1024
"""Most bytes of a request line and its headers; a token is at most 8 KiB."""
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for an answer to be made and handed to the transport."""
MAX_PIPELINED: Final = 8
"""Requests of one connection that wait for their answers."""
MAX_CONNECTIONS: Final = 4096
"""Connections that are no WebSockets (yet), of one process."""


def bounded_http(timeout: float, max_body: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol class with a request that must be whole within ``timeout``."""

    heads = Deadlines(timeout, lambda each: each.too_slow())
    answers = Deadlines(ANSWER_TIMEOUT, lambda each: each.transport.abort())

    class BoundedHttp(HttpToolsProtocol):
        """One HTTP connection; see the module."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._is_cut = False
            self._head_bytes = 0
            self._in_head = True
            self._body_bytes = 0
            self._read = b""
            self._upgrades: bool | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()
            else:
                self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)
            # Each holds this object, which holds them.
            self.cycle = None  # type: ignore[assignment]
            self.pipeline.clear()

        def data_received(self, data: bytes) -> None:
            self._read = data
            super().data_received(data)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEADER_BYTES:
                    self._cut(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

        def send_400_response(self, msg: str) -> None:
            if not self._is_cut:
                super().send_400_response(msg)

        def on_message_begin(self) -> None:
            self._go_on()
            super().on_message_begin()
            self._upgrades = None
            self._body_bytes = 0
            self._expect()

        def on_body(self, body: bytes) -> None:
            self._go_on()
            self._body_bytes += len(body)
            if self._body_bytes > max_body:
                self._cut(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                self._go_on()
            super().on_body(body)

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()
            if len(self.pipeline) > MAX_PIPELINED:
                self._cut(HTTPStatus.BAD_REQUEST)
                self._go_on()

        def on_message_complete(self) -> None:
            self._go_on()
            # From here on it is the answer that must be done in time.
            heads.end(self)
            answers.begin(self, self.loop)
            super().on_message_complete()

        def on_response_complete(self) -> None:
            answers.end(self)  # the head of the next request may be under way
            super().on_response_complete()
            if self.cycle is not None and not self.cycle.response_complete:
                answers.begin(self, self.loop)

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # it has not read its answer, and a close would wait for it
            else:
                super().timeout_keep_alive_handler()

        def _should_upgrade(self) -> bool:
            # uvicorn asks three times, and walks through all headers each time.
            if self._upgrades is None:
                self._upgrades = super()._should_upgrade()
            return self._upgrades

        def handle_websocket_upgrade(self) -> None:
            self._relax()
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy or self.parser.get_http_version() != "1.1":
                # An answer that is still to come would be written amid the frames; and the upgrade
                # is HTTP/1.1's (RFC 6455 §4.2.1).
                self._cut(HTTPStatus.BAD_REQUEST)
                return
            # Called while httptools' exception is handled, which tells where the request ended.
            upgraded = sys.exc_info()[1]
            assert isinstance(upgraded, HttpParserUpgrade)
            behind = self._read[upgraded.args[0] :]
            self._read = b""
            # Whatever becomes of it, it is none of HTTP any more. The parser and this object hold
            # each other; the connection has no use for either.
            self.connections.discard(self)
            self.parser = None  # type: ignore[assignment]
            upgrades: Any = self.ws_protocol_class
            socket = upgrades(self.scope["method"], self.url, self.headers, self.transport)
            if behind and socket is not None and not self.transport.is_closing():
                # A client that did not wait for the answer (RFC 6455 §4.1) loses nothing.
                socket.data_received(behind)

        def _go_on(self) -> None:
            # Raised through httptools, which reads no further: a peer that was cut costs no more.
            if self._is_cut:
                raise ConnectionAbortedError

        def _expect(self) -> None:
            self._head_bytes = 0
            self._in_head = True
            heads.begin(self, self.loop)

        def _relax(self) -> None:
            heads.end(self)
            answers.end(self)

        def too_slow(self) -> None:
            """The request did not arrive in time."""
            if self._in_head or self.cycle is None or not self.cycle.response_complete:
                self._cut(HTTPStatus.REQUEST_TIMEOUT)
            else:
                # Its answer is out already, and there is no other.
                self._relax()
                self._is_cut = True
                self.transport.close()

        def _cut(self, status: HTTPStatus) -> None:
            self._relax()
            self._is_cut = True
            if not self.transport.is_closing():
                self.transport.write(
                    f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                    "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )
                self.transport.close()
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True
                self.cycle.message_event.set()

    return BoundedHttp
