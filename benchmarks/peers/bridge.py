"""This bridge with everything on, without a stream, on nats-py's stock parser, and as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt

from benchmarks.broker import Broker
from benchmarks.events import REACH
from benchmarks.load import Script, request, text
from benchmarks.machine import SERVER_CORE
from benchmarks.peers.base import Client, Server
from benchmarks.processes import Process
from benchmarks.publisher import Publisher
from natsbridge.bridge.nats.shape import wanted
from natsbridge.bridge.settings import StreamSettings
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Subjects

ROOT = Path(__file__).parents[2]
SECRET = "benchmark-secret-of-more-than-32-bytes"
SETTINGS = {
    "BRIDGE_JWT_SECRET": SECRET,
    "BRIDGE_HOST": "127.0.0.1",
    "BRIDGE_PORT": "0",
    "BRIDGE_MAX_CONNECTIONS": "60000",
    "BRIDGE_MAX_CONNECTIONS_PER_USER": "1000",
    "BRIDGE_LOG_LEVEL": "warning",
    # A burst is more than the default outbox for a client that reads as fast as it can.
    "BRIDGE_QUEUE_MESSAGES": "100000",
    "BRIDGE_QUEUE_BYTES": str(64 * 1024 * 1024),
}
ROOTS = ("schemas", "publishers", "bridge", ".")
OLD_COMMAND = ("-m", "bridge.cli", "serve")
"""What older checkouts are started with."""
OTHER_ROOT = Path(os.environ.get("BENCH_OTHER") or os.devnull)


@dataclass(frozen=True)
class Bridge:
    """``natsbridge serve``, or a launcher that changes it and then does the same."""

    name: str
    label: str
    command: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()
    checkout: Path = ROOT
    stream: bool = True
    marks: bool = False

    @property
    def _is_namespaced(self) -> bool:
        """Whether the checkout has one name: before 0.2 its parts were top-level packages."""
        return (self.checkout / "bridge" / "natsbridge").is_dir()

    @property
    def root(self) -> str:
        # Before bridges told who speaks, events stood below ``live`` itself.
        schemas = "schemas/natsbridge/schemas" if self._is_namespaced else "schemas"
        subjects = self.checkout / schemas / "subjects.py"
        speaks = subjects.is_file() and '"live.stream"' in subjects.read_text()
        return "live.stream" if speaks else "live"

    def missing(self) -> str | None:
        found = (self.checkout / "bridge").is_dir()
        return None if found else "BENCH_OTHER names no checkout of another commit"

    def start(self, broker: Broker) -> Server:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGE_")}
        # BENCH_BRIDGE_X sets BRIDGE_X, to measure the effect of one setting.
        extra = {k[6:]: v for k, v in os.environ.items() if k.startswith("BENCH_BRIDGE_")}
        env = {
            **inherited,
            **SETTINGS,
            **dict(self.settings),
            "BRIDGE_NATS_URL": broker.url,
            **extra,
            # Found before what is installed here.
            "PYTHONPATH": os.pathsep.join(
                str(self.checkout / root) for root in (ROOTS if self._is_namespaced else (".",))
            ),
        }
        if self.stream:
            _make_stream(broker, self.root)
        process = Process(
            [sys.executable, *(self.command if self._is_namespaced else OLD_COMMAND)],
            core=SERVER_CORE,
            env=env,
            cwd=str(self.checkout),  # where `-m` looks first
            count_writes=True,
        )
        try:
            found = process.wait_for(r"bridge ready on http://127\.0\.0\.1:(\d+)")
        except BaseException:
            process.stop()
            raise
        return Server(int(found[1]), process)

    def scripts(self, clients: Sequence[Client]) -> list[Script]:
        now = int(time.time())
        scripts: list[Script] = []
        for client in clients:
            claims = {"sub": client.user, "exp": now + 7200, "iat": now, "name": "Load Client"}
            token = jwt.encode(claims, SECRET, algorithm="HS256")
            upgrade = request("/ws", [("Authorization", f"Bearer {token}")])
            steps = [(b"", upgrade), (b"connection.established", b"")]
            if client.topics:
                wish = {"type": "subscribe", "data": {"events": list(client.topics)}}
                steps[-1] = (b"connection.established", text(json.dumps(wish).encode()))
                steps.append((b"subscription.acknowledged", b""))
            scripts.append(steps)
        return scripts


BRIDGE = Bridge("bridge", "this bridge", ("-m", "natsbridge.bridge.cli", "serve"))
LIVE = Bridge(
    "live",
    "this bridge, live only",
    ("-m", "natsbridge.bridge.cli", "serve"),
    # There is no stream: what cursors and the check of its order cost is left out.
    (("BRIDGE_STREAM_CREATE", "false"),),
    stream=False,
)
STOCK = Bridge("stock", "this bridge, stock nats-py", ("-m", "benchmarks.servers.stock_bridge"))


def _make_stream(broker: Broker, root: str) -> None:
    """Make the stream as a bridge with this root would, reaching to :data:`REACH`."""
    catalogue, subjects = Catalogue.load(), Subjects()
    want = wanted(
        "EVENTS", subjects, StreamSettings(), catalogue=catalogue, max_message_size=64 * 1024
    )
    config = {**want.as_dict(), "first_seq": REACH + 1}
    if root == "live":
        config |= {"subjects": ["events.>"], "max_msg_size": -1}
        config["republish"] = {"src": "events.>", "dest": "live.>"}
    Publisher(broker.port).ask("$JS.API.STREAM.CREATE.EVENTS", json.dumps(config).encode())


def _commit(root: Path) -> str:
    """Return what the commit of a checkout is called, or "another commit" where that is unknown."""
    if not root.is_dir():
        return "another commit"
    try:
        command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "another commit"


OTHER = Bridge(
    "other",
    f"this bridge at {_commit(OTHER_ROOT)}",
    ("-m", "natsbridge.bridge.cli", "serve"),
    checkout=OTHER_ROOT,
)
