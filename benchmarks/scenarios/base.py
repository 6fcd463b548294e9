"""What a scenario is to the runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.base import Peer
from benchmarks.trial import Metrics
from benchmarks.workload import Shape

SIZE = 256
"""Bytes of an event where a scenario says nothing else."""


@dataclass(frozen=True, slots=True)
class Context:
    """What one measurement needs to know: how big, and what its round has shown so far."""

    quick: bool
    variant: str
    shape: Shape | None = None
    """How the bridge wrote in this round, for the floor."""

    def scaled(self, full: int, quick: int) -> int:
        """Pick a size."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Scenario:
    """``peers`` are measured in this order in each round, for each variant."""

    name: str
    about: str
    peers: tuple[str, ...]
    run: Callable[[Peer, Context], Metrics]
    variants: tuple[str, ...] = ("",)
    columns: tuple[str, ...] = ("cpu_us", "per_second")
