"""uvicorn's HTTP protocol with the bounds that it lacks, and the way to the upgrade.

Of a connection that is no WebSocket holds, whatever its peer sends or leaves out:

- One of :class:`Edge`'s deadlines is running: for the request to become whole, for its answer to be
  made and read, for the next request to begin, or for the end. None of them begins again for what
  the peer sends, but for a request that became whole or an answer that was read.
- All that is sent and is no body counts as the request's framing: request line, headers, sizes and
  extensions of chunks, trailers, blank lines. Trailers are read and dropped: they are no headers.
- It is counted under its address (:mod:`natsbridge.bridge.websocket.pending`), with the bytes that
it keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from natsbridge.bridge.websocket.deadlines import Deadlines
from natsbridge.bridge.websocket.pending import Block, Pending

MAX_FRAMING: Final = 32 * 1024
"""Most bytes of a request that are no body; a token is at most 8 KiB."""
MAX_HEADERS: Final = 128
"""Most headers of a request: a short one takes 150 bytes of memory, whatever it was sent in."""
MAX_PIPELINED: Final = 8
"""Requests of one connection that wait for their answers."""
MAX_BEHIND: Final = 32 * 1024
"""Most bytes behind an upgrade that waits for the answers before it."""
MAX_UNREAD: Final = 256 * 1024
"""Most bytes of an answer that is not read that are counted."""
PIECE: Final = 4 * 1024
"""Bytes that are parsed at a time; the framing is counted as exactly."""
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for an answer to be made and handed to the transport."""
IDLE_TIMEOUT: Final = 5.0
"""Seconds until the next request begins, and for the peer to have read the answer before it."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds in which a connection that was closed has to end."""


class Edge:
    """What the connections of one process share."""

    def __init__(
        self,
        timeout: float,
        max_body: Callable[[Mapping[str, Any]], int],
        pending: Pending,
        address: Callable[[str, str | None], str | None],
        *,
        answer: float = ANSWER_TIMEOUT,
        idle: float = IDLE_TIMEOUT,
        end: float = CLOSE_TIMEOUT,
    ) -> None:
        """``timeout`` is for a request to become whole, in seconds; ``max_body`` takes its scope.

        ``address`` takes a peer's address and ``X-Forwarded-For``, and returns what it is counted
        under: None for a trusted proxy that is asked for nobody.
        """
        self.max_body: Final = max_body
        self.pending: Final = pending
        self.address: Final = address
        self.requests: Final = Deadlines(timeout, HttpConnection.too_slow)
        self.answers: Final = Deadlines(answer, HttpConnection.abort)
        self.idle: Final = Deadlines(idle, HttpConnection.hang_up)
        self.ends: Final = Deadlines(end, HttpConnection.abort)
        self.deadlines: Final = (self.requests, self.answers, self.idle, self.ends)


