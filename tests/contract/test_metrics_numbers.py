"""``/metrics``: durations with their traces, a bounded number of series, and sums that come out."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.samples import Sample

from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Audience, Root
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, envelope, everyone, to_user, topic
from tests.support.clients import Client, Clients, http, mint, new_user
from tests.support.nats_server import settle
from tests.support.traces import tap

ADMIN = mint("admin", role="admin")
TRACE = f"00-{7:032x}-{9:016x}-01"


async def scrape(bridge: BridgeProcess) -> list[Sample]:
    """Return every sample of OpenMetrics."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with http(bridge.url, ADMIN) as client:
        answer = await client.get("/metrics", headers=accept)
    assert answer.status_code == 200
    return [sample for family in openmetrics(answer.text) for sample in family.samples]


def series(samples: list[Sample]) -> set[tuple[str, ...]]:
    """Return each set of labels once, a histogram's without its buckets."""
    return {
        (
            sample.name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count"),
            *(f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "le"),
        )
        for sample in samples
        if not sample.name.endswith("_created")
    }


def value(samples: list[Sample], name: str, **labels: str) -> float:
    """Return one number; 0 where it is not there yet."""
    return sum(each.value for each in samples if (each.name, each.labels) == (name, labels))


async def test_durations_lead_to_their_traces(start_bridge: StartBridge) -> None:
    """Every event is in the histogram of its audience and durability; a sampled one's trace is the
    exemplar of its bucket.
    """
    async with tap() as heard:
        bridge = start_bridge(**heard.environment)
        async with Clients(bridge.url) as clients, Bus(bridge) as bus:
            client = await clients.join()
            address = to_user(client.user, "upload.completed", "1")
            for number in range(5):
                subject = bus.subjects.event(Root.EVENTS, address)
                headers = {"traceparent": TRACE} if number == 3 else None
                await bus.store(subject, json.dumps(envelope(address)).encode(), headers)
                assert (await client.receive())["type"] == "upload.completed"
            samples = await scrape(bridge)
        [span] = await heard.count("process upload.completed", 1)
    kind = {"audience": "user", "durability": "stored"}
    assert value(samples, "bridge_delivery_seconds_count", **kind) == 5
    assert value(samples, "bridge_publish_to_delivery_seconds_count", **kind) >= 1
    shown = {
        sample.name: sample.exemplar.labels
        for sample in samples
        if sample.exemplar is not None and sample.labels.items() > kind.items()
    }
    expected = {"trace_id": f"{7:032x}", "span_id": f"{9:016x}"}
    assert shown == {
        "bridge_delivery_seconds_bucket": expected,
        "bridge_publish_to_delivery_seconds_bucket": expected,
    }
    took = (span.end - span.start) / 1e9
    exemplars = [each.exemplar.value for each in samples if each.exemplar is not None]
    assert min(abs(each - took) for each in exemplars) < 1e-6


async def test_the_same_numbers_go_out_over_otlp(start_bridge: StartBridge) -> None:
    """Every family by its name, with labels, buckets and exemplars; the last when it ends."""
    async with tap() as heard:
        faster = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
        bridge = start_bridge(**heard.environment | faster)
        async with Clients(bridge.url) as clients, Bus(bridge) as bus:
            client = await clients.join()
            address = to_user(client.user, "upload.completed", "1")
            subject = bus.subjects.event(Root.EVENTS, address)
            payload = json.dumps(envelope(address)).encode()
            await bus.store(subject, payload, {"traceparent": TRACE})
            await client.expect("upload.completed")
            samples = await scrape(bridge)
        bridge.terminate()
        assert await asyncio.to_thread(bridge.wait) == 0
        names = {name.removesuffix("_total") for name, *_ in series(samples)}
        expected = {f"natsbridge.{name.removeprefix('bridge_')}" for name in names}
        await heard.until(lambda: expected <= set(heard.metrics))
    [point] = heard.metrics["natsbridge.delivery_seconds"].histogram.data_points
    assert {each.key: each.value.string_value for each in point.attributes} == {
        "audience": "user",
        "durability": "stored",
    }
    assert point.count == sum(point.bucket_counts) == 1
    [exemplar] = point.exemplars
    assert (exemplar.trace_id.hex(), exemplar.span_id.hex()) == (f"{7:032x}", f"{9:016x}")
    events = heard.metrics["natsbridge.events"].sum
    assert events.is_monotonic
    assert [each.as_int for each in events.data_points] == [1]


