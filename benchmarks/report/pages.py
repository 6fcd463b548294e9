"""``python -m benchmarks.report.pages``: the tables of docs/performance.md from the last whole run.

Each table stands between two comments, ``<!-- figures -->`` and ``<!-- end -->``, so that what the
page says is what was measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.report.write import RESULTS

PAGE = RESULTS.parents[1] / "docs" / "performance.md"
MARKS = {"figures": "<!-- figures -->", "verdicts": "<!-- verdicts -->"}
END = "<!-- end -->"

PEERS = ("bridge", "floor", "uws", "nats", "ws", "broadcast", "seed", "socketio")

LATENCY = ("p50_ms", "p99_ms", "p999_ms")

Row = tuple[str, str, str, tuple[str, ...]]
"""Title, scenario, variant, and the metrics of a cell."""


def _rows(run: dict[str, Any]) -> Iterator[Row]:
    titles = run["scenarios"]
    yield f"burst: {titles['burst']}", "burst", "", ("cpu_us",)
    yield "burst, deliveries/s", "burst", "", ("per_second",)
    yield f"paced: {titles['paced']}", "paced", "", ("cpu_us",)
    yield "paced, p50 / p99 / p99.9 ms", "paced", "", LATENCY
    yield f"unicast: {titles['unicast']}", "unicast", "", ("cpu_us",)
    yield "unicast, deliveries/s", "unicast", "", ("per_second",)
    yield f"paced unicast: {titles['paced-unicast']}", "paced-unicast", "", ("cpu_us",)
    yield "paced unicast, p50 / p99 / p99.9 ms", "paced-unicast", "", LATENCY
    variants = dict.fromkeys(
        (each["scenario"], each["variant"]) for each in run["summary"] if each["variant"]
    )
    for scenario, variant in variants:
        if scenario == "sizes":
            yield f"burst, {variant} of data", scenario, variant, ("cpu_us",)
    yield "mixed: users, topics, everybody", "mixed", "", ("cpu_us",)
    for scenario, variant in variants:
        if scenario == "growth":
            yield f"paced, {variant} (connections x subscriptions)", scenario, variant, ("cpu_us",)
    yield "KiB an idle connection", "memory", "", ("kib_per_connection",)
    yield "connects/s", "connect-storm", "rate", ("connects_per_second",)
    title = "p99 ms of traffic while 5,000 connect / calm"
    yield title, "connect-storm", "traffic", ("storm_p99_ms", "calm_p99_ms")
    yield "idle: % of a core for 10,000", "idle", "", ("idle_percent_10k",)


def machine(run: dict[str, Any]) -> str:
    """Return what it was measured on, and when."""
    about = run["machine"]
    return (
        f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['time'][:10]}."
    )


def figures(run: dict[str, Any]) -> str:
    """Return the table of all peers; a figure of the bridge has its rounds behind it."""
    found = {
        (each["scenario"], each["variant"], each["peer"], each["metric"]): each
        for each in run["summary"]
    }
    names = [run["peers"][peer] for peer in PEERS]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(PEERS) + 1) + "|"]
    for title, scenario, variant, metrics in _rows(run):
        cells = []
        for peer in PEERS:
            values = [found.get((scenario, variant, peer, metric)) for metric in metrics]
            cells.append(_cell([each for each in values if each], bold=peer == "bridge"))
        if any(cell != "–" for cell in cells):  # a dash stands for no figure
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join([machine(run), "", *lines])


def verdicts(run: dict[str, Any]) -> str:
    """Return the table of what was wanted."""
    lines = ["| scenario | wanted | got (rounds) | |", "|---|---|---|---|"]
    for each in run["criteria"]:
        if each["got"] is None:
            got, word = "not measured", ""
        else:
            got = f"{each['got']:.2f} ({each['low']:.2f}–{each['high']:.2f})"
            word = "met" if each["met"] else "**missed**"
        lines.append(f"| {each['scenario']} | {each['wanted']} | {got} | {word} |")
    met = sum(bool(each["met"]) for each in run["criteria"])
    lines = [f"{met} of {len(run['criteria'])} met:", "", *lines]
    if run["warnings"]:
        lines += ["", "To be read with this in mind:", *(f"- {each}" for each in run["warnings"])]
    return "\n".join(lines)


def _cell(values: list[dict[str, Any]], *, bold: bool) -> str:
    if not values:
        return "–"
    text = " / ".join(_number(each["median"]) for each in values)
    if not bold:
        return text
    spread = ""
    if len(values) == 1:
        spread = f" ({_number(values[0]['low'])}–{_number(values[0]['high'])})"
    return f"**{text}**{spread}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def main() -> int:
    """Write the tables into the page."""
    run = json.loads((RESULTS / "latest.json").read_text())
    text = PAGE.read_text()
    for name, table in (("figures", figures(run)), ("verdicts", verdicts(run))):
        before, mark, rest = text.partition(MARKS[name])
        _, end, after = rest.partition(END)
        if not (mark and end):
            sys.exit(f"{PAGE}: no {MARKS[name]} … {END}")
        text = f"{before}{mark}\n{table}\n{end}{after}"
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
