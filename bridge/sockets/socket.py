"""One WebSocket connection after its upgrade: bytes of the transport ↔ messages of the session.

Frames are parsed by ``websockets``' sans-I/O protocol. A parser belongs to a connection only while
bytes of a message are in flight: an idle connection has none, which is most of its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket
import sys
import termios
from collections.abc import Callable
from typing import Final, Protocol

from websockets.frames import Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as FrameParser

from bridge.delivery.frames import PING, close_frame, pong_frame
from bridge.transport import Sender, lend, unsent
from schemas.codes import (
    CLOSE_CODES,
    INTERNAL_ERROR,
    INVALID_UTF8,
    CloseCode,
)

SLICE: Final = 8 * 1024
"""Bytes of one connection that are read in one loop iteration: 8 KiB of empty frames take about as
long as the others may have to wait."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a peer has to answer a close frame before the connection is cut."""

MAX_UNSENT: Final = 128 * 1024
"""Bytes that wait in the kernel to be sent to a slow peer, about."""
NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
TCP_INFO: Final[int | None] = socket.TCP_INFO if sys.platform == "linux" else None
"""Its ``tcpi_bytes_acked`` is the eight bytes at 120 (linux/tcp.h, since 4.1)."""

_silent: Final = logging.getLogger("bridge.frames")
_silent.setLevel(logging.CRITICAL)  # a peer's broken frames are answered, not logged


class Receiver(Protocol):
    """What a connection's owner does with what happens on it. Nothing here may block."""

    def on_message(self, data: bytes, is_text: bool) -> None:
        """A whole message; text is valid UTF-8."""

    def on_sign_of_life(self) -> None:
        """The peer answered a ping, sent one, or is in the middle of a message."""

    def on_pause(self) -> None:
        """The connection can't be written to for now."""

    def on_resume(self) -> None:
        """The connection can be written to again."""

    def on_lost(self) -> None:
        """The connection is over, or about to be: nothing more can be sent. Called once."""


class Parsers:
    """Lends frame parsers; ``max_size`` is the hard cap of a message in bytes."""

    def __init__(self, max_size: int, spare: int = 16) -> None:
        self._max_size: Final = max_size
        self._most_spare: Final = spare
        self._spare: Final[list[FrameParser]] = []

    def take(self) -> FrameParser:
        """Return a parser that has read nothing of the frame to come."""
        if self._spare:
            return self._spare.pop()
        return FrameParser(SERVER, state=State.OPEN, max_size=self._max_size, logger=_silent)

    def give_back(self, parser: FrameParser) -> bool:
        """Take a parser back if it is between two messages; False where it still has work."""
        if parser.current_size is not None or parser.state is not State.OPEN:
            return False
        # Between frames the parser's generator waits in ``StreamReader.at_eof``; inside a frame it
        # waits for bytes in ``read_exact``, even when it has consumed all that came.
        waits = getattr(parser.parser, "gi_yieldfrom", None)
        if waits is None or waits.gi_code.co_name != "at_eof":
            return False
        if len(self._spare) < self._most_spare:
            self._spare.append(parser)
        else:
            self.end(parser)
        return True

    @staticmethod
    def end(parser: FrameParser) -> None:
        """Take apart a parser that is not given back.

        It holds its generator, whose frame holds it, with all bytes of a message in flight; so does
        the traceback of what made it fail. Left as it is, that waits for a full collection, which
        is put off (see :mod:`bridge.collector`).
        """
        parser.parser.close()
        parser.parser_exc = None
        parser.reader.buffer.clear()
        parser.events.clear()


class Socket(asyncio.Protocol):
    """The protocol object that an upgraded transport keeps for the rest of its life."""

    __slots__ = (
        "_answer",
        "_buffer",
        "_closing",
        "_deaf",
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
        "_when_lost",
        "ended",
        "paused",
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
        self._deaf = False
        self._held = False
        self._rest: bytes | None = None
        self._lost = False
        self._timer: asyncio.TimerHandle | None = None
        self._when_lost: Callable[[], None] | None = None
        self.paused = False
        self.ended: tuple[int, str] | None = None
        """The close code of whoever closed first, and who that was: ``bridge`` or ``client``."""

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
        self.ended = (close.code, "bridge")
        self._finish(close_frame(close))
        self._held = False
        if self._rest is not None:
            self._loop.call_soon(self._read_slice)
        self._choose_reading()

    def abort(self) -> None:
        """Cut the connection without another byte."""
        self._transport.abort()

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._rest is not None:
            self._rest += data
        elif len(data) <= SLICE and not self._held:
            self._read(data)
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
        if self._deaf:
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
            self._fail(CLOSE_CODES.get(code, INTERNAL_ERROR))
        elif self._parser is parser:
            parser.writes.clear()  # its own pongs: ours are written above
            if self._parsers.give_back(parser):
                self._parser = None

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
        self._limit_unsent()
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
        found = self._transport.get_extra_info("socket")
        if found is None or TCP_INFO is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            told = found.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 128)
            if len(told) == 128:
                return int.from_bytes(told[120:], sys.byteorder)
        return None

    @property
    def untaken(self) -> int:
        """Bytes that were written and that the peer has not taken, as far as the system tells."""
        found = self._transport.get_extra_info("socket")
        queued = bytes(4)
        if found is not None:
            # On Linux what the peer has not acknowledged, tcp(7): megabytes may wait in the kernel.
            with contextlib.suppress(OSError, ValueError):
                queued = fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, queued)
        return unsent(self._transport) + int.from_bytes(queued, sys.byteorder)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._lose()

    # Steps of the above.

    def _limit_unsent(self) -> None:
        # From here on the kernel is to keep little that it has not sent: what waits is better kept
        # in the backlog, where it can be conflated, than growing old in a buffer of megabytes. Only
        # for a peer that is slow: in a burst it would split the writes, which cost the most.
        found = self._transport.get_extra_info("socket")
        if found is not None and NOTSENT_LOWAT is not None:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, MAX_UNSENT)

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
                self._fail(INVALID_UTF8)
                return
        if self._receiver is not None:
            self._receiver.on_message(payload, self._text)

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

    def _fail(self, close: CloseCode) -> None:
        # What follows a broken frame can't be read (RFC 6455 §7.1.7).
        self._end_parser()
        self._deaf = True
        if self._closing:
            self._transport.close()
            return
        self.ended = (close.code, "bridge")
        self._finish(close_frame(close))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _finish(self, frame: bytes) -> None:
        # The peer may still be sending: closing at once would reset the connection and could take
        # the close frame with it. What comes in until its own close or EOF is read and dropped.
        self._closing = True
        self.put(frame)
        self._cut_later()
        self._let_go()

    def _cut_later(self) -> None:
        # A peer that does not read would keep a closing transport, and its buffer, for ever.
        if self._timer is None:
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _lose(self) -> None:
        self._closing = self._lost = True
        self._answer = b""
        self._end_parser()
        self._buffer = None
        self._rest = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
