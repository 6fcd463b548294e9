"""Writes the results: JSON, table, charts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, peers, scenarios
from benchmarks.peers.programs import python
from benchmarks.report import criteria, table
from benchmarks.report.summary import Summary
from benchmarks.runner import Measurement, note

RESULTS = Path(__file__).parents[1] / "results"
CHART_DEADLINE = 120


def write(measurements: Sequence[Measurement], *, whole: bool, quick: bool, steal: float) -> Path:
    """Print the table, write the files, and return where the JSON is.

    Only a whole run replaces ``latest.json`` and the charts.
    """
    summary = Summary(measurements)
    verdicts = list(criteria.verdicts(summary))
    for line in (*table.measured(summary), *table.judged(verdicts)):
        print(line)
    warnings = ["a quick run: fewer events than the titles say"] if quick else []
    warnings += [f"the load side may be what limits: {each}" for each in summary.busy()]
    if steal > 0.02:
        warnings.append(f"other machines took {steal:.0%} of this one's time")
    warnings += [f"failed: {each}" for each in summary.problems]
    for warning in warnings:
        print(f"note: {warning}")
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "quick": quick,
        "peers": {name: peer.label for name, peer in peers.ALL.items()},
        "scenarios": {name: scenario.about for name, scenario in scenarios.ALL.items()},
        "criteria": [each.to_json() for each in verdicts],
        "warnings": warnings,
        "summary": summary.to_json(),
        "measurements": [each.to_json() for each in measurements],
    }
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / ("latest.json" if whole else "selected.json")
    target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if whole:
        _draw(target)
    return target


def _draw(results: Path) -> None:
    command = [python(), "-m", "benchmarks.report.charts", str(results), str(RESULTS)]
    drawn = subprocess.run(
        command,
        cwd=RESULTS.parents[1],
        capture_output=True,
        text=True,
        timeout=CHART_DEADLINE,
        check=False,
    )
    if drawn.returncode:
        note(f"no charts: {drawn.stderr.strip().splitlines()[-1]}")
