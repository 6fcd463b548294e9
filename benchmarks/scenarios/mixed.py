"""The three audiences together: users with direct events, overlapping topics, and everybody."""

from __future__ import annotations

import random
from collections import Counter

from benchmarks.events import Message, Mint
from benchmarks.peers.base import Client, Peer
from benchmarks.scenarios.base import SIZE, Context, Scenario
from benchmarks.trial import Metrics, Trial
from benchmarks.workload import Workload

USERS = 300
CONNECTIONS = 450
RESOURCES = 20
TOPIC = "review.updated"


def _clients() -> list[Client]:
    """Half of the users have two connections. A third wants every update, a third that of one
    review, and a third both, which must not bring an event twice.
    """
    wishes = ((TOPIC,), (f"{TOPIC}.r%d",), (TOPIC, f"{TOPIC}.r%d"))
    found = []
    for at in range(CONNECTIONS):
        topics = tuple(
            wish % (at % RESOURCES) if "%" in wish else wish for wish in wishes[at % len(wishes)]
        )
        found.append(Client(f"u{at % USERS}", topics))
    return found


def _events(mint: Mint, clients: list[Client], count: int, rate: int) -> Workload:
    """60 in 100 events go to a user, 37 to a topic, 3 to everybody."""
    choose = random.Random(count)
    connections = Counter(client.user for client in clients)
    messages: list[Message] = []
    deliveries = 0
    for _ in range(count):
        dice = choose.random()
        if dice < 0.6:
            user = f"u{choose.randrange(USERS)}"
            messages.append(mint.user(user, SIZE))
            deliveries += connections[user]
        elif dice < 0.97:
            resource = f"r{choose.randrange(RESOURCES)}"
            messages.append(mint.topic(resource, SIZE))
            wanted = {TOPIC, f"{TOPIC}.{resource}"}
            deliveries += sum(1 for client in clients if wanted.intersection(client.topics))
        else:
            messages.append(mint.everybody(SIZE))
            deliveries += len(clients)
    return Workload(messages, deliveries, SIZE, 1 / rate)


def _run(peer: Peer, context: Context) -> Metrics:
    mint, clients, rate = Mint(peer.root), _clients(), 250
    warm_up = _events(mint, clients, rate, rate)
    workload = _events(mint, clients, rate * context.scaled(10, 3), rate)
    with Trial(peer, clients, sample_every=5) as trial:
        return trial.measure(workload, warm_up=warm_up)


MIXED = Scenario(
    "mixed",
    "250 events a second to users, overlapping topics and everybody, 450 connections",
    ("bridge", "uws", "nats", "ws", "broadcast"),
    _run,
    columns=("cpu_us", "broker_cpu_us", "p50_ms", "p99_ms", "p999_ms"),
)
