"""The health check of the image, run as it stands in the Dockerfile against a real bridge."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.bridge import StartBridge
from tests.support.certificates import self_signed

DOCKERFILE = (Path(__file__).parents[2] / "deploy/Dockerfile").read_text()


def check(**environment: str) -> int:
    """Run the check with these variables and return its exit code."""
    [command] = re.findall(r"^HEALTHCHECK .*\\\n  CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    _, *arguments = json.loads(command)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGE_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, **environment},
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode


def test_it_asks_the_port_of_the_settings(start_bridge: StartBridge) -> None:
    """0 while the bridge answers at that port, another code once it does not."""
    bridge = start_bridge()
    assert check(BRIDGE_PORT=str(bridge.port)) == 0
    bridge.terminate()
    bridge.wait()
    assert check(BRIDGE_PORT=str(bridge.port)) != 0


def test_it_speaks_tls_where_the_bridge_does(start_bridge: StartBridge, tmp_path: Path) -> None:
    """With a certificate for another name, which clients know and the check need not."""
    cert, key = self_signed(tmp_path)
    bridge = start_bridge(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key))
    assert check(BRIDGE_PORT=str(bridge.port), BRIDGE_TLS_CERT=str(cert)) == 0
    assert check(BRIDGE_PORT=str(bridge.port)) != 0
