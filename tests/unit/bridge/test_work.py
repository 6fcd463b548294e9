"""The work of the way down, counted instead of timed: what makes it fast can't be lost unnoticed.

Times depend on the machine; these counts don't. They fail when an event is checked or framed more
than once, when a delivery costs a write, a task or a call of its own, and when an upgraded
connection keeps more than its socket.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect

from bridge.broker.ingest import Tap
from bridge.broker.interests import Interests
from bridge.broker.topics import Topics
from bridge.delivery import hub as hub_module
from bridge.delivery.hub import Hub
from bridge.delivery.outbox import Flush, Outbox
from bridge.sockets.listener import bounded_http
from bridge.sockets.socket import Parsers, Socket
from bridge.sockets.upgrade import Admitted, Handshake, Upgrades
from schemas.catalogue import Catalogue, EventType
from schemas.subjects import Subjects

EVENTS = 200
RECEIVERS = 50
EVENT = (
    b'{"type":"review.updated","id":"1","timestamp":"2026-01-08T10:30:00Z",'
    b'"data":{"review_id":"7","changes":{"status":"open"}}}'
)


class Wire:
    """A NATS that confirms everything at once."""

    is_up = True

    def write(self, operations: bytes) -> None:
        pass

    def ping(self, operations: bytes, latch: Any) -> None:
        latch.set_result(True)


class WayDown:
    """The parts from the bytes of NATS to the writes, joined as the bridge joins them."""

    def __init__(self) -> None:
        self.soon: list[Any] = []
        self.writes: list[bytes] = []
        self.flush = Flush(self.soon.append, max_frames=100, max_bytes=1 << 20, clock=lambda: 0.0)
        self.hub = Hub(
            Catalogue.load(),
            self.flush,
            live_root="live",
            events_root="events",
            stream_header=b"Nats-Stream: EVENTS\r\n",
            reject=lambda *_: pytest.fail("an event was rejected"),
            max_size=65536,
        )
        receivers: dict[bytes, Any] = {}
        interests = Interests(
            Wire(),
            receivers,
            clock=lambda: 0.0,
            call_soon=self.soon.append,
            call_later=lambda _, call: self.soon.append(call),
            linger=5,
            patience=5,
        )
        topics = Topics(interests, Subjects(), clock=lambda: 0.0, linger=5)
        route = self.hub.topic("review.updated")
        topics.hold("review.updated", "*", route.receive)
        self.outboxes = [Outbox(self.writes.append, lambda: None) for _ in range(RECEIVERS)]
        for outbox in self.outboxes:
            route.add(outbox, "*", frozenset())
        (self.sid,) = receivers
        self.tap = Tap(asyncio.Protocol(), receivers, self.flush, lambda _: False)

    def burst(self) -> bytes:
        """Return what NATS writes for all events at once."""
        line = b"MSG live.topic.review.updated.7 %b %d\r\n" % (self.sid, len(EVENT))
        return (line + EVENT + b"\r\n") * EVENTS


@pytest.fixture
def way_down() -> WayDown:
    return WayDown()


def test_a_read_is_one_write_for_each_receiver(way_down: WayDown) -> None:
    """However many events a read brings, each connection is written to once, and at once."""
    way_down.tap.data_received(way_down.burst())
    assert len(way_down.writes) == RECEIVERS
    assert way_down.hub.counts.deliveries == EVENTS * RECEIVERS
    assert all(written.count(EVENT) == EVENTS for written in way_down.writes)


def test_the_same_events_are_the_same_bytes(way_down: WayDown) -> None:
    """Connections with the same subscriptions share one joined write, not a copy each."""
    way_down.tap.data_received(way_down.burst())
    assert len({id(written) for written in way_down.writes}) == 1


def test_an_event_is_checked_and_framed_once(
    way_down: WayDown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of receivers does not change how often an event is checked or framed."""
    done: Counter[str] = Counter()
    check, frame = EventType.check, hub_module.text_frame

    def counted_check(kind: EventType, payload: bytes) -> None:
        done["checks"] += 1
        check(kind, payload)

    def counted_frame(payload: bytes) -> bytes:
        done["frames"] += 1
        return frame(payload)

    monkeypatch.setattr(EventType, "check", counted_check)
    monkeypatch.setattr(hub_module, "text_frame", counted_frame)
    way_down.tap.data_received(way_down.burst())
    assert done == {"checks": EVENTS, "frames": EVENTS}


