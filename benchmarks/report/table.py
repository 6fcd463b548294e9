"""The table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks import peers, scenarios
from benchmarks.report.criteria import Verdict
from benchmarks.report.summary import Summary, Value

TITLES = {
    "cpu_us": "CPU µs",
    "broker_cpu_us": "broker µs",
    "per_second": "per second",
    "batch": "frames/write",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "round_p50_ms": "round ms",
    "kib_per_connection": "KiB/conn",
    "connects_per_second": "connects/s",
    "calm_p99_ms": "calm p99 ms",
    "storm_p50_ms": "storm p50 ms",
    "storm_p99_ms": "storm p99 ms",
    "idle_percent_10k": "% of a core",
}


def number(value: float) -> str:
    """Return three digits that count, with thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def spread(value: Value | None) -> str:
    """Return median and, where there are several rounds, the range around it."""
    if value is None:
        return "–"
    if len(value.rounds) == 1:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)}–{number(value.high)})"


def grid(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Return lines with columns that line up, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((first, *rest)).rstrip()


def measured(summary: Summary) -> Iterable[str]:
    """Return a table for each scenario that was run."""
    for scenario in scenarios.ALL.values():
        for variant in scenario.variants:
            names = summary.peers(scenario.name, variant)
            columns = [
                name
                for name in scenario.columns
                if any(summary.get(scenario.name, peer, name, variant) for peer in names)
            ]
            if not columns:
                continue
            yield ""
            title = f"{scenario.name} · {variant}" if variant else scenario.name
            yield f"{title}: {scenario.about}"
            rows = [["", *(TITLES[name] for name in columns)]]
            for peer in names:
                cells = (summary.get(scenario.name, peer, name, variant) for name in columns)
                rows.append([f"  {peers.ALL[peer].label}", *map(spread, cells)])
            yield from grid(rows)


def judged(verdicts: Sequence[Verdict]) -> Iterable[str]:
    """Return what was wanted, what was got, and whether that is enough."""
    known = [each for each in verdicts if each.got is not None]
    if not known:
        return
    yield ""
    rows = [["wanted of this bridge (ratios of medians)", "got", "rounds", ""]]
    for each in known:
        assert each.got is not None
        apart = f"{number(each.low)}–{number(each.high)}"
        rows.append([f"  {each.scenario}: {each.wanted}", number(each.got), apart, verdict(each)])
    yield from grid(rows)
    missed = sum(1 for each in known if not each.met)
    yield f"{len(known) - missed} met, {missed} missed"


def verdict(each: Verdict) -> str:
    """Return the verdict in a word."""
    return {True: "met", False: "MISSED", None: "not measured"}[each.met]
