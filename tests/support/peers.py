"""NATS clients as services have them, behind one interface: nats-py, and Node's own.

Each belongs to one NATS user, does one thing at a time, and tells what the server refused it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError

from tests.support.nats_server import settle

NODE: Final = Path(__file__).parents[1] / "node"
DEADLINE: Final = 15.0


@dataclass(frozen=True)
class Login:
    """A NATS user, as the settings of a service name it."""

    url: str
    user: str
    password: str

    @property
    def inbox_prefix(self) -> str:
        """The inbox prefix that this user has."""
        return f"_INBOX_{self.user}"

    @property
    def settings(self) -> dict[str, str]:
        """The variables of the bridge and the SDK."""
        return {
            "BRIDGE_NATS_URL": self.url,
            "BRIDGE_NATS_USER": self.user,
            "BRIDGE_NATS_PASSWORD": self.password,
            "BRIDGE_NATS_INBOX_PREFIX": self.inbox_prefix,
        }


@dataclass(frozen=True)
class Received:
    """A message that a peer got."""

    subject: str
    data: str
    reply: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Failed(Exception):
    """What the peer's library raised."""


class Peer(ABC):
    """A client; an async context manager. ``refusals`` is what the last call was refused."""

    def __init__(self, login: Login) -> None:
        self.login: Final = login
        self.refusals: list[str] = []

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def close(self) -> None: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def publish(
        self, subject: str, data: str, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Publish, and return when the server has done with it."""

    @abstractmethod
    async def store(self, subject: str, data: str, headers: Mapping[str, str] | None = None) -> int:
        """Publish as the library does it for JetStream; return the sequence, or raise Failed."""

    @abstractmethod
    async def request(self, subject: str, data: str = "") -> Received:
        """Ask, and return the answer; raises :class:`Failed`."""

    @abstractmethod
    async def subscribe(self, subject: str, *, queue: str = "", answer: str = "") -> None:
        """Gather what comes, and answer each with ``answer`` if there is one."""

    @abstractmethod
    async def messages(self) -> list[Received]:
        """Return all that has come so far."""

    async def wait_for(self, subject: str) -> Received:
        """Return the first message on this subject; fail where none comes in time."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for message in await self.messages():
                    if message.subject == subject:
                        return message
                await asyncio.sleep(0.02)


class PythonPeer(Peer):
    """nats-py."""

    async def __aenter__(self) -> Self:
        async def refused(error: Exception) -> None:
            self.refusals.append(str(error))

        self._received: list[Received] = []
        self.client: Client = await nats.connect(
            self.login.url,
            user=self.login.user,
            password=self.login.password,
            inbox_prefix=self.login.inbox_prefix,
            error_cb=refused,
            allow_reconnect=False,
        )
        return self

    async def close(self) -> None:
        await self.client.close()

    async def publish(
        self, subject: str, data: str, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        self.refusals.clear()
        await self.client.publish(
            subject, data.encode(), reply=reply, headers=dict(headers) if headers else None
        )
        await settle(self.client)

    async def store(self, subject: str, data: str, headers: Mapping[str, str] | None = None) -> int:
        self.refusals.clear()
        given = dict(headers) if headers else None
        try:
            told = await self.client.jetstream(timeout=2).publish(
                subject, data.encode(), headers=given
            )
        except (nats.errors.Error, APIError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        return told.seq

    async def request(self, subject: str, data: str = "") -> Received:
        self.refusals.clear()
        try:
            return _received(await self.client.request(subject, data.encode(), timeout=2))
        except nats.errors.Error as error:
            raise Failed(repr(error)) from error

    async def subscribe(self, subject: str, *, queue: str = "", answer: str = "") -> None:
        async def receive(message: Msg) -> None:
            self._received.append(_received(message))
            if answer:
                await message.respond(answer.encode())

        self.refusals.clear()
        await self.client.subscribe(subject, queue=queue, cb=receive)
        await settle(self.client)

    async def messages(self) -> list[Received]:
        await settle(self.client)
        await asyncio.sleep(0)  # nats-py hands messages on in tasks of their own
        return list(self._received)


def _received(message: Msg) -> Received:
    data = message.data.decode("utf-8", "replace")
    return Received(message.subject, data, message.reply, message.headers or {})


class NodePeer(Peer):
    """Node's client, in a process of its own; see ``tests/node/peer.mjs``."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(install_node)
        login = self.login
        self._process = await asyncio.create_subprocess_exec(
            "node",
            "peer.mjs",
            cwd=NODE,
            env={
                "PATH": os.environ["PATH"],
                "NATS_URL": login.url,
                "NATS_USER": login.user,
                "NATS_PASSWORD": login.password,
                "NATS_INBOX_PREFIX": login.inbox_prefix,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        try:
            await self._read()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = await self._process.stdout.readline()
        assert line, "node ended"
        told: dict[str, Any] = json.loads(line)
        return told

    async def _do(self, operation: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        asked = json.dumps({"op": operation, **arguments})
        self._process.stdin.write(asked.encode() + b"\n")
        told = await self._read()
        self.refusals = told["refusals"]
        if "error" in told:
            raise Failed(told["error"])
        return told["result"]

    async def publish(
        self, subject: str, data: str, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        await self._do("publish", subject=subject, data=data, headers=headers, reply=reply)

    async def store(self, subject: str, data: str, headers: Mapping[str, str] | None = None) -> int:
        told = await self._do("store", subject=subject, data=data, headers=headers)
        sequence: int = told["seq"]
        return sequence

    async def request(self, subject: str, data: str = "") -> Received:
        return Received(**await self._do("request", subject=subject, data=data))

    async def subscribe(self, subject: str, *, queue: str = "", answer: str = "") -> None:
        await self._do("subscribe", subject=subject, queue=queue, answer=answer)

    async def messages(self) -> list[Received]:
        return [Received(**each) for each in await self._do("messages")]


PEERS: Final[dict[str, type[Peer]]] = {"nats-py": PythonPeer, "node": NodePeer}


def install_node() -> None:
    """Install what ``tests/node`` needs, once for all test processes, as its lock file says."""
    lock = NODE / "package-lock.json"
    modules = NODE / "node_modules"
    installed = modules / ".package-lock.json"
    with (NODE / ".installing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return
        npm = shutil.which("npm")
        assert npm is not None, "npm is missing: these tests run Node's NATS client"
        subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=NODE, check=True
        )
