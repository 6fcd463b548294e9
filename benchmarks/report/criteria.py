"""What the bridge has to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import peers
from benchmarks.report.summary import Summary, Value, paired
from benchmarks.scenarios.growth import WITH_SUBSCRIPTIONS, variant

BRIDGE, OTHER = "bridge", "other"
NAMES = {
    "cpu_us": "CPU per delivery",
    "kib_per_connection": "KiB a connection",
    "p50_ms": "p50",
    "p99_ms": "p99",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One criterion: ``got`` is None where it could not be measured. ``low`` and ``high`` are of
    single rounds.
    """

    scenario: str
    wanted: str
    limit: float
    at_most: bool
    got: float | None
    low: float = 0.0
    high: float = 0.0
    floor: float = 0.0
    """What it must not be under where it must stay within a band."""

    @property
    def met(self) -> bool | None:
        """Whether it is met; None where nobody knows."""
        if self.got is None:
            return None
        return self.floor <= self.got <= self.limit if self.at_most else self.got >= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return its fields and the verdict."""
        return {**asdict(self), "met": self.met}


RATIOS = (
    ("burst", "cpu_us", 1.5, "floor", "cpu_us"),
    ("burst", "cpu_us", 0.3, "nats", "cpu_us"),
    ("burst", "cpu_us", 0.7, "uws", "cpu_us"),
    ("paced", "cpu_us", 1.35, "floor", "cpu_us"),
    ("paced", "cpu_us", 1.4, "uws", "cpu_us"),
    ("paced", "cpu_us", 0.8, "nats", "cpu_us"),
    ("paced", "cpu_us", 1.0, "ws", "cpu_us"),
    ("paced", "p99_ms", 2.0, "floor", "round_p50_ms"),
    ("unicast", "cpu_us", 1.0, "ws", "cpu_us"),
    ("unicast", "cpu_us", 2.0, "uws", "cpu_us"),
    ("unicast", "cpu_us", 3.0, "nats", "cpu_us"),
    ("unicast", "cpu_us", 0.5, "stock", "cpu_us"),
    ("burst", "cpu_us", 1.05, "live", "cpu_us"),
    ("paced", "cpu_us", 1.05, "live", "cpu_us"),
    ("unicast", "cpu_us", 1.05, "live", "cpu_us"),
    ("burst", "cpu_us", 1.05, OTHER, "cpu_us"),
    ("paced", "cpu_us", 1.05, OTHER, "cpu_us"),
    ("unicast", "cpu_us", 1.05, OTHER, "cpu_us"),
    ("memory", "kib_per_connection", 1.05, OTHER, "kib_per_connection"),
    ("paced-unicast", "p50_ms", 1.5, "nats", "p50_ms"),
    ("paced-unicast", "p99_ms", 1.5, "nats", "p99_ms"),
)


def verdicts(summary: Summary) -> Iterator[Verdict]:
    """Judge everything of a full run; what was not measured comes without a value."""
    for scenario, metric, limit, peer, other in RATIOS:
        against = "the floor's time for a round" if other == "round_p50_ms" else _label(peer)
        value = summary.get(scenario, peer, other)
        if value is None and peer == OTHER:
            continue  # who names no other commit asks nothing of it
        yield _ratio(
            (scenario, f"{NAMES[metric]} ≤ {limit:g} × {against}", limit, True),
            summary.get(scenario, BRIDGE, metric),
            value,
        )
    yield from _growth(summary)
    yield _bound(
        ("memory", "≤ 8 KiB a connection", 8, True),
        summary.get("memory", BRIDGE, "kib_per_connection"),
    )
    other_connects = summary.get("connect-storm", OTHER, "cpu_us", "rate")
    if other_connects is not None:
        yield _ratio(
            ("connect-storm", f"CPU a connect ≤ 1.05 × {_label(OTHER)}", 1.05, True),
            summary.get("connect-storm", BRIDGE, "cpu_us", "rate"),
            other_connects,
        )
    yield _ratio(
        ("connect-storm", f"connects a second ≥ 0.6 × {_label('ws')}", 0.6, False),
        summary.get("connect-storm", BRIDGE, "connects_per_second", "rate"),
        summary.get("connect-storm", "ws", "connects_per_second", "rate"),
    )
    yield _ratio(
        ("connect-storm", "p99 of paced traffic ≤ 3 × meanwhile", 3, True),
        summary.get("connect-storm", BRIDGE, "storm_p99_ms", "traffic"),
        summary.get("connect-storm", BRIDGE, "calm_p99_ms", "traffic"),
    )
    yield _bound(
        ("idle", "≤ 3 % of a core for 10,000 connections", 3, True),
        summary.get("idle", BRIDGE, "idle_percent_10k"),
    )


def _growth(summary: Summary) -> Iterator[Verdict]:
    steps = (
        ("100 to 1,000 connections", variant(100, 1), variant(1000, 1)),
        ("100 to 10,000 connections", variant(100, 1), variant(10_000, 1)),
        ("1 to 10 subscriptions", variant(1000, 1), variant(WITH_SUBSCRIPTIONS, 10)),
        ("1 to 100 subscriptions", variant(1000, 1), variant(WITH_SUBSCRIPTIONS, 100)),
    )
    for title, start, end in steps:
        place = ("growth", f"CPU per delivery, {title}: 1 ± 0.25 times", 1.25, True)
        before = summary.get("growth", BRIDGE, "cpu_us", start)
        yield _ratio(place, summary.get("growth", BRIDGE, "cpu_us", end), before, floor=0.75)


def _label(peer: str) -> str:
    return peers.ALL[peer].label


def _ratio(
    place: tuple[str, str, float, bool],
    left: Value | None,
    right: Value | None,
    floor: float = 0.0,
) -> Verdict:
    if left is None or right is None or not right.median:
        return Verdict(*place, None)
    low, high = paired(left.rounds, right.rounds)
    return Verdict(*place, left.median / right.median, low, high, floor)


def _bound(place: tuple[str, str, float, bool], value: Value | None) -> Verdict:
    if value is None:
        return Verdict(*place, None)
    return Verdict(*place, value.median, value.low, value.high)
