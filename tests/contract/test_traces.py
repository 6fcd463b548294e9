"""Traces from a service's process through NATS and two bridges to the writes to clients."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from natsbridge.schemas.subjects import Address, Root
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, envelope, to_user
from tests.support.clients import Client, Clients, mint, new_user
from tests.support.traces import Span, Tap, publish, service, tap

EVENTS = 100
TRACE = f"00-{7:032x}-{9:016x}-01"


def near(bridge: BridgeProcess, heard: Tap) -> dict[str, str]:
    """The environment of a service that publishes to this bridge, and is traced."""
    names = ("BRIDGE_NATS_URL", "BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")
    return {name: bridge.settings[name] for name in names} | heard.environment


def beside(bridge: BridgeProcess) -> dict[str, str]:
    """The settings of another replica of this bridge."""
    return {name: bridge.settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")}


async def events(client: Client, number: int) -> list[dict[str, object]]:
    """Return the next so many messages."""
    return [await client.receive(20) for _ in range(number)]


def mapped(bridge: BridgeProcess) -> str:
    """What the process has mapped: the extension modules that it imported are among it."""
    return Path(f"/proc/{bridge.pid}/maps").read_text()


async def send(
    bus: Bus, address: Address, traceparent: str, data: object = None, *, name: str = "traceparent"
) -> str:
    """Publish as somebody else's library would; return the event's id."""
    event = envelope(address, data)
    subject = bus.subjects.event(Root.SERVICE, address)
    await bus.raw(subject, json.dumps(event).encode(), {name: traceparent})
    event_id: str = event["id"]
    return event_id


async def test_every_sampled_event_is_one_whole_trace(start_bridge: StartBridge) -> None:
    """One ``send`` and below it one ``process`` a replica, whatever clients they have; each client
    reads the trace in the event.
    """
    async with tap() as heard:
        first = start_bridge(**heard.environment)
        second = start_bridge(**heard.environment, **beside(first))
        user = new_user()
        async with Clients(first.url) as here, Clients(second.url) as there:
            clients = [await here.join(user), await here.join(user), await there.join(user)]
            told = await publish(str(EVENTS), "upload.completed", user, **near(first, heard))
            received = await asyncio.gather(*(events(each, EVENTS) for each in clients))
        sends = await heard.count("send upload.completed", EVENTS)
        processes = await heard.count("process upload.completed", 2 * EVENTS)
    assert len(told) == len(sends) == EVENTS
    assert len(processes) == 2 * EVENTS
    by_trace: dict[str, list[Span]] = {}
    for span in processes:
        by_trace.setdefault(span.trace, []).append(span)
    for number, send in enumerate(sends):
        assert (send.kind, send.parent) == ("PRODUCER", "")
        children = by_trace[send.trace]
        assert {(each.kind, each.parent) for each in children} == {("CONSUMER", send.id)}
        written = sorted(each.attributes["natsbridge.sessions.written"] for each in children)
        assert written == [1, 2]
        for each in children:
            assert each.attributes["messaging.message.id"] == told[number]["id"]
            assert each.attributes["messaging.destination.template"].endswith(
                ".live.stream.user.{user}.upload.completed.{resource}"
            )
            assert each.start <= each.end
            assert send.start < each.end
            assert not each.error
        for own in received:
            event = own[number]
            assert event["traceparent"] == f"00-{send.trace}-{send.id}-03"
            assert {each.attributes["natsbridge.cursor"] for each in children} == {event["cursor"]}


async def test_a_command_is_one_trace_from_the_browser_and_back(start_bridge: StartBridge) -> None:
    """Browser → bridge (CLIENT) → service (SERVER) → its event (PRODUCER) → bridge (CONSUMER) →
    browser; a handler that fails is an error there.
    """
    async with tap() as heard:
        bridge = start_bridge(**heard.environment)
        async with Clients(bridge.url) as clients:
            client = await clients.join()
            async with service("2", "cancel", **near(bridge, heard)) as process:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
                for upload in ("u1", "bad"):
                    message = {"type": "upload.cancel", "data": {"upload_id": upload}}
                    await client.send_raw(json.dumps(message | {"traceparent": TRACE}))
                    told = [await client.receive(), await client.receive()]
                    [event] = [each for each in told if each["type"] == "upload.cancelled"]
                    assert event["traceparent"].split("-")[1] == f"{7:032x}"
        await heard.count("process upload.cancelled", 2)
        commands = await heard.count("command upload.cancel", 4)
    servers = [span for span in commands if span.kind == "SERVER"]
    assert [span.error for span in servers] == [False, True]
    for server in servers:
        assert server.trace == f"{7:032x}"
        [asked] = [span for span in commands if span.id == server.parent]
        assert (asked.kind, asked.parent, asked.error) == ("CLIENT", f"{9:016x}", server.error)
        [sent] = [span for span in heard.named("send upload.cancelled") if span.parent == server.id]
        below = [span for span in heard.named("process upload.cancelled") if span.parent == sent.id]
        assert [(span.kind, span.trace) for span in below] == [("CONSUMER", server.trace)]
        template = asked.attributes["messaging.destination.template"]
        assert template.endswith(".commands.upload.cancel.{user}.{resource}")


async def test_connections_and_their_changes_are_spans_with_their_outcome(
    start_bridge: StartBridge,
) -> None:
    """``connect``, ``subscribe`` and ``resume``, linked to the client's own trace; what fails is an
    error with its name.
    """
    async with tap() as heard:
        bridge = start_bridge(**heard.environment)
        async with Clients(bridge.url) as clients, Bus(bridge) as bus:
            await clients.rejected(origin="https://bad.example")
            stranger = await clients.connect(mint("x", secret="y" * 32), "header")
            await stranger.socket.wait_closed()
            client = await clients.join()
            cursor = client.established["data"]["cursor"]
            message = {"type": "subscribe", "data": {"events": ["upload.*", "no.such"]}}
            await client.send_raw(json.dumps(message | {"traceparent": TRACE}))
            await client.expect("subscription.acknowledged")
            await client.socket.close()
            for _ in range(3):
                await bus.publish(to_user(client.user, "upload.completed", "1"), root=Root.EVENTS)
            headers = {"Authorization": f"Bearer {client.token}", "traceparent": TRACE}
            again = await clients.open(query={"cursor": cursor}, headers=headers)
            await again.expect("connection.established")
            assert {each["type"] for each in await events(again, 3)} == {"upload.completed"}
            await again.expect("resume.completed")
        connects = await heard.count("connect", 4)
        [subscribe] = await heard.count("subscribe", 1)
        [resume] = await heard.count("resume", 1)
    own = ((f"{7:032x}", f"{9:016x}"),)
    assert [span.attributes.get("error.type") for span in connects] == [
        "ORIGIN_NOT_ALLOWED",
        "INVALID_TOKEN",
        None,
        None,
    ]
    assert [span.links for span in connects] == [(), (), (), own]
    assert (subscribe.links, subscribe.error) == (own, False)
    assert subscribe.attributes["natsbridge.patterns"] == 1
    assert resume.links == own
    assert resume.attributes == {
        "natsbridge.replay": True,
        "natsbridge.replay.events": 3,
        "natsbridge.replay.recovered": True,
    }
    for span in [*connects, subscribe, resume]:
        assert (span.kind, span.parent) == ("SERVER", "")
        assert span.trace != own[0][0]
        assert 0 <= span.end - span.start < 60e9


async def test_spans_do_not_grow_with_the_crowd(start_bridge: StartBridge) -> None:
    """An event to a hundred subscribers is two spans, as one to a single subscriber is."""
    async with tap() as heard:
        bridge = start_bridge(**heard.environment)
        async with Clients(bridge.url) as clients:
            for crowd in (1, 100):
                while len(clients._sockets) < crowd:
                    await (await clients.join()).subscribe("upload.progress")
                before = len(heard.about("upload.progress"))
                await publish("5", "upload.progress", **near(bridge, heard))
                processes = await heard.count("process upload.progress", 5 if crowd == 1 else 10)
                await heard.count("send upload.progress", len(processes))
                assert len(heard.about("upload.progress")) == before + 10
                for span in processes[-5:]:
                    assert span.attributes["natsbridge.sessions.matched"] == crowd
                    assert span.attributes["natsbridge.sessions.written"] == crowd
                    assert span.attributes["natsbridge.audience"] == "topic"
                    assert "natsbridge.cursor" not in span.attributes


async def test_a_refused_event_is_an_error_and_an_unsampled_one_is_no_span(
    start_bridge: StartBridge,
) -> None:
    """A foreign publisher's header counts, in any case; the reason is the error's type."""
    async with tap() as heard:
        bridge = start_bridge(**heard.environment)
        async with Clients(bridge.url) as clients, Bus(bridge) as bus:
            client = await clients.join()
            address = to_user(client.user, "upload.progress", "1")
            trace = f"{7:032x}", f"{9:016x}"
            sampled = f"00-{trace[0]}-{trace[1]}-01"
            await send(bus, address, f"00-{trace[0]}-{trace[1]}-00")
            await send(bus, address, sampled, {"progress": "no"}, name="TraceParent")
            await send(bus, address, sampled, name="TRACEPARENT")
            assert "traceparent" not in await client.receive()
            assert (await client.receive())["traceparent"] == sampled
            bad, good = await heard.count("process upload.progress", 2)
    assert len(heard.about("upload.progress")) == 2
    assert {(each.trace, each.parent) for each in (bad, good)} == {trace}
    assert (bad.error, bad.attributes["error.type"]) == (True, "INVALID_DATA")
    assert not good.error


async def test_without_its_variables_no_span_is_made(
    start_bridge: StartBridge,
) -> None:
    """Off is off: the SDK is not even imported."""
    bridge = start_bridge()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        event = await send(bus, to_user(client.user, "upload.progress", "1"), TRACE)
        assert (await client.receive())["id"] == event
    assert "google/_upb" not in mapped(bridge)


async def test_a_collector_that_is_gone_costs_no_event(start_bridge: StartBridge) -> None:
    """Spans are dropped when their queue is full, events are not; the bridge ends in time."""
    async with tap() as heard:
        gone = heard.environment
    bridge = start_bridge(**gone, OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32")
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "upload.progress", "1")
        ids = [await send(bus, address, TRACE) for _ in range(500)]
        assert [message["id"] for message in await events(client, 500)] == ids
    assert "google/_upb" in mapped(bridge)
    bridge.terminate()
    assert bridge.wait() == 0
