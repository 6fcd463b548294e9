"""What the Python programs of this folder share; see README.md.

It runs without the project's packages.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

HEARTBEAT = '{"type":"heartbeat","pad":"' + "x" * 2000 + '"}'
PAUSE = 0.001
"""Seconds between two messages of a flood."""

_out = threading.Lock()


class RefusedError(Exception):
    """The handshake failed; with the HTTP status, or 0."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def say(*words: object) -> None:
    """Write one line."""
    with _out:
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()


def trusted() -> ssl.SSLContext:
    """Return a context that trusts the bridge of the test."""
    return ssl.create_default_context(cafile=os.environ["CLIENT_CA"])


def filled(size: int) -> str:
    """Return a message of exactly this size."""
    head, tail = '{"type":"ping","data":{"pingId":"filled"},"pad":"', '"}'
    return head + "x" * (size - len(head) - len(tail)) + tail


def pieces(count: int, text: str) -> list[str]:
    """Cut a text into so many parts."""
    step = max(1, -(-len(text) // count))
    return [text[at : at + step] for at in range(0, len(text), step)]


class Connection(ABC):
    """One connection of a library with an asyncio interface."""

    can: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False

    @abstractmethod
    async def connect(
        self, url: str, token: str | None, protocols: list[str], origin: str | None
    ) -> str | None:
        """Connect, and return the protocol that was selected; raises :class:`RefusedError`."""

    @abstractmethod
    async def receive(self) -> tuple[int, str]:
        """Report what comes by :func:`say`, and return code and reason of the end."""

    @abstractmethod
    async def send(self, text: str) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    async def send_parts(self, parts: list[str]) -> None:
        raise NotImplementedError

    async def ping(self) -> None:
        raise NotImplementedError

    async def obey(self, command: str, rest: str) -> None:
        """Do what a line says."""
        match command:
            case "send":
                await self.send(rest)
            case "fill":
                await self.send(filled(int(rest)))
            case "parts":
                count, text = rest.split(" ", 1)
                await self.send_parts(pieces(int(count), text))
            case "ping":
                await self.ping()
            case "flood":
                while not self.is_over:
                    await self.send(HEARTBEAT)
                    await asyncio.sleep(PAUSE)
            case "close":
                await self.close()
            case _:
                raise ValueError(command)

    async def run(self, rest: str, commands: asyncio.Queue[tuple[str, str]]) -> None:
        """Connect, and obey until the connection ends."""
        url, token, protocols, origin = rest.split(" ")
        try:
            chosen = await self.connect(
                url,
                None if token == "-" else token,
                [] if protocols == "-" else protocols.split(","),
                None if origin == "-" else origin,
            )
        except RefusedError as refused:
            say("failed", self.name, refused.status)
            return
        say("open", self.name, chosen or "-")
        working = asyncio.create_task(self._work(commands))
        try:
            code, reason = await self.receive()
        finally:
            self.is_over = True
        say("closed", self.name, code, reason)
        working.cancel()

    async def _work(self, commands: asyncio.Queue[tuple[str, str]]) -> None:
        while True:
            try:
                await self.obey(*await commands.get())
            except Exception as problem:
                # What can't be sent any more; how the connection ended is told by ``receive``.
                say("trouble", self.name, repr(problem))


async def main(kind: Callable[[str], Connection], can: str) -> None:
    """Obey standard input until its end."""
    say("can", can)
    queues: dict[str, asyncio.Queue[tuple[str, str]]] = {}
    tasks = set()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, name, *rest = line.rstrip("\n").split(" ", 2)
        text = rest[0] if rest else ""
        if command == "connect":
            queues[name] = asyncio.Queue()
            task = asyncio.create_task(kind(name).run(text, queues[name]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            queues[name].put_nowait((command, text))
    os._exit(0)
