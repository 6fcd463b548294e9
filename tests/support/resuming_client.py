"""A good client of the protocol, cheap enough for a thousand, that a test may treat badly.

It remembers the last cursor that it saw in any message, comes back after a random wait that grows,
moves on to another replica, asks for what it missed and subscribes again with the same cursor.
What it gets is written down in its account. A test may cut it, at any byte, and may stop its
reading.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit

from tests.support.accounting import Account, sequence_of
from tests.support.blocking_peer import UNCHECKED
from tests.support.clients import mint
from tests.support.lean import CLOSE, PING, TEXT, LeanClient, OnFrame, masked
from tests.support.model import Wish
from tests.support.story import Story

PONG: Final = 0xA
RESET: Final = struct.pack("ii", 1, 0)
LOST: Final = 1006
"""What a WebSocket library calls the end of a connection without a close frame."""

FIRST_WAIT: Final = 0.05
LONGEST_WAIT: Final = 1.0
"""Bounds of the random wait before a reconnect, in seconds; shorter than a real client's."""

CONNECT_DEADLINE: Final = 10.0

Message = dict[str, Any]
OnMessage = Callable[[Message], None]


class Wire(LeanClient):
    """One connection, which a test may cut in the middle of a message."""

    left: int | None = None
    """How many more bytes come in before the connection breaks, None for no end."""

    @classmethod
    async def dial(
        cls,
        url: str,
        query: dict[str, str],
        token: str,
        on_frame: OnFrame,
        buffer: int,
        limit: int | None,
    ) -> Self:
        """Connect and upgrade. ``buffer`` is the size of the kernel's receive buffer, 0 for any;
        ``limit`` is after how many bytes the connection breaks.
        """
        place = urlsplit(url)
        path = "/ws" + ("?" + urlencode(query) if query else "")
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()
        loop = asyncio.get_running_loop()
        near = socket.socket()
        try:
            near.setblocking(False)
            if buffer:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            await loop.sock_connect(near, (place.hostname, place.port))
            wire = cls(request, on_frame)
            wire.left = limit
            secured = (
                {"ssl": UNCHECKED, "server_hostname": place.hostname}
                if place.scheme == "https"
                else {}
            )
            await loop.create_connection(lambda: wire, sock=near, **secured)
        except BaseException:
            near.close()
            raise
        try:
            await wire.upgraded
        except BaseException:
            wire.transport.abort()
            raise
        return wire

    def data_received(self, data: bytes) -> None:
        if self.left is None:
            super().data_received(data)
            return
        data, self.left = data[: self.left], self.left - len(data)
        super().data_received(data)
        if self.left <= 0:
            self.left = 0
            self.transport.abort()

    def cut(self, *, reset: bool) -> None:
        """Break the connection now, with an RST or with whatever the system makes of a close."""
        near = self.transport.get_extra_info("socket")
        if reset and near is not None and not self.transport.is_closing():
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


