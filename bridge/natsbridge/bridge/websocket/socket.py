"""One WebSocket connection after its upgrade: bytes of the transport ↔ messages of the session.

Frames are parsed by ``websockets``' sans-I/O protocol. A parser belongs to a connection only while
bytes of a message are in flight: an idle connection has none, which is most of its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from websockets.frames import Opcode

from natsbridge.bridge.delivery.frames import PING, close_frame, pong_frame
from natsbridge.bridge.runtime.transport import Sender, lend
from natsbridge.bridge.websocket.closing import CLOSE_TIMEOUT, LAST_SECOND, QUIET, CloseWait
from natsbridge.bridge.websocket.kernel import acknowledged, limit_unsent, untaken
from natsbridge.bridge.websocket.parsers import FrameParser, Parsers, Skimmer
from natsbridge.bridge.websocket.pending import Block
from natsbridge.bridge.websocket.receiver import Receiver
from natsbridge.schemas.codes import (
    CLOSE_CODES,
    INTERNAL_ERROR,
    INVALID_UTF8,
    MESSAGE_TOO_BIG,
    CloseCode,
)

SLICE: Final = 8 * 1024
"""Bytes of one connection that are read in one loop iteration: 8 KiB of empty frames take about as
long as the others may have to wait."""


MAX_FROM_STRANGER: Final = 16 * 1024
"""Bytes of a message that are kept of a connection while nobody knows whose it is."""


class Socket(asyncio.Protocol):
    """The protocol object that an upgraded transport keeps for the rest of its life."""

    __slots__ = (
        "_answer",
        "_buffer",
        "_closing",
        "_held",
        "_loop",
        "_lost",
        "_parser",
        "_parsers",
        "_pong",
        "_receiver",
        "_rest",
        "_text",
        "_timer",
        "_transport",
        "_wait",
        "_when_lost",
        "block",
        "ended",
        "held",
        "paused",
        "whose",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        parsers: Parsers,
        loop: asyncio.AbstractEventLoop,
        answer: bytes = b"",
    ) -> None:
        """``answer`` is the end of the handshake, which goes out before the first frame."""
        self._answer = answer
        self._transport = transport
        self._parsers = parsers
        self._loop = loop
        self._receiver: Receiver | None = None
        self._parser: FrameParser | None = None
        self._buffer: bytearray | None = None
        self._text = False
        self._pong: bytes | None = None
        self._closing = False
        self._wait: CloseWait | None = None
        self._held = False
        self._rest: bytes | None = None
        self._lost = False
        parsers.sockets += 1
        self._timer: asyncio.TimerHandle | None = None
        self._when_lost: Callable[[], None] | None = None
        self.paused = False
        self.whose = ""
        """The user's id once that is known, what its address counts under before."""
        self.block: Block | None = None
        self.held = 0
        self.ended: tuple[int, str] | None = None
        """The close code of whoever closed first, and who that was: ``bridge`` or ``client``."""

    def known(self, user: str) -> None:
        """It is this user's, and no stranger's any more."""
        self._parsers.strangers.leave(self)
        self.whose = user

    def hold(self) -> None:
        """Read nothing until :meth:`start`; for an owner that has to wait for something first."""
        self._held = True
        self._choose_reading()

    def start(self, receiver: Receiver) -> None:
        """Hand what comes in to this receiver from now on."""
        self._receiver = receiver
        if self._transport.is_closing():
            self._loop.call_soon(self._lose)
        elif self._held:
            self._held = False
            if self._rest is not None:
                self._loop.call_soon(self._read_slice)
            self._choose_reading()

    def put(self, frame: bytes = b"") -> None:
        """Write a frame now, behind the handshake's answer where that waits; never blocks."""
        answer, self._answer = self._answer, b""
        if answer or frame:
            self._transport.write(answer + frame)

    def ping(self) -> None:
        """Ask for a sign of life, unless the connection can't take it now."""
        if not (self.paused or self._closing or self._transport.is_closing()):
            self.put(PING)

    @property
    def write(self) -> Callable[[bytes | memoryview], None]:
        """The transport's own, for whole frames or the rest of one, after the first :meth:`put`."""
        return self._transport.write

    def lend(self, sender: Sender) -> None:
        """Let this one send past the transport until a close begins.

        Like :attr:`write`, that is for after the first :meth:`put`.
        """
        lend(self._transport, sender)

    @property
    def is_closing(self) -> bool:
        """Whether a close was begun by either side."""
        return self._closing

    def when_lost(self, lost: Callable[[], None]) -> None:
        """Call once the connection is over; at once if it is."""
        if self._lost:
            lost()
        else:
            self._when_lost = lost

    def close(self, close: CloseCode) -> None:
        """Send a close frame and wait for the peer's, for a while; safe to call twice."""
        if self._closing:
            return
        self._finish(close)
        self._held = False
        if self._rest is not None:
            self._loop.call_soon(self._read_slice)
        self._choose_reading()

    def abort(self) -> None:
        """Cut the connection without another byte."""
        self._transport.abort()

    evict = abort
    is_busy = False

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._rest is not None:
            self._rest += data
        elif self._wait is not None or (len(data) <= SLICE and not self._held):
            self._read(data)  # what is dropped takes no slices
        else:
            self._rest = data
            self._choose_reading()
            self._loop.call_soon(self._read_slice)

    def _read_slice(self) -> None:
        rest = self._rest
        if rest is None or self._held:
            return
        self._rest = rest[SLICE:] or None
        self._read(rest[:SLICE])
        if self._rest is not None:
            self._loop.call_soon(self._read_slice)
        self._choose_reading()

    def _choose_reading(self) -> None:
        wanted = not self._held and self._rest is None
        transport = self._transport
        if wanted is not transport.is_reading() and not transport.is_closing():
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def _read(self, data: bytes) -> None:
        if self._closing and self._discard(data):
            return
        parser = self._parser or self._parsers.take()
        self._parser = parser
        parser.receive_data(data)
        for frame in parser.events_received():
            opcode = frame.opcode  # type: ignore[union-attr]  # no requests after the upgrade
            payload = bytes(frame.data)  # type: ignore[union-attr]
            if opcode is Opcode.PING:
                self._answer_ping(payload)
            elif opcode is Opcode.CLOSE:
                self._peer_closed(payload)
                return
            elif opcode is Opcode.PONG:
                if self._receiver is not None:
                    self._receiver.on_sign_of_life()
            else:
                self._data_frame(opcode, payload, frame.fin)  # type: ignore[union-attr]
                if not frame.fin and self._receiver is not None:  # type: ignore[union-attr]
                    self._receiver.on_sign_of_life()
            if self._parser is None or self._transport.is_closing():
                return  # closed by what was read, or by a peer that has gone
        if parser.parser_exc is not None and parser.close_rcvd is not None:
            # A close frame amid a fragmented message: the peer's close is what counts.
            received = parser.close_rcvd
            self._peer_closed(b"" if received.code == 1005 else received.serialize())
        elif parser.parser_exc is not None:
            code = parser.close_sent.code if parser.close_sent is not None else 0
            self._fail(CLOSE_CODES.get(code, INTERNAL_ERROR), Skimmer.behind(parser))
        elif self._parser is parser:
            parser.writes.clear()  # its own pongs: ours are written above
            if self._parsers.give_back(parser):
                self._parser = None
            elif self.block is not None:
                self._bound_stranger(parser)

    def eof_received(self) -> bool:
        """The peer sends no more: the transport is closed once its buffer is written."""
        self.put()
        self._closing = True
        self._cut_later()
        self._let_go()
        return False

    def pause_writing(self) -> None:
        """The transport's buffer is over its high-water mark."""
        self.paused = True
        limit_unsent(self._transport)
        # A close frame may be what was too much: nothing may be written behind it.
        if self._receiver is not None and not self._closing:
            self._receiver.on_pause()

    def resume_writing(self) -> None:
        """The transport's buffer is under its low-water mark again."""
        self.paused = False
        pong, self._pong = self._pong, None
        if pong is not None and not self._closing:
            self._transport.write(pong)
        if self._receiver is not None:
            self._receiver.on_resume()

    @property
    def acknowledged(self) -> int | None:
        """Bytes that the peer's system has acknowledged so far; None where that is not known."""
        return acknowledged(self._transport)

    @property
    def untaken(self) -> int:
        """Bytes that were written and that the peer has not taken, as far as the system tells."""
        return untaken(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._lose()

    # Steps of the above.

    def _data_frame(self, opcode: Opcode, payload: bytes, fin: bool) -> None:
        if self._closing:
            return
        if opcode is not Opcode.CONT:
            self._text = opcode is Opcode.TEXT
            if not fin:
                self._buffer = bytearray(payload)
                return
        else:
            assert self._buffer is not None  # the parser refuses a continuation of nothing
            self._buffer += payload
            if not fin:
                return
            payload = bytes(self._buffer)
            self._buffer = None
        if self._text and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                self._finish(INVALID_UTF8)
                return
        if self._receiver is not None:
            self._receiver.on_message(payload, self._text)

    def _bound_stranger(self, parser: FrameParser) -> None:
        # A token is at most 8 KiB; who has not sent one needs no room for more.
        if len(parser.reader.buffer) + (parser.current_size or 0) > MAX_FROM_STRANGER:
            skimmer = Skimmer()
            skimmer.is_lost = True
            self._fail(MESSAGE_TOO_BIG, skimmer)

    def _answer_ping(self, payload: bytes) -> None:
        if self._closing or self._transport.is_closing():
            return
        if self.paused:
            # The most recent ping is enough (RFC 6455 §5.5.3); a peer that pings and does not read
            # must not fill the transport's buffer.
            self._pong = pong_frame(payload)
        else:
            self.put(pong_frame(payload))
        if self._receiver is not None:
            self._receiver.on_sign_of_life()

    def _peer_closed(self, payload: bytes) -> None:
        self._end_parser()
        if not self._closing:
            self._closing = True
            self.ended = (int.from_bytes(payload[:2]) if len(payload) > 1 else 1005, "client")
            self.put(bytes((0x88, len(payload))) + payload)
        self._transport.close()
        self._cut_later()
        self._let_go()

    def _fail(self, close: CloseCode, skimmer: Skimmer) -> None:
        # What follows a broken frame means nothing (RFC 6455 §7.1.7).
        self._end_parser()
        if self._wait is None:
            self._finish(close)
        assert self._wait is not None
        self._wait.skimmer = skimmer
        if skimmer.is_done:
            self._transport.close()
        elif skimmer.is_lost:
            if self._transport.can_write_eof():
                with contextlib.suppress(OSError):  # the peer has reset the connection already
                    self._transport.write_eof()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(QUIET, self._on_time)

    def _finish(self, close: CloseCode) -> None:
        self.ended = (close.code, "bridge")
        self._closing = True
        self._wait = CloseWait(self._loop.time())
        self._buffer = None
        self.put(close_frame(close))
        self._cut_later()
        self._let_go()

    def _discard(self, data: bytes) -> bool:
        # Whether these bytes of a closing connection are done with. A frame that had begun before
        # our close frame is the parser's to the end.
        wait, transport = self._wait, self._transport
        if wait is None or transport.is_closing():
            return True
        if not wait.count(len(data)):
            transport.close()
            return True
        if self._parser is not None:
            return False
        wait.skimmer.read(data)
        if wait.skimmer.is_done:
            transport.close()
        return True

    def _cut_later(self) -> None:
        if self._timer is None and not self._lost:
            self._parsers.strangers.leave(self)
            self._parsers.lingering.enter(self)
        # A peer that does not read would keep a closing transport, and its buffer, for ever.
        if self._timer is None:
            self._timer = self._loop.call_later(CLOSE_TIMEOUT - LAST_SECOND, self._on_time)

    def _on_time(self) -> None:
        wait, transport = self._wait, self._transport
        if transport.is_closing():
            transport.abort()
        elif wait is None or wait.is_over(self._loop.time()):
            transport.close()
            self._timer = self._loop.call_later(LAST_SECOND, transport.abort)
        else:
            self._timer = self._loop.call_later(QUIET, self._on_time)

    def _lose(self) -> None:
        if not self._lost:
            self._parsers.sockets -= 1
        self._closing = self._lost = True
        self._answer = b""
        self._end_parser()
        self._buffer = None
        self._rest = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._parsers.lingering.leave(self)
        elif self.block is not None:
            self._parsers.strangers.leave(self)
        self._let_go()
        when_lost, self._when_lost = self._when_lost, None
        if when_lost is not None:
            when_lost()

    def _end_parser(self) -> None:
        parser, self._parser = self._parser, None
        if parser is not None:
            self._parsers.end(parser)

    def _let_go(self) -> None:
        # After a close frame nothing may be written: the owner must not even try.
        lend(self._transport, None)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_lost()