def test_a_delivery_costs_no_call(way_down: WayDown) -> None:
    """A delivery is two list operations: no Python function runs for it, and nothing is logged."""
    burst = way_down.burst()
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        calls[event] += 1

    sys.setprofile(count)
    try:
        way_down.tap.data_received(burst)
    finally:
        sys.setprofile(None)
    deliveries = EVENTS * RECEIVERS
    assert calls["call"] < 0.25 * deliveries
    assert calls["c_call"] < 1.75 * deliveries


def test_no_task_and_no_callback_for_an_event(way_down: WayDown) -> None:
    """Nothing is left to the loop: the read that brings events writes them."""
    way_down.soon.clear()
    way_down.tap.data_received(way_down.burst())
    assert way_down.soon == []


def calls_of(way_down: WayDown, name: str) -> tuple[int, int]:
    """Let a burst come in; return how many Python functions ran, and how often this one."""
    burst = way_down.burst()
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        way_down.tap.data_received(burst)
    finally:
        sys.setprofile(None)
    return calls.total(), calls[name]


def test_an_event_is_not_remembered_while_all_go_the_straight_way(way_down: WayDown) -> None:
    """What a frame is, is kept for connections with a backlog: without one it costs nothing."""
    assert calls_of(way_down, "Flush.know")[1] == 0
    assert way_down.flush.detours == set()


def test_one_slow_connection_does_not_change_what_the_others_cost() -> None:
    """Its backlog costs a few calls an event, however many others there are; these share bytes."""
    straight, slow = WayDown(), WayDown()
    backlog = slow.flush.detour(slow.outboxes[0])
    backlog.blocked = True
    straight.soon.clear()
    slow.soon.clear()
    calls, known = calls_of(slow, "Flush.know")
    assert known == EVENTS
    assert calls - calls_of(straight, "Flush.know")[0] < 8 * EVENTS
    assert len(slow.writes) == RECEIVERS - 1
    assert len({id(written) for written in slow.writes}) == 1
    assert slow.soon == straight.soon == []


class Quiet:
    """The owner of a connection that does nothing with it."""

    def on_message(self, data: bytes, is_text: bool) -> None: ...

    def on_sign_of_life(self) -> None: ...

    def on_pause(self) -> None: ...

    def on_resume(self) -> None: ...

    def on_lost(self) -> None: ...


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Nothing is served over HTTP."""


async def test_an_upgraded_connection_keeps_only_its_socket() -> None:
    """After the hand-over there is no task, and nothing of the HTTP server, for a connection."""
    taken: list[Socket] = []

    def take(connection: Socket) -> None:
        taken.append(connection)
        connection.start(Quiet())

    def admit(_: Handshake) -> Admitted:
        return Admitted(take)

    config = uvicorn.Config(
        nothing,
        host="127.0.0.1",
        port=0,
        http=bounded_http(5, 1000),
        ws=Upgrades(admit, Parsers(1000)),  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    clients = []
    try:
        first = await connect(f"ws://127.0.0.1:{port}/ws")
        clients.append(first)
        client_tasks = len(asyncio.all_tasks()) - 1  # what one client takes, and this test
        clients += [await connect(f"ws://127.0.0.1:{port}/ws") for _ in range(9)]
        await clients[-1].ping()
        assert len(taken) == 10
        assert len(asyncio.all_tasks()) - 1 <= 10 * client_tasks
        assert not server.server_state.connections
        assert not server.server_state.tasks
        assert {type(each._transport.get_protocol()) for each in taken} == {Socket}
    finally:
        for client in clients:
            await client.close()
        server.servers[0].close()
        await server.servers[0].wait_closed()
