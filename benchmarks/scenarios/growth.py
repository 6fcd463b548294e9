"""What a delivery costs as connections and subscriptions grow, at the same deliveries a second."""

from __future__ import annotations

from benchmarks.events import Mint
from benchmarks.peers.base import Client, Peer
from benchmarks.scenarios.base import SIZE, Context, Scenario
from benchmarks.trial import Metrics, Trial
from benchmarks.workload import Workload

DELIVERIES_PER_SECOND = 20_000
CONNECTIONS = (10, 100, 1000, 10_000)
SUBSCRIPTIONS = (1, 10, 100)
WITH_SUBSCRIPTIONS = 1000
"""Connections where it is the subscriptions that grow."""


def variant(connections: int, subscriptions: int) -> str:
    """Name one point: ``1000 x 10`` is 1,000 connections with 10 subscriptions each."""
    return f"{connections} x {subscriptions}"


def _run(peer: Peer, context: Context) -> Metrics:
    connections, subscriptions = map(int, context.variant.split(" x "))
    mint, rate = Mint(peer.root), DELIVERIES_PER_SECOND / connections
    # One subscription is to any review; more of them are to one review each.
    topics = tuple(f"review.updated.r{at}" for at in range(subscriptions))
    clients = [
        Client(f"u{at}", topics if subscriptions > 1 else ("review.updated",))
        for at in range(connections)
    ]

    def events(seconds: int) -> Workload:
        messages = [
            mint.topic(f"r{at % subscriptions}", SIZE) for at in range(max(2, int(rate * seconds)))
        ]
        return Workload(messages, len(messages) * connections, SIZE, 1 / rate)

    sample_every = max(1, connections // 100)
    with Trial(peer, clients, sample_every=sample_every, shape=context.shape) as trial:
        return trial.measure(events(context.scaled(5, 3)), warm_up=events(1))


GROWTH = Scenario(
    "growth",
    "20,000 deliveries a second, by connections x subscriptions of each",
    ("bridge", "floor", "uws", "nats"),
    _run,
    variants=(
        *(variant(count, 1) for count in CONNECTIONS),
        *(variant(WITH_SUBSCRIPTIONS, count) for count in SUBSCRIPTIONS[1:]),
    ),
    columns=("cpu_us", "broker_cpu_us", "p50_ms", "p99_ms"),
)
