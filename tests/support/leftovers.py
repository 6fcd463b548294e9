"""What a bridge holds when nobody is connected: to be the same after any amount of traffic."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace

import httpx
from prometheus_client.parser import text_string_to_metric_families as families

from tests.support.clients import http, mint
from tests.support.faulty import FaultyBridge, World


@dataclass(frozen=True)
class Holdings:
    """Counts that must come back to what they were."""

    clients: int
    broker_connections: int
    subscriptions: int
    """Of all connections to the broker, as the broker counts them."""
    bridge_subscriptions: tuple[str, ...]
    """The subjects that the bridge's own connections are subscribed to."""
    interests: int
    """Subscriptions, as the bridge counts them."""
    tasks: int
    timers: int
    """Of the bridge's event loop."""
    consumers: int
    """Of JetStream, on all streams."""
    descriptors: int
    """Of the bridge's process, 0 where the system does not tell."""

    def has_left(self, now: Holdings) -> bool:
        """Whether something is held now that was not: tasks and timers of what was done at the time
        of this may be over.
        """
        more = now.tasks > self.tasks or now.timers > self.timers
        return more or replace(now, tasks=0, timers=0) != replace(self, tasks=0, timers=0)


async def holdings(world: World, bridge: FaultyBridge) -> Holdings:
    """Ask the bridge, the broker and the system."""
    async with httpx.AsyncClient(base_url=world.nats.monitor_url, trust_env=False) as monitor:
        connections = (await monitor.get("/connz?subs=1")).json()["connections"]
        subscriptions = (await monitor.get("/subsz")).json()["num_subscriptions"]
        jetstream = (await monitor.get("/jsz")).json()
    async with http(bridge.url, mint("admin", role="admin")) as client:
        metrics = (await client.get("/metrics")).text
    numbers = {each.name: each.samples[0].value for each in families(metrics) if each.samples}
    subjects = [subject for each in connections for subject in each.get("subscriptions_list", ())]
    # Each inbox has a name of its own.
    own = sorted("_INBOX" if each.startswith("_INBOX") else each for each in subjects)
    return Holdings(
        clients=(await bridge.stats())["total_connections"],
        broker_connections=len(connections),
        subscriptions=int(subscriptions),
        bridge_subscriptions=tuple(own),
        consumers=int(jetstream["consumers"]),
        interests=int(numbers["bridge_interests"]),
        tasks=int(numbers["bridge_tasks"]),
        timers=int(numbers["bridge_timers"]),
        descriptors=_descriptors(bridge.pid),
    )


def _descriptors(pid: int) -> int:
    if sys.platform != "linux":
        return 0
    return len([name for name in os.listdir(f"/proc/{pid}/fd") if name.isdigit()])
