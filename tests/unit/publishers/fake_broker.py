"""A scripted NATS broker: it answers publishes as a test says, and says what it likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Self

Answer = Callable[[str], bytes | None]
"""From a published subject to the payload of the answer, a header block (``NATS/1.0…``) to answer
with instead, raw ``-ERR …`` bytes, or no answer."""

INFO = b'INFO {"server_id":"fake","version":"2.15.1","headers":true,"max_payload":1048576}\r\n'


def acknowledgement(sequence: int = 1) -> bytes:
    """Return what a stream answers when it has stored a message."""
    return json.dumps({"stream": "EVENTS", "seq": sequence}).encode()


def headers(*lines: str) -> bytes:
    """Return an answer that is a header block: ``headers("Nats-Sequence: 7")``."""
    return "\r\n".join(("NATS/1.0", *lines, "", "")).encode()


NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
NOT_FOUND = b"NATS/1.0 404 Message Not Found\r\n\r\n"


class FakeBroker:
    """Listens inside its ``async with`` block; ``published`` holds ``(subject, headers)``, and
    ``operations`` the name of each protocol message that came, in order.

    Without ``pongs`` a PING is not answered.
    """

    def __init__(self, answer: Answer = lambda subject: None) -> None:
        self.answer = answer
        self.published: list[tuple[str, bytes]] = []
        self.subscribed: list[str] = []
        self.operations: list[str] = []
        self.connections = 0
        self.changed = asyncio.Condition()
        self.pongs = asyncio.Event()
        self.pongs.set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._port = 0
        await self.listen()
        return self

    async def listen(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        host, self._port = self._server.sockets[0].getsockname()
        self.url = f"nats://{host}:{self._port}"

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self._server.wait_closed()

    async def until(self, happened: Callable[[FakeBroker], bool]) -> None:
        """Wait until a client has connected, subscribed or published so that this is true."""
        async with self.changed:
            await self.changed.wait_for(lambda: happened(self))

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def say(self, line: bytes) -> None:
        """Send a line to the newest client."""
        self._writers[-1].write(line + b"\r\n")

    def hang_up(self) -> None:
        """Close the newest client's connection."""
        self._writers[-1].close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        writer.write(INFO)
        await self._tell()
        inbox = ""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                operation = line.split()
                self.operations.append(operation[0].decode())
                match operation:
                    case [b"PING"] if self.pongs.is_set():
                        writer.write(b"PONG\r\n")
                    case [b"SUB", subject, *_, sid]:
                        self.subscribed.append(subject.decode())
                        if subject.startswith(b"_INBOX."):
                            inbox = sid.decode()
                        await self._tell()
                    case [b"HPUB", subject, *reply, header_size, size]:
                        body = await reader.readexactly(int(size) + 2)
                        self.published.append((subject.decode(), body[: int(header_size)]))
                        self._reply(writer, subject.decode(), reply, inbox)
                        await self._tell()
                    case [b"PUB", subject, *reply, size]:
                        await reader.readexactly(int(size) + 2)
                        self.published.append((subject.decode(), b""))
                        self._reply(writer, subject.decode(), reply, inbox)
                        await self._tell()

    def _reply(
        self, writer: asyncio.StreamWriter, subject: str, reply: list[bytes], inbox: str
    ) -> None:
        answer = self.answer(subject)
        if answer is None:
            return
        if answer.startswith(b"-ERR"):
            writer.write(answer + b"\r\n")
        elif reply and answer.startswith(b"NATS/1.0"):
            size = len(answer)
            writer.write(f"HMSG {reply[0].decode()} {inbox} {size} {size}\r\n".encode())
            writer.write(answer + b"\r\n")
        elif reply:
            writer.write(f"MSG {reply[0].decode()} {inbox} {len(answer)}\r\n".encode())
            writer.write(answer + b"\r\n")
