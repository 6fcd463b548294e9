"""``/metrics``: what the bridge counts, in Prometheus's formats, and nobody's name in it."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, to_user
from tests.support.clients import Clients, http, mint, new_user

ADMIN = mint("admin", role="admin")


async def numbers(bridge: BridgeProcess) -> dict[str, float]:
    """Return every sample by its name and the values of its labels."""
    async with http(bridge.url, ADMIN) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        ".".join((sample.name, *sample.labels.values())): sample.value
        for family in plain(answer.text)
        for sample in family.samples
    }


async def test_counts_follow_what_happens(bridge: BridgeProcess) -> None:
    """Connections, events, deliveries and refusals are counted, and the states are good."""
    before = await numbers(bridge)
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await bus.publish(to_user(client.user, "upload.progress", "1"), data={"progress": "no"})
        event = await bus.publish(to_user(client.user, "upload.progress", "1"))
        await client.expect_event(event)
        after = await numbers(bridge)
    assert after["bridge_connections"] == before["bridge_connections"] + 1
    for name in ("events_total", "deliveries_total"):
        assert after[f"bridge_{name}"] == before.get(f"bridge_{name}", 0) + 1
    refused = "bridge_rejected_events_total.INVALID_DATA"
    assert after[refused] == before.get(refused, 0) + 1
    assert after["bridge_nats_up"] == after["bridge_stream_up"] == 1
    assert after["bridge_catching_up"] == after["bridge_replays"] == 0


@pytest.mark.parametrize(
    ("accept", "kind", "read"),
    [
        ("text/plain", "text/plain", plain),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text",
            openmetrics,
        ),
    ],
)
async def test_formats(bridge: BridgeProcess, accept: str, kind: str, read: object) -> None:
    """Both formats that Prometheus asks for parse, and have the same names."""
    async with http(bridge.url, ADMIN) as client:
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(kind)
    assert callable(read)
    assert {"bridge_connections", "bridge_deliveries"} <= {
        family.name.removesuffix("_total") for family in read(answer.text)
    }


async def test_nobody_is_named(bridge: BridgeProcess) -> None:
    """No user, connection or subject is in it."""
    user = new_user("secretive")
    async with Clients(bridge.url) as clients, http(bridge.url, ADMIN) as client:
        connected = await clients.join(user)
        text = (await client.get("/metrics")).text
        assert user not in text
        assert connected.id not in text
        assert bridge.settings["BRIDGE_SUBJECT_PREFIX"] not in text
