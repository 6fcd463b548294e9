"""Medians and spreads of the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.runner import Measurement

Place = tuple[str, str, str, str]
"""Scenario, variant, peer, metric."""

BUSY = 0.9
"""Above this share of its core the load side may be what limits a measurement."""


@dataclass(frozen=True, slots=True)
class Value:
    """A metric over all rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)


class Summary:
    """All metrics of all measurements, to look up."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        rounds: dict[Place, list[float]] = {}
        self.problems: list[str] = []
        for each in measurements:
            place = (each.scenario, each.variant, each.peer)
            if each.problem:
                self.problems.append(f"{' '.join(filter(None, place))}: {each.problem}")
            for name, value in each.metrics.items():
                rounds.setdefault((*place, name), []).append(value)
        self._values = {place: Value(tuple(found)) for place, found in rounds.items()}

    def get(self, scenario: str, peer: str, metric: str, variant: str = "") -> Value | None:
        """Return one metric, or None where it was not measured."""
        return self._values.get((scenario, variant, peer, metric))

    def peers(self, scenario: str, variant: str = "") -> list[str]:
        """Return who was measured, in order."""
        found: dict[str, None] = {}
        for name, other, peer, _ in self._values:
            if (name, other) == (scenario, variant):
                found[peer] = None
        return list(found)

    def busy(self) -> list[str]:
        """Return where the load side was close to all of its core, in words."""
        return [
            f"{' '.join(filter(None, place[:3]))}: {value.median:.0%}"
            for place, value in self._values.items()
            if place[3] == "load_share" and value.median > BUSY
        ]

    def to_json(self) -> list[dict[str, object]]:
        """Return one record for each metric."""
        return [
            {
                "scenario": scenario,
                "variant": variant,
                "peer": peer,
                "metric": metric,
                "median": value.median,
                "low": value.low,
                "high": value.high,
            }
            for (scenario, variant, peer, metric), value in self._values.items()
        ]


def paired(left: Sequence[float], right: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest ratio of two metrics of the same rounds."""
    ratios = [a / b for a, b in zip(left, right, strict=False) if b]
    return (min(ratios), max(ratios)) if ratios else (0.0, 0.0)
