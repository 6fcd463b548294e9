"""The base install: what a service gets that wants to publish, and nothing of the bridge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.nats_server import NatsServer, create_stream

ROOT = Path(__file__).parents[2]

SERVICE = """
import asyncio, importlib.util, json, sys
from natsbridge.publishers import EventPublisher, UploadEvents

async def main():
    async with EventPublisher.from_environment(source="base-install") as publisher:
        [receipt] = await UploadEvents(publisher).completed("u1", {"size": 3}, to="42")
    absent = [name for name in ("fastapi", "uvicorn", "websockets", "jwt")
              if importlib.util.find_spec(name) is None]
    print(json.dumps({"sequence": receipt.sequence, "absent": absent}))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with this distribution and no extras."""
    folder = tmp_path_factory.mktemp("base")
    wheel = folder / "wheel"
    # With the build back-end that is installed here: nothing but the dependencies is fetched.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheel), str(ROOT)]
    run([*pip, *build], folder)
    [built] = wheel.glob("*.whl")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run([*pip, "--python", str(python), "install", str(built)], folder)
    return python


@pytest.mark.timeout(180)
async def test_the_base_install_publishes_and_has_nothing_of_the_bridge(
    python: Path, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Schemas and publishers need pydantic, nats-py and the OpenTelemetry API alone."""
    prefix = f"t{uuid4().hex}"
    await create_stream(nats_server.url, name=f"EVENTS_{prefix}", prefix=prefix)
    (tmp_path / "service.py").write_text(SERVICE)
    told = run(
        [str(python), "-W", "error", "service.py"],
        tmp_path,
        BRIDGE_NATS_URL=nats_server.url,
        BRIDGE_SUBJECT_PREFIX=prefix,
    )
    assert json.loads(told) == {
        "sequence": 1,
        "absent": ["fastapi", "uvicorn", "websockets", "jwt"],
    }


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run to the end, and return what it printed; fails with all of its output."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
