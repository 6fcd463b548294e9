"""Bytes from NATS → messages for the bridge, in place and without a task; the rest → nats-py.

nats-py owns the connection. :class:`Tap` stands between its transport and its stream and handles
``MSG`` and ``HMSG`` of the bridge's own subscriptions straight from the bytes of one read. Their
subscription ids begin with ``i``, nats-py's are numbers, so one byte tells them apart. So it does
with the PONGs that confirm them. Everything else goes on to nats-py, whole operations at a time,
and into :class:`Ingest`, its parser made careful.

This is the one file that knows nats-py's internals: ``Client._ps``, ``_pongs``, ``_transport``,
``_process_msg``, ``_nuid``, ``_resp_map``, ``_resp_sub_prefix``, ``TcpTransport._io_writer``,
``Parser.parse``/``reset``; but for a refused inbox, which
:func:`natsbridge.schemas.bus.renew_inbox` knows.
Nothing here may block: it runs in the event loop's reads.
Protocol: NATS client protocol, https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.nuid import NUID
from nats.protocol.parser import Parser

from natsbridge.bridge.errors import BrokerError
from natsbridge.schemas.bus import renew_inbox

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

FULL_READ: Final = 256 * 1024
"""What asyncio reads from a socket at the most, in bytes: a read of this size left some behind."""

_MESSAGES: Final = (b"HMSG", b"MSG")
_DENIED: Final = re.compile(rb"Permissions Violation for Subscription to \"([^\"]+)\"")
_CRLF: Final = b"\r\n"
_NONSENSE: Final = b"NONSENSE\r\n"


class IngestError(BrokerError, ProtocolError):
    """NATS sent bytes that are no protocol; nats-py reconnects on it."""

    def __str__(self) -> str:
        return f"nats: {self.args[0]}" if self.args else "nats: protocol error"


class Reads(Protocol):
    """Is told of each read that may bring messages: what they cause can wait for its end."""

    def begin(self) -> None:
        """Messages may come now."""

    def end(self, more: bool, /) -> None:
        """All messages of this read have come; ``more`` says that others are waiting already."""


class Latch(Protocol):
    """Waits for one PONG. nats-py puts futures into the same list, which fit too."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: bool, /) -> None:
        """The PONG is here."""


def _size(digits: bytes) -> int:
    if not digits.isdigit():
        raise IngestError("a message has a malformed control line")
    if len(digits) > MAX_DIGITS or int(digits) > MAX_PAYLOAD:
        raise IngestError("a message has an impossible length")
    return int(digits)


_SIZES: Final = {b"%d" % size: size for size in range(2048)}
"""What most sizes come to: looking one up costs about half of checking and converting it."""


