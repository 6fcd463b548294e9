"""Connections that do nothing but be there, and many that come at once."""

from __future__ import annotations

import time

from benchmarks.events import Mint
from benchmarks.peers.base import Client, Peer
from benchmarks.scenarios.base import Context, Scenario
from benchmarks.scenarios.fan_out import subscribers, to_all
from benchmarks.trial import Metrics, Trial

BEFORE = 100
"""Connections that are there already, so that what is made once is made."""
QUIET = "file.ready"
"""What the idle subscribe to: nothing of it is published."""
WINDOW = 256
PAST_THE_GROWTH = 2.0
"""Seconds for collectors of garbage to do what they do after a storm."""
HEARTBEAT = 30.0
"""Seconds between the pings of a server to each connection: one round of them is watched."""


def idle(first: int, count: int) -> list[Client]:
    """Clients that want something of which nothing is published."""
    return [Client(f"idle{at}", (QUIET,)) for at in range(first, first + count)]


def _memory(peer: Peer, context: Context) -> Metrics:
    count = context.scaled(5000, 2000)
    with Trial(peer, idle(0, BEFORE + count), connected=BEFORE) as trial:
        time.sleep(PAST_THE_GROWTH)
        before = trial.server.memory
        trial.load.connect(BEFORE + count, window=WINDOW)
        time.sleep(PAST_THE_GROWTH)
        return {"kib_per_connection": (trial.server.memory - before) / count / 1024}


def _storm(peer: Peer, context: Context) -> Metrics:
    return _rate(peer, context) if context.variant == "rate" else _beside(peer, context)


def _rate(peer: Peer, context: Context) -> Metrics:
    count = context.scaled(5000, 2000)
    with Trial(peer, idle(0, BEFORE + count), connected=BEFORE) as trial:
        cpu = trial.server.cpu, trial.load.process.cpu
        began = time.monotonic()
        rate = trial.load.connect(BEFORE + count, window=WINDOW)
        seconds = time.monotonic() - began
        return {
            "connects_per_second": rate,
            "cpu_us": (trial.server.cpu - cpu[0]) / count * 1e6,
            "load_share": (trial.load.process.cpu - cpu[1]) / seconds,
        }


def _beside(peer: Peer, context: Context) -> Metrics:
    """Latency of paced traffic, before and while the storm goes on."""
    receivers, rate = 100, 100
    count = context.scaled(5000, 2000)
    clients = subscribers(receivers) + idle(0, count)
    mint = Mint(peer.root)
    with Trial(peer, clients, connected=receivers) as trial:
        trial.measure(to_all(mint, rate, receivers, rate=rate))
        calm = trial.measure(to_all(mint, 3 * rate, receivers, rate=rate))
        trial.load.reset()
        storm = trial.load.start_connecting(len(clients), window=WINDOW, deadline=60)
        sent = 0
        while not storm.is_over():
            workload = to_all(mint, 5, receivers, rate=rate)
            workload.publish(trial.publisher)
            sent += workload.deliveries
        rate_of_storm = storm.finish()
        got = trial.load.wait(sent, 30)
        if got["messages"] < sent:
            raise RuntimeError(f"{got['messages']} of {sent} deliveries came during the storm")
        report = trial.load.report()
        return {
            "connects_per_second": rate_of_storm,
            "calm_p99_ms": calm["p99_ms"],
            "storm_p50_ms": report["p50"] / 1e6,
            "storm_p99_ms": report["p99"] / 1e6,
        }


def _stillness(peer: Peer, context: Context) -> Metrics:
    count = context.scaled(10_000, 3000)
    with Trial(peer, idle(0, count)) as trial:
        time.sleep(PAST_THE_GROWTH)
        cpu, began = trial.server.cpu, time.monotonic()
        time.sleep(HEARTBEAT)
        share = (trial.server.cpu - cpu) / (time.monotonic() - began)
        report = trial.load.report()
        if report["closed"]:
            raise RuntimeError(f"{report['closed']} idle connections were closed")
        return {
            "idle_percent": share * 100,
            "idle_percent_10k": share * 100 * 10_000 / count,
            "kib_per_connection": trial.server.memory / count / 1024,
        }


MEMORY = Scenario(
    "memory",
    "5,000 idle authenticated connections, each with one subscription",
    ("bridge", "other", "uws", "nats", "ws", "broadcast", "seed", "socketio"),
    _memory,
    columns=("kib_per_connection",),
)
STORM = Scenario(
    "connect-storm",
    "5,000 connect, 256 at a time: their rate, and deliveries to 100 others meanwhile",
    ("bridge", "other", "uws", "nats", "ws", "broadcast", "seed", "socketio"),
    _storm,
    variants=("rate", "traffic"),
    columns=("connects_per_second", "cpu_us", "calm_p99_ms", "storm_p50_ms", "storm_p99_ms"),
)
IDLE = Scenario(
    "idle",
    "10,000 connections with a heartbeat every 30 s, nothing else",
    ("bridge", "uws", "nats", "broadcast"),
    _stillness,
    columns=("idle_percent_10k",),
)
