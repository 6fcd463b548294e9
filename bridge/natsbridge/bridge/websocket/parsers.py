"""Reading a client's frames: ``websockets``' sans-I/O parser, and one for the close frame alone."""

from __future__ import annotations

import logging
from typing import Final

from websockets.exceptions import PayloadTooBig
from websockets.protocol import SERVER, Protocol, State

from natsbridge.bridge.websocket.lingering import MOST, Lingering
from natsbridge.bridge.websocket.pending import Pending

_silent: Final = logging.getLogger("natsbridge.frames")
_silent.setLevel(logging.CRITICAL)  # a peer's broken frames are answered, not logged


class FrameParser(Protocol):
    """``websockets``' parser, which keeps what it has not read when it fails."""

    unread = b""

    def fail(self, code: int, reason: str = "") -> None:
        """The parser calls this where a frame is broken; what follows it throws away."""
        self.unread = bytes(self.reader.buffer)
        super().fail(code, reason)


class Parsers:
    """Lends frame parsers to connections, and counts those; ``max_size`` is the hard cap of a
    message in bytes.
    """

    def __init__(
        self,
        max_size: int,
        spare: int = 16,
        *,
        strangers_per_address: int = 1 << 30,
        max_lingering: int = MOST,
    ) -> None:
        self.strangers: Final = Pending(per_address=strangers_per_address)
        """Connections that nobody knows the user of."""
        self.lingering: Final = Lingering(max_lingering)
        """Connections that were told to go."""
        self._max_size: Final = max_size
        self._most_spare: Final = spare
        self._spare: Final[list[FrameParser]] = []
        self.sockets = 0
        """Connections that are not closed yet."""

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
        is put off (see :mod:`natsbridge.bridge.runtime.garbage`).
        """
        parser.parser.close()
        parser.parser_exc = None
        parser.reader.buffer.clear()
        parser.events.clear()
        parser.unread = b""


class Skimmer:
    """Looks for a client's close frame and keeps nothing of what comes before it."""

    __slots__ = ("_closes", "_head", "_skip", "is_done", "is_lost")

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0
        self._closes = False
        self.is_done = False
        """Whether the close frame has come whole."""
        self.is_lost = False
        """Whether it can't be found any more: nobody knows where the next frame begins."""

    @classmethod
    def behind(cls, parser: FrameParser) -> Skimmer:
        """Return one that reads on where this parser failed."""
        skimmer = cls()
        problem = parser.parser_exc
        if isinstance(problem, PayloadTooBig) and problem.size is not None:
            skimmer._skip = problem.size + 4  # its mask comes first
            skimmer.read(parser.unread)
        else:
            skimmer.is_lost = True
        return skimmer

    def read(self, data: bytes) -> None:
        """Read on; what was done or lost stays so."""
        if self.is_lost:
            return
        at, end = 0, len(data)
        while not self.is_done:
            step = min(self._skip, end - at)
            self._skip -= step
            at += step
            if self._skip:
                return
            if self._closes:
                self.is_done = True
            elif at == end:
                return
            else:
                self._begin(data[at])
                at += 1

    def _begin(self, byte: int) -> None:
        # Two bytes, then the length where it takes more, then the mask and the payload.
        self._head += bytes((byte,))
        if len(self._head) < 2:
            return
        size = self._head[1] & 0x7F
        more = {126: 2, 127: 8}.get(size, 0)
        if len(self._head) < 2 + more:
            return
        if more:
            size = int.from_bytes(self._head[2:])
        self._skip = size + 4
        self._closes = self._head[0] & 0x0F == 0x8
        self._head = b""
