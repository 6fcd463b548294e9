"""Runs scenarios: every peer in turn, round after round, so that what the machine does meanwhile
hits all of them alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import peers
from benchmarks.peers.base import Peer
from benchmarks.processes import ProcessError
from benchmarks.scenarios.base import Context, Scenario
from benchmarks.trial import Metrics
from benchmarks.workload import Shape


@dataclass(frozen=True, slots=True)
class Measurement:
    """One peer in one round. ``problem`` says why there are no metrics."""

    scenario: str
    variant: str
    peer: str
    round: int
    metrics: Metrics = field(default_factory=dict)
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return its fields."""
        return {name: getattr(self, name) for name in self.__slots__}


def note(text: str) -> None:
    """Say on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)


def run(
    scenarios: Sequence[Scenario], names: Sequence[str], *, rounds: int, quick: bool
) -> list[Measurement]:
    """Measure; a peer that fails is told, and the others go on."""
    found: list[Measurement] = []
    chosen = [peers.ALL[name] for name in names]
    for peer in chosen:
        if missing := peer.missing():
            note(f"left out: {peer.label}: {missing}")
    ready = [peer for peer in chosen if not peer.missing()]
    for scenario in scenarios:
        for variant in scenario.variants:
            for at in range(rounds):
                found += _round(scenario, variant, at, ready, quick)
    return found


def _round(
    scenario: Scenario, variant: str, at: int, ready: Sequence[Peer], quick: bool
) -> list[Measurement]:
    found = []
    shape: Shape | None = None
    taking_part = [peer for peer in ready if peer.name in scenario.peers]
    for peer in sorted(taking_part, key=lambda peer: scenario.peers.index(peer.name)):
        place = (scenario.name, variant, peer.name, at)
        title = f"{scenario.name} {variant}".strip()
        began = time.monotonic()
        try:
            metrics = scenario.run(peer, Context(quick, variant, shape))
        except (ProcessError, RuntimeError, OSError) as problem:
            note(f"{title}, round {at + 1}: {peer.label}: FAILED: {problem}")
            found.append(Measurement(*place, problem=str(problem).splitlines()[0]))
            continue
        if peer.name == "bridge" and "wire_bytes" in metrics:
            shape = Shape.of(metrics)
        found.append(Measurement(*place, metrics))
        shown = "  ".join(
            f"{name} {metrics[name]:,.3g}" for name in scenario.columns if name in metrics
        )
        seconds = time.monotonic() - began
        note(f"{title}, round {at + 1}: {peer.label}: {shown}  ({seconds:.1f} s)")
    return found
