"""Peers that are a program of their own: subscribed to ``live.>``, they give each event to the
connections that want it. They check no token and no event.

A program gets the broker's URL as its argument and prints ``ready PORT``. A client says who it is
and what it wants in its URL, and is sent ``ready`` once it is registered.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.broker import Broker
from benchmarks.load import Script, request, text
from benchmarks.machine import SERVER_CORE
from benchmarks.peers.base import Client, Server
from benchmarks.processes import Process

ROOT = Path(__file__).parents[2]
NODE = ROOT / "benchmarks" / "node"


def python() -> str:
    """The interpreter that has the peers' packages: of ``.venv-bench``, or this one."""
    given = os.environ.get("BENCH_PYTHON")
    made = ROOT / ".venv-bench" / "bin" / "python"
    return given or (str(made) if made.exists() else sys.executable)


@cache
def _has_module(module: str) -> bool:
    if python() == sys.executable:
        return importlib.util.find_spec(module) is not None
    asked = [python(), "-c", f"import {module}"]
    return subprocess.run(asked, capture_output=True, timeout=30, check=False).returncode == 0


def _needs_module(module: str) -> Callable[[], str | None]:
    return lambda: None if _has_module(module) else f"{python()} has no {module}"


def _needs_node(package: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        if shutil.which("node") is None:
            return "Node is not installed"
        there = (NODE / "node_modules" / package).exists()
        return None if there else f"npm ci --prefix benchmarks/node has not run ({package})"

    return missing


def _plain(query: str) -> Script:
    return [(b"", request(f"/?{query}")), (b"ready", b"")]


def _engine_io(query: str) -> Script:
    upgrade = request(f"/socket.io/?EIO=4&transport=websocket&{query}")
    return [(b"", upgrade), (b"0{", text(b"40")), (b"ready", b"")]


@dataclass(frozen=True)
class Program:
    """One such peer."""

    name: str
    label: str
    command: Callable[[], list[str]]
    needs: Callable[[], str | None]
    introduce: Callable[[str], Script] = _plain
    root: str = "live"
    marks: bool = False

    def missing(self) -> str | None:
        return self.needs()

    def start(self, broker: Broker) -> Server:
        process = Process(
            [*self.command(), broker.url], core=SERVER_CORE, cwd=str(ROOT), count_writes=True
        )
        try:
            found = process.wait_for(r"^ready (\d+)")
        except BaseException:
            process.stop()
            raise
        return Server(int(found[1]), process)

    def scripts(self, clients: Sequence[Client]) -> list[Script]:
        return [
            self.introduce(urlencode({"user": each.user, "topics": ",".join(each.topics)}))
            for each in clients
        ]


def _python(module: str) -> Callable[[], list[str]]:
    return lambda: [python(), "-m", f"benchmarks.servers.{module}"]


def _node(file: str) -> Callable[[], list[str]]:
    return lambda: ["node", str(NODE / file)]


BROADCAST = Program(
    "broadcast",
    "websockets.broadcast + nats-py",
    _python("broadcast"),
    _needs_module("websockets"),
)
SOCKETIO = Program(
    "socketio",
    "python-socketio + nats-py",
    _python("socket_io"),
    _needs_module("socketio"),
    _engine_io,
)
SEED = Program(
    "seed", "FastAPI send_text loop + nats-py", _python("seed_loop"), _needs_module("fastapi")
)
WS = Program("ws", "Node ws + nats.js", _node("ws.mjs"), _needs_node("ws"))
UWS = Program(
    "uws", "uWebSockets.js + nats.js", _node("uws.mjs"), _needs_node("@btc-vision/uwebsockets.js")
)
