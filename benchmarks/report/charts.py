"""The charts, PNG and SVG: ``python -m benchmarks.report.charts RESULTS.json FOLDER``.

Run by the peers' interpreter, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found]  # in the environment of the peers

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
matplotlib.rcParams["font.size"] = 9
matplotlib.rcParams["axes.spines.top"] = False
matplotlib.rcParams["axes.spines.right"] = False

from matplotlib import pyplot as plt  # noqa: E402  # after the back-end is chosen

BRIDGE, FLOOR, OTHER = "#0b7285", "#adb5bd", "#748ffc"
Records = dict[tuple[str, str, str, str], tuple[float, float, float]]
Panel = tuple[str, str, str, str]
"""Title, scenario, variant, metric."""

COST: Sequence[Panel] = (
    ("Burst: 2,000 events at once to 500", "burst", "", "cpu_us"),
    ("Paced: 100 events/s to 500", "paced", "", "cpu_us"),
    ("Unicast: 200,000 events over 500 users", "unicast", "", "cpu_us"),
)
LATENCY: Sequence[Panel] = (
    ("Paced, 100 events/s to 500: p50", "paced", "", "p50_ms"),
    ("Paced: p99", "paced", "", "p99_ms"),
    ("Paced unicast, 6,000/s over 2,000 users: p50", "paced-unicast", "", "p50_ms"),
    ("Paced unicast: p99", "paced-unicast", "", "p99_ms"),
)
CONNECTIONS: Sequence[Panel] = (
    ("KiB per idle connection", "memory", "", "kib_per_connection"),
    ("Connections accepted per second", "connect-storm", "rate", "connects_per_second"),
    ("% of a core, 10,000 idle connections", "idle", "", "idle_percent_10k"),
)


MORE_IS_BETTER = {"connects_per_second"}


def main(results: Path, folder: Path) -> None:
    """Draw all charts that the results have figures for."""
    data = json.loads(results.read_text())
    labels: dict[str, str] = data["peers"]
    records: Records = {
        (each["scenario"], each["variant"], each["peer"], each["metric"]): (
            each["median"],
            each["low"],
            each["high"],
        )
        for each in data["summary"]
    }
    _bars(records, labels, COST, folder / "cost", unit="CPU µs of the server per delivery (log)")
    _bars(records, labels, LATENCY, folder / "latency", unit="ms from publish to client (log)")
    _bars(records, labels, CONNECTIONS, folder / "connections", log=False)
    _growth(records, labels, folder / "growth")


def _bars(
    records: Records,
    labels: dict[str, str],
    panels: Sequence[Panel],
    target: Path,
    *,
    unit: str = "",
    log: bool = True,
) -> None:
    shown = [panel for panel in panels if _values(records, panel)]
    if not shown:
        return
    figure, axes = plt.subplots(
        1, len(shown), figsize=(5.2 * len(shown), 3.4), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], shown, strict=True):
        best_first = -1 if panel[3] in MORE_IS_BETTER else 1
        values = sorted(_values(records, panel).items(), key=lambda each: best_first * each[1][0])
        names = [labels[peer] for peer, _ in values]
        medians = [value[0] for _, value in values]
        apart = [
            [max(0.0, value[0] - value[1]) for _, value in values],
            [max(0.0, value[2] - value[0]) for _, value in values],
        ]
        colours = [{"bridge": BRIDGE, "floor": FLOOR}.get(peer, OTHER) for peer, _ in values]
        axis.barh(names, medians, xerr=apart, color=colours, ecolor="#495057", capsize=2)
        if log:
            axis.set_xscale("log")
            # A bar's length says nothing on this scale, so all begin at the same power of ten.
            axis.set_xlim(10 ** floor(log10(min(medians))), max(medians) * 6)
        else:
            axis.margins(x=0.2)
        axis.invert_yaxis()
        axis.set_title(panel[0], loc="left", fontsize=10)
        axis.set_xlabel(unit)
        for at, (_, value) in enumerate(values):
            axis.annotate(
                f" {value[0]:,.3g}" if value[0] < 1000 else f" {value[0]:,.0f}",
                (value[2], at),
                va="center",
                fontsize=8,
            )
    _save(figure, target)


def _values(records: Records, panel: Panel) -> dict[str, tuple[float, float, float]]:
    _, scenario, variant, metric = panel
    return {
        peer: value
        for (name, other, peer, what), value in records.items()
        if (name, other, what) == (scenario, variant, metric)
    }


def _growth(records: Records, labels: dict[str, str], target: Path) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for (scenario, variant, peer, metric), value in records.items():
        if scenario == "growth" and metric == "cpu_us" and variant.endswith(" x 1"):
            lines.setdefault(peer, []).append((int(variant.split()[0]), value[0]))
    if not lines:
        return
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for peer, points in lines.items():
        colour: Any = {"bridge": BRIDGE, "floor": FLOOR}.get(peer)
        x, y = zip(*sorted(points), strict=True)
        axis.plot(
            x, y, marker="o", label=labels[peer], color=colour, lw=2.5 if peer == "bridge" else 1.5
        )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("connections, each with one subscription")
    axis.set_ylabel("CPU µs per delivery")
    axis.set_title("Cost of a delivery as connections grow", loc="left", fontsize=10)
    axis.legend(frameon=False)
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    figure.savefig(target.with_suffix(".png"), dpi=130, metadata={"Software": None})
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
