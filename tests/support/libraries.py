"""WebSocket libraries as clients: programs around them that a test commands, line by line.

What the lines are stands in ``tests/libraries/README.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.support.bridge import ROOT

PROGRAMS: Final = ROOT / "tests" / "libraries"
NODE: Final = ROOT / "tests" / "node"
ENVIRONMENT: Final = Path(os.environ.get("CLIENT_ENVIRONMENT", ROOT / ".venv-clients")) / "bin"
"""Where ``make clients`` puts what the project itself does not need."""
DEADLINE: Final = 20.0

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Library:
    """A library, and how its program is started."""

    name: str
    command: Sequence[str]


def _all() -> Iterator[Library]:
    python = str(ENVIRONMENT / "python")
    yield Library("websockets", [sys.executable, str(PROGRAMS / "websockets_client.py")])
    for name in ("aiohttp", "websocket-client", "picows"):
        file = f"{name.removesuffix('-client').replace('-', '_')}_client.py"
        yield Library(name, [python, str(PROGRAMS / file)])
    for name in ("ws", "undici"):
        yield Library(name, ["node", str(NODE / f"{name}.mjs")])
    yield Library("libwebsockets", [str(ENVIRONMENT / "libwebsockets-client")])


_wanted = os.environ.get("CLIENT_LIBRARIES", "websockets").split(",")
LIBRARIES: Final = tuple(library for library in _all() if library.name in _wanted)
"""Those that ``CLIENT_LIBRARIES`` names, joined by commas; else the one that is always there."""


class Program:
    """A library's program while it runs; an async context manager."""

    def __init__(self, library: Library, certificate: Path) -> None:
        self._library = library
        self._certificate = certificate
        self._numbers = itertools.count(1)
        self._connections: dict[str, Connection] = {}
        self.can: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._library.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "CLIENT_CA": str(self._certificate)},
            limit=1 << 20,
        )
        assert self._process.stdout is not None
        first = (await self._process.stdout.readline()).decode().split()
        assert first[:1] == ["can"], first
        self.can = frozenset(first[1:])
        self._reading = asyncio.create_task(self._read(self._process.stdout))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read(self, out: asyncio.StreamReader) -> None:
        while line := (await out.readline()).decode():
            kind, name, *rest = line.rstrip("\n").split(" ", 2)
            self._connections[name].note(kind, rest[0] if rest else "")
        for connection in self._connections.values():
            connection.note("failed", "the program ended")

    def say(self, *words: object) -> None:
        """Write a command."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    def connect(
        self, url: str, *, token: str = "-", protocols: str = "-", origin: str = "-"
    ) -> Connection:
        """Connect; what comes of it is to be asked of the connection."""
        name = f"c{next(self._numbers)}"
        connection = self._connections[name] = Connection(self, name)
        self.say("connect", name, url, token, protocols, origin)
        return connection


class Connection:
    """One connection of a library."""

    def __init__(self, program: Program, name: str) -> None:
        self._program = program
        self._name = name
        self._news = asyncio.Event()
        self._end: list[str] = []
        self.opened: str | None = None
        """What the bridge selected of the protocols that were offered, ``-`` for nothing."""
        self.texts: list[str] = []
        self.pongs = 0
        self.troubles: list[str] = []
        self.taken = 0

    def note(self, kind: str, rest: str) -> None:
        """Something happened."""
        match kind:
            case "open":
                self.opened = rest
            case "text":
                self.texts.append(rest)
            case "pong":
                self.pongs += 1
            case "failed" | "closed":
                self._end = self._end or [kind, rest]
            case "trouble":
                self.troubles.append(rest)
        self._news.set()

    async def until(self, condition: Callable[[], object], deadline: float = DEADLINE) -> None:
        """Wait until something holds."""
        try:
            async with asyncio.timeout(deadline):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(str(self)) from None

    def __str__(self) -> str:
        return f"{self._name}: {self.opened} {self.texts[-3:]} {self._end} {self.troubles[-3:]}"

    def do(self, command: str, *words: object) -> None:
        """Have the program do something to this connection."""
        self._program.say(command, self._name, *words)

    def send(self, kind: str, data: object = None, **fields: object) -> None:
        """Send a message."""
        self.do("send", json.dumps({"type": kind, "data": data, **fields}))

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or was refused."""
        return bool(self._end)

    async def message(self, deadline: float = DEADLINE) -> Message:
        """Return the next message."""
        await self.until(lambda: len(self.texts) > self.taken or self._end, deadline)
        assert len(self.texts) > self.taken, str(self)
        self.taken += 1
        message: Message = json.loads(self.texts[self.taken - 1])
        return message

    async def expect(self, kind: str) -> Message:
        """Return the next message, which is of this type."""
        message = await self.message()
        assert message["type"] == kind, message
        return message

    async def refused(self) -> int:
        """Return the HTTP status of a handshake that failed, 0 where the library tells none."""
        await self.until(lambda: self._end)
        assert self._end[0] == "failed", str(self)
        return int(self._end[1])

    async def closed(self, deadline: float = DEADLINE) -> tuple[int, str]:
        """Return code and reason of the end."""
        await self.until(lambda: self._end, deadline)
        assert self._end[0] == "closed", str(self)
        code, _, reason = self._end[1].partition(" ")
        return int(code), reason

    def messages(self) -> list[Message]:
        """Return all messages that came and were not taken yet."""
        texts, self.taken = self.texts[self.taken :], len(self.texts)
        return [json.loads(text) for text in texts]

    async def leave(self) -> None:
        """Close it, if it is still there."""
        self.do("close")
        with contextlib.suppress(AssertionError):
            await self.closed(5)