class HttpConnection(HttpToolsProtocol):
    """One connection until it ends or is upgraded; see the module."""

    def __init__(self, edge: Edge, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._edge: Final = edge
        self.block: Block | None = None
        self.held = 0
        self._peer: str | None = None
        self._is_proxy = False
        self._is_cut = False
        self._reading = False
        self._in_head = True
        self._framing = 0
        self._body = 0
        self._unread = 0
        self._max_body: int | None = None
        self._upgrades: bool | None = None
        self._behind: bytes | None = None
        """What came behind an upgrade that waits for the answers before it."""

    # Its beginning and its end.

    def accepted(self, peer: str, transport: asyncio.Transport) -> None:
        """It was accepted, and is counted from here on; TLS may still be to come."""
        self.transport = transport
        self._peer = peer
        address = self._edge.address(peer, None)
        self._is_proxy = address is None
        self._edge.pending.enter(self, address)

    def never_made(self) -> None:
        """The handshake of TLS failed."""
        self._edge.pending.leave(self)
        self.parser = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_cut:
            transport.abort()  # evicted before it began
        self._reading = True
        self._edge.requests.begin(self, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadlines()
        self._edge.pending.leave(self)
        super().connection_lost(exc)
        # Each holds this object, which holds them.
        self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()
        self._behind = None

    def eof_received(self) -> None:
        # asyncio closes the transport, once its buffer is written.
        self._close()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    # What the peer sends.

    def data_received(self, data: bytes) -> None:
        if self._behind is not None:
            self._behind += data
            if len(self._behind) > MAX_BEHIND:
                self._cut(HTTPStatus.BAD_REQUEST)
            self._count()
            return
        at, size = 0, len(data)
        while at < size and not self._is_cut:
            end = min(at + PIECE, size)
            body = self._body
            leaves = False
            try:
                self.parser.feed_data(data[at:end] if size > PIECE else data)
            except HttpParserUpgrade as upgrade:
                end = at + upgrade.args[0]
                # Else another protocol than ours is offered: the request is answered as it is.
                leaves = self._should_upgrade()
            except HttpParserError:
                self._cut(HTTPStatus.BAD_REQUEST)
                return
            if leaves:
                # Not while that exception is handled: it would be the context of any other.
                self._begin_upgrade(data[end:])
                return
            self._framing += end - at - (self._body - body)
            if self._framing > MAX_FRAMING + PIECE:
                self._cut(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            at = end
        self._count()

    def _count(self) -> None:
        """Count the bytes that are kept for it, once they are more than a few."""
        kept = self._unread
        if self._reading:
            kept += self._framing + self._body
        elif self._behind is not None:
            kept += len(self._behind)
        if (kept > PIECE or self.held) and not self._is_cut:
            self._edge.pending.hold(self, kept)

    def on_message_begin(self) -> None:
        self._go_on()
        super().on_message_begin()
        self._upgrades = self._max_body = None
        self._in_head = True
        self._framing = self._body = 0
        if not self._reading:
            self._reading = True
            self._edge.idle.end(self)
            self._edge.requests.begin(self, self.loop)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            if len(self.headers) == MAX_HEADERS:
                self._cut(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                self._go_on()
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_proxy:
            forwarded = b", ".join(v for n, v in self.headers if n == b"x-forwarded-for")
            address = self._edge.address(self._peer or "", forwarded.decode("latin-1"))
            self._edge.pending.move(self, address)
            self._go_on()
        super().on_headers_complete()  # raises where it makes nothing of the target
        self._in_head = False
        if len(self.pipeline) > MAX_PIPELINED:
            self._cut(HTTPStatus.BAD_REQUEST)
            self._go_on()

    def on_body(self, body: bytes) -> None:
        self._go_on()
        self._body += len(body)
        if self._max_body is None:
            self._max_body = self._edge.max_body(self.scope)
        if self._body > self._max_body:
            self._cut(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            self._go_on()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._go_on()
        if self._upgrades:
            return  # the parser says so itself
        self._reading = False
        self._edge.requests.end(self)
        super().on_message_complete()
        self._await_what_is_next()

    # What is answered.

    @property
    def is_busy(self) -> bool:
        """Whether an answer is to come."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Take the place of uvicorn's, whose timer for the next request any byte ends for good."""
        self.server_state.total_requests += 1
        self._edge.answers.end(self)
        if self.transport.is_closing():
            self._close()
            return
        if self._is_proxy:
            self._edge.pending.move(self, None)
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        self._await_what_is_next()
        self._try_upgrade()

    def pause_writing(self) -> None:
        super().pause_writing()
        # A larger answer is one to a good token, and no reason to end the connection.
        self._unread = min(self.transport.get_write_buffer_size(), MAX_UNREAD)
        self._count()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = 0
        self._count()
        self._try_upgrade()

    # The upgrade.

    def _should_upgrade(self) -> bool:
        # uvicorn asks three times, and takes the last of several headers of one name alone; lists
        # may be in one or in several (RFC 9110 §5.3), and ours is one of the protocols offered.
        if self._upgrades is None:
            wanted = offered = False
            for name, value in self.headers:
                if name == b"connection":
                    wanted = wanted or b"upgrade" in _tokens(value)
                elif name == b"upgrade":
                    offered = offered or b"websocket" in _tokens(value)
            self._upgrades = wanted and offered and self.ws_protocol_class is not None
        return self._upgrades

    def _begin_upgrade(self, behind: bytes) -> None:
        self._reading = False
        self._edge.requests.end(self)
        self._behind = behind
        if self.parser.get_http_version() != "1.1":
            self._cut(HTTPStatus.BAD_REQUEST)  # RFC 6455 §4.2.1
            return
        # The parser and this object hold each other; the connection has no use for it any more.
        self.parser = None  # type: ignore[assignment]
        self._try_upgrade()
        if self._behind is not None:
            self._await_what_is_next()
            self.flow.pause_reading()

    def _try_upgrade(self) -> None:
        """Upgrade once all that came before is answered, and was read as far as it has to be.

        An answer that is still to come would be written amid the frames, and what is written on a
        transport that is paused waits in it without a bound.
        """
        if self._behind is None or self.is_busy or self.flow.write_paused or self._is_cut:
            return
        behind, self._behind = self._behind, None
        self.flow.resume_reading()
        upgrades: Any = self.ws_protocol_class
        socket = upgrades(self.scope["method"], self.url, self.headers, self.transport)
        if socket is None:
            self._close()
            return
        self._end_deadlines()
        self.connections.discard(self)
        self._edge.pending.leave(self)
        self.cycle = None  # type: ignore[assignment]
        if behind and not self.transport.is_closing():
            # A client that did not wait for the answer (RFC 6455 §4.1) loses nothing.
            socket.data_received(behind)

    # Deadlines, and what they come to.

    def _await_what_is_next(self) -> None:
        """Have the deadline run that goes with how far the connection has come."""
        edge = self._edge
        if self.is_busy or self._behind is not None:
            edge.idle.end(self)
            if self not in edge.answers:
                edge.answers.begin(self, self.loop)
        elif not self._reading and self not in edge.idle:
            edge.idle.begin(self, self.loop)

    def _end_deadlines(self) -> None:
        for each in self._edge.deadlines:
            each.end(self)

    def too_slow(self) -> None:
        """The request did not arrive in time."""
        self._cut(HTTPStatus.REQUEST_TIMEOUT)

    def hang_up(self) -> None:
        """No further request came."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it has not read its answer, and a close would wait for it
        else:
            self._close()

    def abort(self) -> None:
        """It had its time."""
        self._is_cut = True
        self.transport.abort()

    def evict(self) -> None:
        """Its place is needed."""
        self.abort()

    def send_400_response(self, msg: str) -> None:
        self._cut(HTTPStatus.BAD_REQUEST)

    def _go_on(self) -> None:
        # Raised through httptools, which reads no further: a peer that was cut costs no more.
        if self._is_cut:
            raise ConnectionAbortedError

    def _cut(self, status: HTTPStatus) -> None:
        """Answer with this where no other answer is under way, and close."""
        cycle = self.cycle
        if self._is_cut or self.transport.is_closing():
            unanswered = False
        elif self._in_head or self._behind is not None:
            unanswered = not self.is_busy  # the request has no cycle yet
        else:
            unanswered = self.is_busy and not cycle.response_started and not self.pipeline
        if unanswered:
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
        if self.is_busy:
            cycle.disconnected = True
            cycle.message_event.set()
        self._close()

    def _close(self) -> None:
        """Read no more, and give what is written some time to be read."""
        self._is_cut = True
        if self not in self._edge.ends:
            self._end_deadlines()
            self._edge.ends.begin(self, self.loop)
        self.transport.close()


def _tokens(value: bytes) -> list[bytes]:
    return [each.strip() for each in value.lower().split(b",")]
