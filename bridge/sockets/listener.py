"""uvicorn's HTTP protocol with the bounds that it lacks.

Without them a peer may hold a connection open with half a request for ever, send headers or a body
without end, ask for a thousand answers in one breath and read none of them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 32 * 1024
"""Most bytes of a request line and its headers; a token is at most 8 KiB."""
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for an answer to be made and handed to the transport."""
MAX_PIPELINED: Final = 8
"""Requests of one connection that wait for their answers."""
MAX_CONNECTIONS: Final = 4096
"""Connections that are no WebSockets (yet), of one process."""


class Deadlines:
    """Deadlines of equal length for many: one timer, and a dict in the order of their ends.

    Nearly all of them end before their time, and a timer of the event loop stays in its heap when
    it is cancelled.
    """

    def __init__(self, seconds: float, missed: Callable[[Any], None]) -> None:
        self._seconds: Final = seconds
        self._missed: Final = missed
        self._ends: Final[dict[Any, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, who: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Give ``who`` the whole time, from now."""
        self._ends.pop(who, None)
        self._ends[who] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)

    def end(self, who: Any) -> None:
        """It is done, or over."""
        self._ends.pop(who, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        late = []
        for who, end in self._ends.items():
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                break
            late.append(who)
        for who in late:
            del self._ends[who]
            self._missed(who)


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
            self._body_bytes = 0
            self._relax()
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
            self._relax()
            answers.begin(self, self.loop)
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._relax()
            super().on_response_complete()

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # it has not read its answer, and a close would wait for it
            else:
                super().timeout_keep_alive_handler()

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
            super().handle_websocket_upgrade()
            # The parser and this object hold each other; the connection has no use for either.
            self.parser = None  # type: ignore[assignment]
            if behind and not self.transport.is_closing():
                # A client that did not wait for the answer (RFC 6455 §4.1) loses nothing.
                taker = self.transport.get_protocol()
                assert isinstance(taker, asyncio.Protocol)
                taker.data_received(behind)

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
            self._cut(HTTPStatus.REQUEST_TIMEOUT)

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
