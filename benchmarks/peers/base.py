"""What a peer is to the harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.broker import Broker
from benchmarks.load import Script
from benchmarks.processes import Process


@dataclass(frozen=True, slots=True)
class Client:
    """One connection: whose it is, and what it subscribes to (types, or types with a resource)."""

    user: str
    topics: tuple[str, ...] = ()


@dataclass(slots=True)
class Server:
    """A running peer. ``process`` is where its cost is read; None when it is the broker."""

    port: int
    process: Process | None

    def stop(self) -> None:
        """End it; safe to call twice."""
        if self.process is not None:
            self.process.stop()


class Peer(Protocol):
    """One peer. ``marks``: its frames hold several messages, so these are counted by their mark."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def label(self) -> str:
        """What it is called in tables."""

    @property
    def root(self) -> str:
        """Below which subject it finds events."""

    @property
    def marks(self) -> bool:
        """See above."""

    def missing(self) -> str | None:
        """Why this peer can't run here, or None."""

    def start(self, broker: Broker) -> Server:
        """Start it, ready for clients when this returns."""

    def scripts(self, clients: Sequence[Client]) -> list[Script]:
        """What each client says."""
