"""The floor: a loop in C that writes ready-made frames to the same sockets, with no broker.

Without a C compiler the same loop runs in Python (``benchmarks.servers.floor``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import native
from benchmarks.broker import Broker
from benchmarks.load import Script, request
from benchmarks.machine import SERVER_CORE
from benchmarks.peers.base import Client, Server
from benchmarks.processes import Process


class Floor:
    """Driven by commands instead of a publisher; see ``native/floor.c``."""

    name = "floor"
    root = "live"
    marks = False

    @property
    def label(self) -> str:
        return "floor (C loop)" if native.compiler() else "floor (Python loop)"

    def missing(self) -> str | None:
        return None

    def start(self, broker: Broker) -> Server:
        binary = native.program("floor")
        command = [binary] if binary else [sys.executable, "-m", "benchmarks.servers.floor"]
        process = Process(command, core=SERVER_CORE, count_writes=True)
        return Server(int(process.wait_for(r"ready (\d+)")[1]), process)

    def scripts(self, clients: Sequence[Client]) -> list[Script]:
        return [[(b"", request("/"))] for _ in clients]