class Splitter:
    """Cuts the bytes of a connection into operations and handles the bridge's messages in place."""

    __slots__ = ("_needed", "_partial", "_receivers")

    def __init__(self, receivers: Receivers) -> None:
        self._receivers = receivers
        self._partial = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Read on; yield each operation that is not the bridge's, whole and in its place.

        To be exhausted before the next call. Raises :class:`IngestError` for what is no protocol.
        """
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
                length = _SIZES[total] if total in _SIZES else _size(total)
                header_length = _SIZES[head] if head in _SIZES else _size(head)
                sid = words[2]
                if header_length > length or not sid:
                    raise IngestError("a message has an impossible length")
                end = start + length
                if end + 2 > size:
                    self._needed = end + 2 - position
                    break
                if data[end : end + 2] != _CRLF:
                    raise IngestError("a message does not end where it says")
                if sid[0] == OWN:
                    receive = receivers.get(sid)
                    split = start + header_length
                    try:
                        if receive is not None:
                            receive(words[1], data[start:split], data[split:end])
                    except Exception:
                        # A fault of ours with one event must not end the reading, which would stop
                        # every client for good while the connection still looks alive.
                        log.exception("an event could not be handled")
                else:
                    yield data[position : end + 2]
                position = end + 2
            else:
                yield data[position : line_end + 2]
                position = line_end + 2
        if position < size:
            self._partial += data[position:]


class Ingest(Parser):
    """nats-py's parser, careful with what somebody else published.

    It also takes the bridge's messages, while no :class:`Tap` does.
    """

    def __init__(self, client: Client, receivers: Receivers) -> None:
        self._receivers = receivers
        self._unreadable = 0
        self.unasked = 0
        """Answers that nobody waits for: too late, or to no request."""
        self.tapped = False
        """Whether a :class:`Tap` hands on what is left of this connection."""
        self.on_denied: Callable[[str], None] = lambda subject: None
        super().__init__(client)

    def reset(self) -> None:
        """Forget what is half read; nats-py calls this when it reconnects."""
        super().reset()
        self._splitter = Splitter(self._receivers)
        self.tapped = False

    async def parse(self, data: bytes = b"") -> None:
        """Handle the bytes of one read; raises :class:`IngestError` for what is no protocol."""
        for operation in self._splitter.feed(data):
            if operation.startswith((b"MSG ", b"HMSG ")):
                await self._pass_message(operation)
            elif operation == b"PONG\r\n":
                self._pong()
            else:
                if operation.startswith(b"-ERR"):
                    if not self.tapped:
                        self._denied(operation)
                    self._renew_inbox(operation)
                await self._pass_on(operation)

    def at_once(self, operation: bytes) -> bool:
        """Do what confirms or refuses the bridge's subscriptions, between its messages; returns
        whether that was all, so that nothing of it is left for nats-py.
        """
        if operation == b"PONG\r\n":
            pongs = self.nc._pongs
            if pongs and not isinstance(pongs[0], asyncio.Future):
                self._pong()
                return True
        elif operation.startswith(b"-ERR"):
            self._denied(operation)
        return False

    def _denied(self, line: bytes) -> None:
        # nats-py tells the words in lower case, in which a subject is another one.
        found = _DENIED.search(line)
        if found is not None:
            self.on_denied(found[1].decode("utf-8", "replace"))

    def _renew_inbox(self, line: bytes) -> None:
        # Not at once like the rest: answers before it are still on their way through nats-py.
        found = _DENIED.search(line)
        if found is not None:
            renew_inbox(self.nc, found[1].decode("utf-8", "replace"))

    async def _pass_message(self, operation: bytes) -> None:
        line, _, content = operation.partition(_CRLF)
        words = line.split(b" ")
        sizes = 1 if words[0] == b"MSG" else 2
        reply = words[3] if len(words) - sizes == 4 else b""
        split = int(words[-2]) if sizes == 2 else 0
        sid = words[2]
        if not sid.isdigit() or len(sid) > MAX_DIGITS:
            raise IngestError("a subscription id is unknown")
        if self._is_unasked(words[1]):
            # nats-py would keep up to 128 MiB of such before it looks at them.
            self.unasked += 1
            return
        try:
            await self.nc._process_msg(
                int(sid), words[1], reply, content[split:-2], content[:split] or None
            )
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

    def _is_unasked(self, subject: bytes) -> bool:
        inbox = self.nc._resp_sub_prefix
        if inbox is None or not subject.startswith(inbox):
            return False
        return subject[len(inbox) :].decode("latin-1") not in self.nc._resp_map

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
            try:
                if not waiter.done():
                    waiter.set_result(True)
            except Exception:
                # nats-py ends its read loop on a fault of ours, too.
                log.exception("a PONG could not be handled")
        self.nc._pongs_received += 1
        self.nc._pings_outstanding = 0


class _Unguessable(NUID):
    """Names of requests that nobody can tell from others that they have seen.

    A service sees the reply subject of each command and may publish to the bridges' inbox.
    nats-py's own names count up from one another, so that it could answer the next request, too.
    """

    def next(self) -> bytearray:
        """Return 22 characters, as many as nats-py expects."""
        return bytearray(secrets.token_hex(11).encode())


def install(client: Client, receivers: Receivers, on_denied: Callable[[str], None]) -> None:
    """Replace the parser of a client that is not connected yet.

    ``on_denied`` takes the subject of a subscription that the server refuses.
    """
    client._ps = parser = Ingest(client, receivers)
    client._nuid = _Unguessable()
    parser.on_denied = on_denied


class Tap(asyncio.Protocol):
    """Between the transport and nats-py's stream: the bridge's messages don't go through it.

    nats-py reads through a stream, a future and a task, which costs two loop iterations a read.
    What is for the bridge is handled right when it comes in, between ``reads.begin`` and
    ``reads.end``; the rest is passed on unchanged. ``at_once`` is :meth:`Ingest.at_once`.
    """

    def __init__(
        self,
        inner: asyncio.Protocol,
        receivers: Receivers,
        reads: Reads,
        at_once: Callable[[bytes], bool],
    ) -> None:
        self._inner = inner
        self._at_once = at_once
        self._splitter = Splitter(receivers)
        self._reads = reads
        self._lost = False

    def data_received(self, data: bytes) -> None:
        """Bytes from NATS."""
        if self._lost:
            self._inner.data_received(data)
            return
        rest: list[bytes] = []
        self._reads.begin()
        try:
            rest.extend(each for each in self._splitter.feed(data) if not self._at_once(each))
        except IngestError as problem:
            # nats-py has to hear of it in its own read loop, to reconnect: what follows is no
            # protocol for it either.
            log.warning("%s", problem)
            self._lost = True
            rest.append(_NONSENSE)
        if rest:
            self._inner.data_received(b"".join(rest))
        try:
            self._reads.end(len(data) >= FULL_READ)
        except Exception:
            # asyncio would end the connection.
            log.exception("the end of a read could not be handled")

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def tap(client: Client, receivers: Receivers, reads: Reads) -> None:
    """Put a :class:`Tap` on the connection of a client that has just come up.

    Before the bridge's first SUB on it, so that none of its messages goes the slow way.
    """
    transport: Any = client._transport
    writer = getattr(transport, "_io_writer", None)
    if writer is not None:
        inner = writer.transport.get_protocol()
        if not isinstance(inner, Tap):
            parser: Any = client._ps
            writer.transport.set_protocol(Tap(inner, receivers, reads, parser.at_once))
            parser.tapped = True


def socket_of(client: Client) -> Any:
    """Return the socket of a client that is connected, or None where it has none."""
    transport: Any = client._transport
    writer = getattr(transport, "_io_writer", None)
    return None if writer is None else writer.get_extra_info("socket")


def write(client: Client, operations: bytes) -> None:
    """Put whole protocol operations on the wire now, past nats-py's queue.

    For a client that is connected. nats-py writes a PING at once but queues a SUB, so that a PONG
    would confirm nothing: operations that must keep their order go this way, together.
    """
    transport: Any = client._transport
    transport.write(operations)


def unsent(client: Client) -> int:
    """Return how many bytes wait in the transport of a client that is connected."""
    transport: Any = client._transport
    writer = getattr(transport, "_io_writer", None)
    return 0 if writer is None else writer.transport.get_write_buffer_size()


def cut(client: Client) -> None:
    """End the connection without waiting for anybody; for a client that does not close."""
    transport: Any = client._transport
    writer = getattr(transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def await_pong(client: Client, latch: Latch) -> None:
    """Register who waits for the PONG of a PING that is written right after this call."""
    client._pongs.append(latch)  # type: ignore[arg-type]  # a list of futures to nats-py