async def load(bus: Bus, clients: Clients, users: int, subjects: int) -> list[Client]:
    """Let users come and events of every type go out on so many subjects."""
    joined = [await clients.join() for _ in range(users)]
    catalogue = Catalogue.load()
    for client in joined[:2]:
        await client.subscribe(">")
    published = 0
    for number in range(subjects):
        name = catalogue.types[number % len(catalogue.types)]
        kind = catalogue.get(name)
        assert kind is not None
        resource = str(number) if kind.traits.resource else None
        for audience in kind.traits.audiences:
            address = {
                Audience.USER: lambda n=number, t=name, r=resource: to_user(
                    joined[n % users].user, t, r
                ),
                Audience.TOPIC: lambda t=name, r=resource: topic(t, r),
                Audience.ALL: lambda t=name, r=resource: everyone(t, r),
            }[audience]()
            root = Root.EVENTS if kind.traits.durable else Root.SERVICE
            subject = bus.subjects.event(root, address)
            await bus.connection.publish(subject, json.dumps(envelope(address)).encode())
            published += 1
    await settle(bus.connection)
    return joined


async def test_series_are_few_and_do_not_grow(start_bridge: StartBridge) -> None:
    """At most 300 with the whole catalogue, a histogram's label set counted once, and as many for
    ten times the users and subjects.
    """
    bridge = start_bridge(BRIDGE_MAX_CONNECTIONS="2000")
    found = []
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        for users, subjects in ((10, 120), (100, 1200)):
            joined = await load(bus, clients, users, subjects)
            marker = await bus.marker(joined[0].user, Root.EVENTS)
            async with asyncio.timeout(30):
                while (await joined[0].receive(30)).get("id") != marker:
                    pass
            found.append(series(await scrape(bridge)))
    # Six at the most of what is measured now and then, and the answers to these scrapes.
    sampled = {"bridge_publish_to_delivery_seconds", "bridge_http_requests_total"}
    assert {name[0] for name in found[1] - found[0]} <= sampled
    assert len(found[1]) <= 300
    assert sum(name[0] == "bridge_delivery_seconds" for name in found[1]) <= 6


async def test_each_refusal_is_counted_as_clients_saw_it(start_bridge: StartBridge) -> None:
    """Handshakes, tokens, errors, rejected events and closes: what the clients were told is what
    the counters say, no more and no less.
    """
    bridge = start_bridge(BRIDGE_ALLOWED_ORIGINS="https://good.example", BRIDGE_MAX_ERRORS="3")
    seen: Counter[str] = Counter()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        for _ in range(3):
            answer = await clients.rejected(origin="https://bad.example")
            seen[f"handshake {answer.status_code}"] += 1
        for _ in range(4):
            stranger = await clients.connect(mint("x", secret="y" * 32), "header")
            seen[(await stranger.expect("error"))["data"]["code"]] += 1
            await stranger.socket.wait_closed()
            seen[f"close {stranger.socket.close_code}"] += 1
        user = new_user()
        client = await clients.join(user)
        for _ in range(5):
            await bus.publish(to_user(user, "upload.progress", "1"), data={"progress": "no"})
            seen["rejected"] += 1
        for _ in range(3):
            await client.send_raw("no JSON")
            seen[(await client.expect("error"))["data"]["code"]] += 1
        await client.socket.wait_closed()
        seen[f"close {client.socket.close_code}"] += 1
        others = [await clients.join(user) for _ in range(4)]
        seen[(await others[0].expect("error"))["data"]["code"]] += 1
        await others[0].socket.wait_closed()
        seen[f"close {others[0].socket.close_code}"] += 1
        samples = await scrape(bridge)
    assert set(seen) == {
        "handshake 403", "TOKEN_INVALID", "close 4500", "rejected", "INVALID_MESSAGE_FORMAT",
        "close 4503", "CONNECTION_LIMIT_EXCEEDED", "close 4502",
    }  # fmt: skip
    counted: Counter[str] = Counter()
    for each in samples:
        match each.name, each.labels:
            case "bridge_handshakes_refused_total", {"status": status}:
                counted[f"handshake {status}"] += int(each.value)
            case "bridge_errors_total", {"code": code}:
                counted[code] += int(each.value)
            case "bridge_connections_closed_total", {"code": code, "by": "bridge"}:
                counted[f"close {code}"] += int(each.value)
            case "bridge_rejected_events_total", _:
                counted["rejected"] += int(each.value)
    assert counted == seen


async def test_a_quiet_bridge_is_behind_by_nothing(start_bridge: StartBridge) -> None:
    """Events that nobody here wants are no lag, once the stream has been looked at."""
    bridge = start_bridge()
    async with Bus(bridge) as bus:
        for _ in range(20):
            await bus.publish(to_user("nobody", "upload.completed", "1"), root=Root.EVENTS)
        async with asyncio.timeout(20):
            while not value(await scrape(bridge), "bridge_jetstream_round_trip_seconds"):
                pass
            while value(await scrape(bridge), "bridge_stream_lag_events"):
                pass
        assert value(await scrape(bridge), "bridge_queued_messages") == 0
