"""Each event to one user: as fast as it goes, and at a pace."""

from __future__ import annotations

import random

from benchmarks.events import Mint
from benchmarks.peers.base import Client, Peer
from benchmarks.scenarios.base import SIZE, Context, Scenario
from benchmarks.trial import Metrics, Trial
from benchmarks.workload import Workload


def to_users(mint: Mint, events: int, users: int, *, rate: int = 0) -> Workload:
    """Events that each go to one of the users, in no order but the same for every peer."""
    choose = random.Random(events)
    messages = [mint.user(f"u{choose.randrange(users)}", SIZE) for _ in range(events)]
    return Workload(messages, events, SIZE, 1 / rate if rate else 0.0, fan_out=False)


def _unicast(peer: Peer, context: Context) -> Metrics:
    mint, users = Mint(peer.root), 500
    warm_up = to_users(mint, 5000, users)
    workload = to_users(mint, context.scaled(200_000, 40_000), users)
    clients = [Client(f"u{at}") for at in range(users)]
    with Trial(peer, clients, sample_every=25, shape=context.shape) as trial:
        return trial.measure(workload, warm_up=warm_up)


def _paced(peer: Peer, context: Context) -> Metrics:
    mint, users, rate = Mint(peer.root), 2000, 6000
    warm_up = to_users(mint, rate, users, rate=rate)
    workload = to_users(mint, rate * context.scaled(10, 3), users, rate=rate)
    clients = [Client(f"u{at}") for at in range(users)]
    with Trial(peer, clients, shape=context.shape) as trial:
        return trial.measure(workload, warm_up=warm_up)


UNICAST = Scenario(
    "unicast",
    "200,000 events with the real headers over 500 users",
    (
        "bridge",
        "live",
        "other",
        "floor",
        "uws",
        "nats",
        "ws",
        "stock",
        "broadcast",
        "seed",
        "socketio",
    ),
    _unicast,
    columns=("cpu_us", "broker_cpu_us", "per_second", "batch"),
)
PACED_UNICAST = Scenario(
    "paced-unicast",
    "6,000 events a second over 2,000 users for 10 s",
    ("bridge", "floor", "uws", "nats", "ws"),
    _paced,
    columns=("cpu_us", "broker_cpu_us", "p50_ms", "p99_ms", "p999_ms"),
)
