"""One event to many: all at once, at a pace, and in several sizes."""

from __future__ import annotations

from benchmarks.events import Mint
from benchmarks.peers.base import Client, Peer
from benchmarks.scenarios.base import SIZE, Context, Scenario
from benchmarks.trial import Metrics, Trial
from benchmarks.workload import Workload

SUBSCRIBERS = 500
TOPIC = "review.updated"
ENVELOPE = 126
"""Bytes of an event around its ``data``; the sizes of the scenario are those of ``data``."""
SIZES = {"64 B": 2000, "256 B": 2000, "4 KiB": 300, "32 KiB": 50}


def subscribers(count: int) -> list[Client]:
    """Clients that each want every review's updates."""
    return [Client(f"u{at}", (TOPIC,)) for at in range(count)]


def to_all(mint: Mint, events: int, count: int, *, size: int = SIZE, rate: int = 0) -> Workload:
    """Events that each go to ``count`` subscribers, ``rate`` a second or all at once."""
    messages = [mint.topic(f"r{at % 10}", size) for at in range(events)]
    return Workload(messages, events * count, size, 1 / rate if rate else 0.0)


def _burst(peer: Peer, context: Context) -> Metrics:
    mint, events = Mint(peer.root), context.scaled(2000, 1000)
    warm_up = to_all(mint, 200, SUBSCRIBERS)
    with Trial(peer, subscribers(SUBSCRIBERS), sample_every=25, shape=context.shape) as trial:
        bursts = [to_all(mint, events, SUBSCRIBERS) for _ in range(context.scaled(10, 5))]
        return trial.measure(bursts[0], warm_up=warm_up, again=bursts[1:])


def _paced(peer: Peer, context: Context) -> Metrics:
    mint, rate = Mint(peer.root), 100
    warm_up = to_all(mint, rate, SUBSCRIBERS, rate=rate)
    with Trial(peer, subscribers(SUBSCRIBERS), sample_every=5, shape=context.shape) as trial:
        workload = to_all(mint, rate * context.scaled(10, 3), SUBSCRIBERS, rate=rate)
        return trial.measure(workload, warm_up=warm_up)


def _sizes(peer: Peer, context: Context) -> Metrics:
    number, unit = context.variant.split()
    size = int(number) * (1024 if unit == "KiB" else 1) + ENVELOPE
    mint, events = Mint(peer.root), SIZES[context.variant] // context.scaled(1, 2)
    warm_up = to_all(mint, events // 5, SUBSCRIBERS, size=size)
    with Trial(peer, subscribers(SUBSCRIBERS), sample_every=25, shape=context.shape) as trial:
        return trial.measure(to_all(mint, events, SUBSCRIBERS, size=size), warm_up=warm_up)


BURST = Scenario(
    "burst",
    "2,000 events at once to 500 subscribers, up to ten times in a row",
    ("bridge", "live", "other", "floor", "uws", "nats", "ws", "broadcast", "seed", "socketio"),
    _burst,
    columns=("cpu_us", "broker_cpu_us", "per_second", "batch"),
)
PACED = Scenario(
    "paced",
    "100 events a second to 500 subscribers for 10 s",
    ("bridge", "live", "other", "floor", "uws", "nats", "ws", "broadcast", "seed", "socketio"),
    _paced,
    columns=("cpu_us", "broker_cpu_us", "p50_ms", "p99_ms", "p999_ms", "round_p50_ms"),
)
SIZES_SCENARIO = Scenario(
    "sizes",
    "a burst to 500 subscribers, by the size of an event's data",
    ("bridge", "floor", "uws", "nats", "ws"),
    _sizes,
    variants=tuple(SIZES),
    columns=("cpu_us", "broker_cpu_us", "per_second", "batch"),
)
