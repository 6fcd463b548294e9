"""``BRIDGE_LOG_FORMAT=json``: every line is a record, whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartNats
from tests.support.bridge import READY, BridgeProcess, StartBridge, finish, settings_of
from tests.support.clients import http, mint
from tests.support.nats_server import NatsServer


def records(output: str) -> list[dict[str, Any]]:
    """Return all lines, each of which is an object with the fields that all have."""
    found = [json.loads(line) for line in output.splitlines()]
    for record in found:
        assert {"time", "level", "logger", "message"} <= set(record), record
    return found


def run_serve(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``natsbridge serve`` to its end, which comes at once: it can't start."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGE_")}
    return subprocess.run(
        [sys.executable, "-m", "natsbridge.bridge.cli", "serve"],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_from_start_to_stop(start_bridge: StartBridge) -> None:
    """The line that says where it listens is one of them, on standard output as ever."""
    bridge = start_bridge(BRIDGE_LOG_FORMAT="Json", BRIDGE_LOG_LEVEL="DEBUG")
    async with http(bridge.url, mint("admin", role="admin")) as client:
        assert (await client.get("/ws/stats")).status_code == 200
    bridge.terminate()
    assert bridge.wait() == 0
    found = records(bridge.output)
    assert [each for each in found if READY.search(each["message"])]


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"BRIDGE_PORT": "http"}, 2, "BRIDGE_PORT"),
        ({"BRIDGE_PORT": "tcp://10.0.0.1:8000"}, 2, "enableServiceLinks"),
        ({"BRIDGE_NATS_URL": ""}, 2, "BRIDGE_NATS_URL"),
        ({"BRIDGE_NATS_URL": "nats://127.0.0.1:1", "BRIDGE_NATS_TIMEOUT": "1"}, 2, "NATS"),
        ({"BRIDGE_NATS_TLS_CA": "/missing/ca.pem"}, 2, "BRIDGE_NATS_TLS_CA: /missing/ca.pem: no"),
        ({"BRIDGE_NATS_CREDENTIALS": "/missing/x.creds"}, 2, "BRIDGE_NATS_CREDENTIALS: /missing"),
        ({"BRIDGE_LOG_LEVEL": "loud"}, 2, "BRIDGE_LOG_LEVEL"),
        ({"BRIDGE_CATALOGUE": "no_such_module"}, 2, "BRIDGE_CATALOGUE"),
    ],
)
@pytest.mark.parametrize("format_", ["json", "text"])
def test_what_stops_the_start(
    nats_server: NatsServer, changes: dict[str, str], code: int, named: str, format_: str
) -> None:
    """It is told by name with exit code 2: as a record, or as one line for people."""
    settings = settings_of(nats_server.url, {**changes, "BRIDGE_LOG_FORMAT": format_})
    done = run_serve(settings)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    if format_ == "json":
        assert named in records(done.stderr)[-1]["message"]
    else:
        assert done.stderr.splitlines()[-1].startswith("natsbridge: ")
        assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_nobody_caught_is_a_record(tmp_path: Path) -> None:
    """A warning, an error in a thread, one in ``__del__``, and the one that ends the process."""
    script = tmp_path / "crash.py"
    script.write_text(
        "import threading, warnings\n"
        "from natsbridge.bridge.telemetry import logs\n"
        "logs.configure('info', 'json')\n"
        "logs.capture()\n"
        "warnings.warn('old', UserWarning)\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start(); thread.join()\n"
        "class Bad:\n"
        "    def __del__(self): raise KeyError('gone')\n"
        "Bad()\n"
        "raise ValueError('last\\nwords')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    found = records(done.stderr)
    assert [each["level"] for each in found] == ["warning", "error", "error", "critical"]
    assert "old" in found[0]["message"]
    assert "ZeroDivisionError" in found[1]["exception"]
    assert "KeyError" in found[2]["exception"]
    assert "last\nwords" in found[3]["exception"]


async def test_nats_away_and_back(start_nats: StartNats) -> None:
    """A line when it goes and one when it is back, with how long that was; none a second."""
    nats = start_nats()
    bridge = BridgeProcess(nats.url, {"BRIDGE_LOG_FORMAT": "json", "BRIDGE_LOG_LEVEL": "info"})
    try:
        await asyncio.to_thread(bridge.wait_ready)
        nats.stop()
        gone = await asyncio.to_thread(bridge.wait_for_line, re.compile("NATS: disconnected"), 15)
        assert json.loads(gone.string)["level"] == "warning"
        await asyncio.sleep(4)  # several tries to connect
        nats.start()
        back = await asyncio.to_thread(
            bridge.wait_for_line, re.compile("NATS: connected again"), 15
        )
        told = json.loads(back.string)
        assert told["seconds"] > 3
        assert told["tries"] >= 2
        about = [each["message"] for each in records(bridge.output) if "NATS" in each["message"]]
        # What the library said of it at the moment, and the two.
        assert about in (["NATS: error"] * n + about[-2:] for n in (0, 1))
        assert about[-2:] == ["NATS: disconnected", "NATS: connected again"]
        finish([bridge])
    finally:
        if bridge.returncode is None:
            bridge.kill()
        nats.close()


def test_a_mistyped_variable_is_told(start_bridge: StartBridge) -> None:
    """A variable that is no setting is a warning with the nearest name; those of Kubernetes not."""
    bridge = start_bridge(
        BRIDGE_LOG_FORMAT="json",
        BRIDGE_MAX_CONECTIONS="5",
        BRIDGE_SERVICE_HOST="10.0.0.1",
        BRIDGE_INTERNAL_PORT_9000_TCP_ADDR="10.0.0.1",
    )
    warnings = [each["message"] for each in records(bridge.output) if each["level"] == "warning"]
    assert warnings == [
        "BRIDGE_MAX_CONECTIONS is no setting of the bridge; is it BRIDGE_MAX_CONNECTIONS?"
    ]
