"""What a bridge holds when nobody is connected: to be the same after any amount of traffic."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import httpx

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
    consumers: int
    """Of JetStream, on all streams."""
    descriptors: int
    """Of the bridge's process, 0 where the system does not tell."""


async def holdings(world: World, bridge: FaultyBridge) -> Holdings:
    """Ask the bridge, the broker and the system."""
    async with httpx.AsyncClient(base_url=world.nats.monitor_url, trust_env=False) as monitor:
        connections = (await monitor.get("/connz?subs=1")).json()["connections"]
        subscriptions = (await monitor.get("/subsz")).json()["num_subscriptions"]
        jetstream = (await monitor.get("/jsz")).json()
    subjects = [subject for each in connections for subject in each.get("subscriptions_list", ())]
    # Each inbox has a name of its own.
    own = sorted("_INBOX" if each.startswith("_INBOX") else each for each in subjects)
    return Holdings(
        clients=(await bridge.stats())["total_connections"],
        broker_connections=len(connections),
        subscriptions=int(subscriptions),
        bridge_subscriptions=tuple(own),
        consumers=int(jetstream["consumers"]),
        descriptors=_descriptors(bridge.pid),
    )


def _descriptors(pid: int) -> int:
    if sys.platform != "linux":
        return 0
    return len([name for name in os.listdir(f"/proc/{pid}/fd") if name.isdigit()])
