"""The bridge as a process of its own: how contract tests start it, find it, stop it, read it.

Nothing here imports the bridge. What it prints stays readable after its end, so that a test can
look for what must not be there.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from natsbridge.schemas.subjects import Subjects
from tests.support.clients import SECRET
from tests.support.nats_server import NatsServer

ROOT = Path(__file__).parents[2]
READY = re.compile(r"bridge ready on (https?://[^\s\"]+)")
NEVER = re.compile(
    r"Traceback \(most recent call last\)|was never retrieved|was never awaited"
    r"|Exception in callback|Task was destroyed|Unhandled"
    r"|eyJ[\w-]{8,}"  # how each part of a token begins
)
"""What no log of a bridge holds, whatever its peers do: signs of a crash, and tokens."""
START_DEADLINE = 20.0
STOP_DEADLINE = 30.0
"""What the contract allows between SIGTERM and the exit, in seconds."""


def settings_of(nats_url: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the settings of a bridge on a port and with subjects of its own, changed by these."""
    name = uuid4().hex[:12]
    return {
        "BRIDGE_NATS_URL": nats_url,
        "BRIDGE_HOST": "127.0.0.1",
        "BRIDGE_PORT": "0",
        "BRIDGE_JWT_SECRET": SECRET,
        "BRIDGE_JWT_LEEWAY": "0",
        "BRIDGE_SUBJECT_PREFIX": f"t{name}",
        "BRIDGE_STREAM": f"T{name}",
        "BRIDGE_LOG_LEVEL": "debug",
        "BRIDGE_DRAIN_SECONDS": "0.2",
        "BRIDGE_FAILED_HANDSHAKES": "10000",
        **(settings or {}),
    }


class OutputProcess:
    """A child process whose standard output and error are gathered, line by line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        pipes = (self._process.stdout, self._process.stderr)
        self._readers = [threading.Thread(target=self._read, args=(pipe,)) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def output(self) -> str:
        """All that it printed so far, on both streams."""
        with self._news:
            return "".join(self._lines)

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def lines(self) -> int:
        """How many lines it printed so far."""
        with self._news:
            return len(self._lines)

    def wait_for_line(
        self, pattern: re.Pattern[str], deadline: float, after: int = 0
    ) -> re.Match[str]:
        """Return the first match in a line of output, past the first ``after`` ones; fail when it
        ends or takes too long.
        """
        limit = time.monotonic() + deadline
        seen = after
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if match := pattern.search(line):
                        return match
                seen = len(self._lines)
                ended = not any(reader.is_alive() for reader in self._readers)
                left = limit - time.monotonic()
                if ended or left <= 0:
                    what = "ended" if ended else f"took over {deadline} s"
                    raise AssertionError(f"{what} before {pattern.pattern!r}:\n" + self.output)
                self._news.wait(min(left, 0.2))

    def terminate(self) -> None:
        """Ask it to stop in order."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Return its exit code; kill it and fail when it is still there after the deadline."""
        try:
            code = self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {deadline} s:\n{self.output}") from None
        self._join()
        return code

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._join()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(5)


class BridgeProcess(OutputProcess):
    """``natsbridge serve`` with settings of its own, on a port and with subjects of its own."""

    module = "natsbridge.bridge.cli"
    """What is run."""

    def __init__(self, nats_url: str, settings: Mapping[str, str] | None = None) -> None:
        self.settings = settings_of(nats_url, settings)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGE_")}
        super().__init__(
            [sys.executable, "-m", self.module, "serve"], {**inherited, **self.settings}
        )
        self.nats_url = nats_url
        self.subjects = Subjects(self.settings["BRIDGE_SUBJECT_PREFIX"])
        self.url = ""

    def wait_ready(self, deadline: float = START_DEADLINE) -> None:
        """Wait for the line that tells the port, and learn it."""
        try:
            self.url = self.wait_for_line(READY, deadline)[1].rstrip("/")
        except BaseException:
            self.kill()
            raise

    @property
    def ws_url(self) -> str:
        """Where WebSocket clients connect, without a path."""
        return self.url.replace("http", "ws", 1)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.url.rpartition(":")[2])


def delete_stream(nats_url: str, name: str) -> None:
    """Give back what a bridge's stream has reserved of a broker that many tests share."""
    place = urlsplit(nats_url)
    with (
        contextlib.suppress(OSError),  # a test may have stopped its broker for good
        socket.create_connection((place.hostname, place.port), 5) as connection,
    ):
        request = f"PUB $JS.API.STREAM.DELETE.{name} 0\r\n\r\nPING\r\n"
        connection.sendall(b'CONNECT {"verbose":false}\r\n' + request.encode())
        answer = b""
        while b"PONG" not in answer and (chunk := connection.recv(4096)):
            answer += chunk


def finish(bridges: Sequence[BridgeProcess]) -> None:
    """Stop bridges, all at once, and check what holds for every end of every test.

    Each exits with 0 in time, and its log shows no crash and no token: what tests do to it are a
    peer's mistakes, or none.
    """
    running = [bridge for bridge in bridges if bridge.returncode is None]
    for bridge in running:
        bridge.terminate()
    for bridge in running:
        assert bridge.wait() == 0, bridge.output
    for bridge in bridges:
        prefix = bridge.settings["BRIDGE_SUBJECT_PREFIX"]
        for name in (bridge.settings["BRIDGE_STREAM"], f"KV_{prefix}_bridge_tickets"):
            delete_stream(bridge.nats_url, name)
        assert not NEVER.search(bridge.output), bridge.output


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """Settings of the module's bridge beyond the defaults; a module may override this."""
    return {}


@pytest.fixture(scope="module")
def bridge(nats_server: NatsServer, bridge_settings: dict[str, str]) -> Iterator[BridgeProcess]:
    """A bridge that the tests of one module share."""
    process = BridgeProcess(nats_server.url, bridge_settings)
    process.wait_ready()
    yield process
    finish([process])


StartBridge = Callable[..., BridgeProcess]
"""``start_bridge(nats_url=None, **settings)``: start one more, ready when this returns."""


@pytest.fixture
def start_bridge(nats_server: NatsServer) -> Iterator[StartBridge]:
    """Start bridges with settings of their own; they end with the test."""
    bridges: list[BridgeProcess] = []

    def start(nats_url: str | None = None, **settings: str) -> BridgeProcess:
        process = BridgeProcess(nats_url or nats_server.url, settings)
        bridges.append(process)
        process.wait_ready()
        return process

    yield start
    finish(bridges)