class ResumingClient:
    """A client that keeps itself connected inside its block, or from ``start`` to ``stop``."""

    def __init__(
        self,
        urls: Sequence[str],
        wish: Wish,
        *,
        name: str = "",
        seed: int = 0,
        buffer: int = 0,
        on_message: OnMessage | None = None,
    ) -> None:
        """Take the replicas' URLs, the first one first, and what to subscribe to."""
        self._has_url = asyncio.Event()
        self.move(urls)
        self.wish = wish
        name = name or f"{wish.user} {wish.subscribe}"
        self.account = Account(name, wish.gets, wish.direct)
        self.cursor: str | None = None
        self.established: list[Message] = []
        """The data of each ``connection.established``; so with the two below."""
        self.resumes: list[Message] = []
        self.gaps: list[Message] = []
        self.errors: list[Message] = []
        self.closes: list[int] = []
        self.failures: Counter[str] = Counter()
        """Attempts to connect that failed, by what was said."""
        self.refused: int | None = None
        """The close code after which a client must not come back."""
        self._dice = random.Random(f"{seed} {self.account.name}")
        self._buffer = buffer
        self._on_message = on_message
        self._token = mint(wish.user, lifetime=7200, **wish.claims)
        self._wire: Wire | None = None
        self._code = LOST
        self._given: str | None = None
        """The cursor that this connection began with."""
        self._drain_wait: float | None = None
        self._is_greeted = False
        self._is_ready = False
        self._asked: set[str] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.cut_next: int | None = None
        """After how many bytes its next connection is to break."""
        self.story = Story()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, deadline: float = 20.0) -> None:
        """Connect, and return when it is subscribed."""
        self.begin()
        await self.until(lambda: self.is_ready, "ready", deadline)

    def begin(self) -> None:
        """Connect in the background."""
        assert self._task is None
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Leave, with a close frame where there is a connection. Can be started again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled() and self._task.exception() is not None:
                raise AssertionError(f"{self.account.name} failed") from self._task.exception()
            self._task = None

    # What a test does to it.

    @property
    def is_ready(self) -> bool:
        """Whether it is connected and its patterns are acknowledged."""
        return self._is_ready

    def cut(self, *, reset: bool = False, after: int | None = None) -> bool:
        """Break its connection, now or after so many more bytes; say whether it has one."""
        if self._wire is None:
            return False
        if after is None:
            self._wire.cut(reset=reset)
        else:
            self._wire.left = after
        return True

    def pause(self) -> None:
        """Read no more."""
        assert self._wire is not None
        self._wire.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._wire is not None and not self._wire.transport.is_closing():
            self._wire.transport.resume_reading()

    def move(self, urls: Sequence[str]) -> None:
        """Come back to these replicas from now on; to none, until there are some again."""
        self.urls = list(urls)
        if urls:
            self._has_url.set()
        else:
            self._has_url.clear()

    def send(self, kind: str, data: object, message_id: str | None = None) -> None:
        """Send a message of a test's own on the connection that there is."""
        assert self._wire is not None
        self._wire.send({"type": kind, "data": data, "id": message_id})

    async def until(self, condition: Callable[[], bool], what: str, deadline: float) -> None:
        """Wait until something holds, which is looked at after each message and each close."""
        try:
            async with asyncio.timeout(deadline):
                while not condition():
                    if self._task is not None and self._task.done():
                        self._task.result()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self}: not {what} after {deadline} s") from None

    def __str__(self) -> str:
        return (
            f"{self.account.name}: failures {dict(self.failures)}, errors {self.errors[-3:]}\n"
            f"{self.story}"
        )

    # How it keeps itself connected.

    async def _run(self) -> None:
        attempt = 0
        while self.refused is None:
            await self._has_url.wait()
            known = len(self.established)
            try:
                async with asyncio.timeout(CONNECT_DEADLINE):
                    self._wire = await self._connect()
            except (OSError, TimeoutError) as error:
                self.failures[str(error).partition("\r\n")[0] or type(error).__name__] += 1
                self._news.set()
            else:
                await self._stay(self._wire)
            attempt = 0 if len(self.established) > known else attempt + 1
            if self.urls:
                self.urls.append(self.urls.pop(0))
            wait = self._dice.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt))
            if self._drain_wait is not None:
                wait, self._drain_wait = self._drain_wait, None
            await asyncio.sleep(wait)

    async def _connect(self) -> Wire:
        query = {} if self.wish.direct else {"direct": "off"}
        self._given = self.cursor
        if self._given is not None:
            query["cursor"] = self._given
        self._code = LOST
        self._is_greeted = False
        limit, self.cut_next = self.cut_next, None
        url, token = self.urls[0], self._token
        return await Wire.dial(url, query, token, self._on_frame, self._buffer, limit)

    async def _stay(self, wire: Wire) -> None:
        """Subscribe, and return when the connection has ended."""
        try:
            # A client may subscribe at once, or when it knows that it is connected; the bridge's
            # greeting may be here already.
            if self._is_greeted or self._dice.random() < 0.5:
                self._subscribe(wire)
            await wire.lost
        except asyncio.CancelledError:
            wire.transport.write(masked(CLOSE, (1000).to_bytes(2, "big")))
            wire.transport.close()
            await asyncio.wait([wire.lost], timeout=1)
            wire.transport.abort()
            raise
        finally:
            self._wire = None
            self._is_ready = False
            self._asked.clear()
        self.closes.append(self._code)
        self.story.tell(f"closed {self._code}")
        if self._code >= 4500:
            self.refused = self._code
        self._news.set()

    def _subscribe(self, wire: Wire) -> None:
        if self.wish.subscribe and not self._asked:
            data: Message = {"events": self.wish.subscribe}
            if self._given is not None:
                data["cursor"] = self._given
            message_id = f"s{len(self.established)}"
            self._asked.add(message_id)
            wire.send({"type": "subscribe", "id": message_id, "data": data})

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        wire = self._wire
        if opcode == TEXT:
            self._read(json.loads(payload))
            self._news.set()
        elif opcode == CLOSE:
            self._code = int.from_bytes(payload[:2], "big") if payload else 1005
            if wire is not None and not wire.transport.is_closing():
                wire.transport.write(masked(CLOSE, payload[:2]))
                wire.transport.close()
        elif opcode == PING and wire is not None:
            wire.transport.write(masked(PONG, payload))

    def _read(self, message: Message) -> None:
        kind, data = message["type"], message["data"]
        cursor = message.get("cursor") or data.get("cursor")
        match kind:
            case "connection.established":
                self.established.append(data)
                self._is_greeted = True
                if self._wire is not None:
                    self._subscribe(self._wire)
                self._is_ready = not self.wish.subscribe
            case "subscription.acknowledged":
                assert not data["invalid_events"], message
                self._is_ready = True
            case "resume.completed":
                self.resumes.append(data)
            case "gap":
                self.gaps.append(data)
            case "error":
                self.errors.append(data)
            case "connection.draining":
                self._drain_wait = data["reconnect_after_ms"] / 1000
        if cursor is not None and kind != "gap":
            self.cursor = cursor
            answers = ("connection.established", "subscription.acknowledged")
            if self._is_ready and self.account.start is None and kind in answers:
                self.account.start = sequence_of(cursor)
        self.story.note(message)
        self.account.note(message)
        if self._on_message is not None:
            self._on_message(message)
