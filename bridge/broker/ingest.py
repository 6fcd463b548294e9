"""Bytes from NATS → messages for the bridge, in place and without a task; the rest → nats-py.

nats-py owns the connection. Its parser is replaced by :class:`Ingest`, which handles ``MSG`` and
``HMSG`` of the bridge's own subscriptions straight from the bytes of one read. Their subscription
ids begin with ``i``, nats-py's are numbers, so one byte tells them apart. Everything else goes to
nats-py's parser, whole operations at a time.

This is the one file that knows nats-py's internals: ``Client._ps``, ``_pongs``, ``_transport`` and
``Parser.parse``/``reset``, ``_process_msg``. Nothing here may block; it runs inside nats-py's read
loop.
Protocol: NATS client protocol, https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from bridge.errors import BrokerError

log = logging.getLogger(__name__)

Receive = Callable[[bytes, bytes, bytes], None]
"""Takes subject, header block (empty if there is none), payload."""

Receivers = Mapping[bytes, Receive]
"""Who takes the messages of each subscription id, now; what is not in it is dropped."""

OWN: Final = ord("i")
MAX_CONTROL_LINE: Final = 64 * 1024
"""An operation without its line end after this many bytes is no protocol; INFO is the longest."""
MAX_PAYLOAD: Final = 64 * 1024 * 1024
"""nats-server's own upper bound of ``max_payload``."""
MAX_DIGITS: Final = 8

_MESSAGES: Final = (b"HMSG", b"MSG")
_DENIED: Final = re.compile(rb"Permissions Violation for Subscription to \"([^\"]+)\"")
_CRLF: Final = b"\r\n"


class IngestError(BrokerError, ProtocolError):
    """NATS sent bytes that are no protocol; nats-py reconnects on it."""

    def __str__(self) -> str:
        return f"nats: {self.args[0]}" if self.args else "nats: protocol error"


class Latch(Protocol):
    """Waits for one PONG. nats-py puts futures into the same list, which fit too."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: bool, /) -> None:
        """The PONG is here."""


class Ingest(Parser):
    """nats-py's parser with the bridge's messages taken out before it sees them."""

    def __init__(self, client: Client, receivers: Receivers) -> None:
        self._receivers = receivers
        self._unreadable = 0
        self.on_denied: Callable[[str], None] = lambda subject: None
        super().__init__(client)

    def reset(self) -> None:
        """Forget what is half read; nats-py calls this when it reconnects."""
        super().reset()
        self._partial = bytearray()
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """Handle the bytes of one read; raises :class:`IngestError` for what is no protocol."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data = bytes(self._partial)
            self._partial = bytearray()
        position, size, receivers = 0, len(data), self._receivers
        self._needed = 0
        while position < size:
            line_end = data.find(_CRLF, position)
            if line_end < 0:
                if size - position > MAX_CONTROL_LINE:
                    raise IngestError("an operation is too long")
                break
            # The server writes single blanks; a subject may hold other white space, so nothing else
            # separates words here.
            words = data[position:line_end].split(b" ")
            operation = words[0]
            if operation in _MESSAGES:
                start = line_end + 2
                sizes = 1 if operation == b"MSG" else 2
                if not 3 <= len(words) - sizes <= 4:
                    raise IngestError("a message has a malformed control line")
                total, head = words[-1], words[-2] if sizes == 2 else b"0"
                if not (total.isdigit() and head.isdigit()):
                    raise IngestError("a message has a malformed control line")
                if len(total) > MAX_DIGITS or len(head) > MAX_DIGITS:
                    raise IngestError("a message has an impossible length")
                sid, length, header_length = words[2], int(total), int(head)
                if not header_length <= length <= MAX_PAYLOAD or not sid:
                    raise IngestError("a message has an impossible length")
                end = start + length
                if end + 2 > size:
                    self._needed = end + 2 - position
                    break
                if data[end : end + 2] != _CRLF:
                    raise IngestError("a message does not end where it says")
                split = start + header_length
                if sid[0] == OWN:
                    receive = receivers.get(sid)
                    try:
                        if receive is not None:
                            receive(words[1], data[start:split], data[split:end])
                    except Exception:
                        # A fault of ours with one event must not end nats-py's read loop, which
                        # would stop every client for good while it still looks connected.
                        log.exception("an event could not be handled")
                else:
                    reply = words[3] if len(words) - sizes == 4 else b""
                    await self._pass_message(
                        sid, words[1], reply, data[split:end], data[start:split] or None
                    )
                position = end + 2
            elif operation == b"PONG":
                self._pong()
                position = line_end + 2
            else:
                if operation == b"-ERR":
                    self._denied(data[position:line_end])
                await self._pass_on(data[position : line_end + 2])
                position = line_end + 2
        if position < size:
            self._partial += data[position:]

    def _denied(self, line: bytes) -> None:
        # nats-py tells the words in lower case, in which a subject is another one.
        found = _DENIED.search(line)
        if found is not None:
            self.on_denied(found[1].decode("utf-8", "replace"))

    async def _pass_message(
        self, sid: bytes, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None
    ) -> None:
        if not sid.isdigit() or len(sid) > MAX_DIGITS:
            raise IngestError("a subscription id is unknown")
        try:
            await self.nc._process_msg(int(sid), subject, reply, payload, headers)
        except Exception as error:
            # Subject and headers are whatever somebody published. nats-py raises on some, which
            # must not cost the connection of all.
            self._unreadable += 1
            if self._unreadable & (self._unreadable - 1) == 0:  # the 1st, 2nd, 4th, 8th, …
                log.warning(
                    "%d messages could not be read by nats-py, the last: %s",
                    self._unreadable,
                    type(error).__name__,
                )

    async def _pass_on(self, operation: bytes) -> None:
        try:
            await super().parse(operation)
        except (ProtocolError, ValueError, AttributeError, TypeError, LookupError, RecursionError):
            # nats-py ends its read loop on all but the first, and still looks connected.
            raise IngestError("an operation is malformed") from None
        if self.buf:
            raise IngestError("an operation is unknown")

    def _pong(self) -> None:
        # nats-py's own way raises, and ends its read loop, when the waiter has given up meanwhile.
        pongs = self.nc._pongs
        if pongs:
            waiter = pongs.pop(0)
            if not waiter.done():
                waiter.set_result(True)
        self.nc._pongs_received += 1
        self.nc._pings_outstanding = 0


def install(client: Client, receivers: Receivers, on_denied: Callable[[str], None]) -> None:
    """Replace the parser of a client that is not connected yet.

    ``on_denied`` takes the subject of a subscription that the server refuses.
    """
    client._ps = parser = Ingest(client, receivers)
    parser.on_denied = on_denied


def write(client: Client, operations: bytes) -> None:
    """Put whole protocol operations on the wire now, past nats-py's queue.

    For a client that is connected. nats-py writes a PING at once but queues a SUB, so that a PONG
    would confirm nothing: operations that must keep their order go this way, together.
    """
    transport: Any = client._transport
    transport.write(operations)


def cut(client: Client) -> None:
    """End the connection without waiting for anybody; for a client that does not close."""
    transport: Any = client._transport
    writer = getattr(transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def await_pong(client: Client, latch: Latch) -> None:
    """Register who waits for the PONG of a PING that is written right after this call."""
    client._pongs.append(latch)  # type: ignore[arg-type]  # a list of futures to nats-py
