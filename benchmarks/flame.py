"""``python -m benchmarks.flame``: where the bridge's time goes in one scenario, as a flame graph.

Needs py-spy, which is among the packages of the peers (``benchmarks/requirements.txt``). Samples
the bridge from outside, so that it runs as it does when it is measured.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, peers
from benchmarks.events import Mint
from benchmarks.peers.base import Client
from benchmarks.peers.programs import python
from benchmarks.report.write import RESULTS
from benchmarks.runner import note
from benchmarks.scenarios.connections import WINDOW, idle
from benchmarks.scenarios.fan_out import SUBSCRIBERS, subscribers, to_all
from benchmarks.scenarios.unicast import to_users
from benchmarks.trial import Trial
from benchmarks.workload import Workload

RATE = 500
"""Samples a second."""
BEGIN = 1.0
"""Seconds that py-spy has to attach itself."""


def _users(count: int) -> list[Client]:
    return [Client(f"u{at}") for at in range(count)]


def _measured(workload: Workload) -> Callable[[Trial], None]:
    def run(trial: Trial) -> None:
        note(f"{trial.measure(workload)['cpu_us']:.3g} µs per delivery")

    return run


def _storm(trial: Trial) -> None:
    note(f"{trial.load.connect(10_000, window=WINDOW):.0f} connections a second")


def prepare(name: str) -> tuple[list[Client], int | None, Callable[[Trial], None]]:
    """Return the clients, how many connect before, and what is sampled."""
    mint = Mint(peers.ALL["bridge"].root)
    if name == "burst":
        return subscribers(SUBSCRIBERS), None, _measured(to_all(mint, 20_000, SUBSCRIBERS))
    if name == "paced":
        return subscribers(SUBSCRIBERS), None, _measured(to_all(mint, 600, SUBSCRIBERS, rate=100))
    if name == "unicast":
        return _users(500), None, _measured(to_users(mint, 400_000, 500))
    if name == "paced-unicast":
        return _users(2000), None, _measured(to_users(mint, 36_000, 2000, rate=6000))
    return idle(0, 10_000), 0, _storm


def main() -> int:
    """Draw one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flame", description=__doc__)
    parser.add_argument(
        "--scenario",
        default="burst",
        choices=("burst", "paced", "unicast", "paced-unicast", "connect-storm"),
    )
    options = parser.parse_args()
    sampler = Path(python()).with_name("py-spy")
    if not sampler.exists():
        note(f"py-spy is missing beside {python()}: `make bench` installs it")
        return 2
    machine.raise_file_limit()
    target = RESULTS / f"flame-{options.scenario}"
    stacks = Path(tempfile.mkdtemp(prefix="bench-flame-")) / "stacks"
    clients, connected, run = prepare(options.scenario)
    with (
        machine.pinned(machine.LOAD_CORE),
        Trial(peers.ALL["bridge"], clients, connected=connected, sample_every=10) as trial,
    ):
        command = [str(sampler), "record", "--pid", str(trial.server.pid), "--rate", str(RATE)]
        command += ["--duration", "120", "--format", "raw", "--function", "--output", str(stacks)]
        sampling = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(BEGIN)
            run(trial)
            sampling.send_signal(2)  # py-spy writes what it has when it is interrupted
            sampling.wait(60)
        finally:
            sampling.kill()
            sampling.wait()
    title = f"The bridge in {options.scenario}: share of its time"
    draw = [python(), "-m", "benchmarks.report.flame", str(stacks), str(target), title]
    subprocess.run(draw, cwd=RESULTS.parents[1], check=True, timeout=120)
    shutil.rmtree(stacks.parent)
    note(f"written: {target}.png and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
