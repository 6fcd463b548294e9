"""The work of the way down, counted instead of timed: what makes it fast can't be lost unnoticed.

Times depend on the machine; these counts don't, nor on the version of Python. They fail when an
event is checked, given a cursor or framed more than once, when a delivery costs a write, a task or
a call of its own, when full reads are written one by one, and when an upgraded connection keeps
more than its socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self

import pytest
from websockets.asyncio.client import connect

from natsbridge.bridge.delivery import hub as hub_module
from natsbridge.bridge.delivery.outbox import LARGE
from natsbridge.bridge.nats import ingest as ingest_module
from natsbridge.bridge.nats.ingest import FULL_READ
from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.bridge.runtime.transport import Transport, lend
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.bridge.websocket.upgrade import Admitted, Handshake, Upgrades
from natsbridge.schemas.catalogue import EventType
from tests.support.port import pending as counts
from tests.support.port import serving
from tests.support.way_down import STREAM, WayDown, Work, work_of

EVENTS: Final = 200
RECEIVERS: Final = 50
TOPIC: Final = b'{"type":"review.updated"'
OWN: Final = b'{"type":"upload.completed"'
"""How the events of each kind begin."""
SPARE: Final = 2
"""Built-in calls that an event may take more than today."""
live_and_stored: Final = pytest.mark.parametrize("durable", [False, True], ids=["live", "stored"])
"""Stored events come with headers, and get a cursor."""


@pytest.fixture
def crowd() -> WayDown:
    """Connections with the same subscription."""
    return WayDown(crowd=RECEIVERS)


def receive_topic(events: int = EVENTS, receivers: int = RECEIVERS, durable: bool = False) -> Work:
    """Count what one read calls that brings a topic's events for a crowd."""
    way_down = WayDown(crowd=receivers)
    work = work_of(way_down.tap.data_received, way_down.for_crowd(events, durable))
    assert way_down.hub.counts.deliveries == events * receivers
    return work


def receive_own(
    events: int = EVENTS, users: int = RECEIVERS, durable: bool = False, again: bool = False
) -> Work:
    """Count what one read calls that brings events for users, one after the other."""
    way_down = WayDown(users=users)
    work = work_of(way_down.tap.data_received, way_down.for_users(events, durable, again))
    assert way_down.hub.counts.deliveries == events
    return work


def an_event_more(receive: Callable[[int], Work]) -> tuple[float, float]:
    """Return how many Python functions, and how many built-in ones, each further event calls."""
    once, twice = receive(EVENTS), receive(2 * EVENTS)
    functions = twice.python.total() - once.python.total()
    return functions / EVENTS, (twice.built_in.total() - once.built_in.total()) / EVENTS


class TestCrowd:
    """Events of a topic that many want."""

    @live_and_stored
    def test_a_read_is_one_write_for_each_receiver(self, crowd: WayDown, durable: bool) -> None:
        """However many events a read brings, each connection is written to once, and at once."""
        crowd.tap.data_received(crowd.for_crowd(EVENTS, durable))
        assert [len(each) for each in crowd.written] == [1] * RECEIVERS
        assert crowd.hub.counts.deliveries == EVENTS * RECEIVERS
        assert all(write.count(TOPIC) == EVENTS for write in crowd.writes)
        assert crowd.writes[0].count(b'"cursor":"%b-' % STREAM) == EVENTS * durable

    def test_the_same_events_are_the_same_bytes(self, crowd: WayDown) -> None:
        """Connections with the same subscriptions share one joined write, not a copy each."""
        crowd.tap.data_received(crowd.for_crowd(EVENTS))
        assert len(crowd.writes) == RECEIVERS
        assert all(write is crowd.writes[0] for write in crowd.writes)

    @live_and_stored
    def test_an_event_is_checked_and_framed_once(
        self, crowd: WayDown, durable: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The number of receivers does not change how often an event is checked, given a cursor or
        framed; and the frames of a read are joined once.
        """
        done: Counter[str] = Counter()
        check, splice, frame = EventType.check, hub_module.cursor_frame, hub_module.text_frame

        def counted_check(kind: EventType, payload: bytes, resource: str | None) -> None:
            done["checks"] += 1
            check(kind, payload, resource)

        def counted_splice(payload: bytes, opening: bytes, sequence: bytes) -> bytes:
            done["cursors"] += 1
            return splice(payload, opening, sequence)

        def counted_frame(payload: bytes) -> bytes:
            done["frames"] += 1
            return frame(payload)

        monkeypatch.setattr(EventType, "check", counted_check)
        monkeypatch.setattr(hub_module, "cursor_frame", counted_splice)
        monkeypatch.setattr(hub_module, "text_frame", counted_frame)
        work = work_of(crowd.tap.data_received, crowd.for_crowd(EVENTS, durable))
        assert done["checks"] == done["frames"] + done["cursors"] == EVENTS
        assert done["cursors"] == EVENTS * durable
        assert work.built_in["SchemaValidator.validate_json"] == EVENTS
        assert work.built_in["bytes.join"] == 1 + EVENTS * durable  # one, and one a cursor

    @pytest.mark.parametrize("events", [EVENTS, 4 * EVENTS])
    def test_a_receiver_costs_a_read_nothing_for_each_event(self, events: int) -> None:
        """Events are gathered for all: a receiver more is three list operations a read, of which
        its write is one, whatever the read brings; and no Python function runs for it.
        """
        few = receive_topic(events)
        many = receive_topic(events, 2 * RECEIVERS)
        assert many.python == few.python
        assert many.built_in.total() - few.built_in.total() <= 3 * RECEIVERS

    @pytest.mark.parametrize(
        ("durable", "functions", "built_in"),
        [(False, 7, 15), (True, 7, 27)],
        ids=["live", "stored"],
    )
    def test_an_event_costs_few_calls(self, durable: bool, functions: int, built_in: int) -> None:
        """Whoever receives it: the bounds are today's counts, and two built-in calls to spare."""
        now = an_event_more(lambda events: receive_topic(events, durable=durable))
        assert now[0] <= functions
        assert now[1] <= built_in + SPARE

    def test_a_delivery_costs_less_than_half_a_call(self) -> None:
        """All calls of a read for 50 receivers, built-in ones too, are 0.46 a delivery."""
        assert receive_topic().calls < 0.5 * EVENTS * RECEIVERS

    def test_no_task_and_no_callback_for_an_event(self) -> None:
        """Nothing is left to the loop: the read that brings events writes them."""
        work = receive_topic()
        assert work.python["Turns.call_soon"] == work.python["Turns.call_later"] == 0

    def test_an_event_is_not_remembered_while_all_go_the_straight_way(self, crowd: WayDown) -> None:
        """What a frame is, is kept for connections with a backlog: without one it costs nothing."""
        work = work_of(crowd.tap.data_received, crowd.for_crowd(EVENTS))
        assert work.python["Flush.know"] == 0
        assert crowd.flush.detours == set()

    def test_one_slow_connection_does_not_change_what_the_others_cost(self, crowd: WayDown) -> None:
        """Its backlog costs a few calls an event, however many others there are; these share
        bytes.
        """
        crowd.flush.detour(crowd.outboxes[0]).blocked = True
        work = work_of(crowd.tap.data_received, crowd.for_crowd(EVENTS))
        assert work.python["Flush.know"] == EVENTS
        assert work.python.total() - receive_topic().python.total() < 8 * EVENTS
        assert [len(each) for each in crowd.written] == [0] + [1] * (RECEIVERS - 1)
        assert all(write is crowd.writes[0] for write in crowd.writes)
        assert work.python["Turns.call_soon"] == 0


class TestOwnEvents:
    """Events of single users, who are many."""

    @live_and_stored
    def test_a_read_is_one_write_for_each_user(self, durable: bool) -> None:
        """A user's events of one read are one write, with a cursor each where they are stored."""
        way_down = WayDown(users=RECEIVERS)
        way_down.tap.data_received(way_down.for_users(EVENTS, durable))
        assert [len(each) for each in way_down.written] == [1] * RECEIVERS
        each = EVENTS // RECEIVERS
        assert all(write.count(OWN) == each for write in way_down.writes)
        cursors = [write.count(b'"cursor":"%b-' % STREAM) for write in way_down.writes]
        assert cursors == [each * durable] * RECEIVERS

    @pytest.mark.parametrize(
        ("durable", "again", "functions", "built_in"),
        [(False, False, 4, 13), (True, False, 4, 25), (True, True, 4, 26)],
        ids=["live", "stored", "stored, of one subject"],
    )
    def test_an_event_costs_few_calls(
        self, durable: bool, again: bool, functions: int, built_in: int
    ) -> None:
        """Route, read, check and frame are a function each, the cursor is none; the bounds are
        today's counts, and two built-in calls to spare.
        """
        now = an_event_more(lambda events: receive_own(events, durable=durable, again=again))
        assert now[0] <= functions
        assert now[1] <= built_in + SPARE

    def test_a_user_costs_a_read_few_calls(self) -> None:
        """The same events for twice as many users: five built-in calls each, the write among them,
        and no Python function.
        """
        few, many = receive_own(), receive_own(users=2 * RECEIVERS)
        assert many.python == few.python
        assert many.built_in.total() - few.built_in.total() <= 5 * RECEIVERS


def come_in(way_down: WayDown, reads: list[bytes]) -> None:
    """Let reads come in turns that follow one another, as a loop has them."""
    for data in reads:
        way_down.turns.step()  # what was called for in the turn before comes first
        way_down.tap.data_received(data)


def full_reads(events: Callable[[int], bytes], number: int) -> tuple[list[bytes], bytes]:
    """What so many reads are while more is waiting, and the rest: events end where they want."""
    data = events(number * FULL_READ // len(events(1)) + 1)
    end = number * FULL_READ
    return [data[at : at + FULL_READ] for at in range(0, end, FULL_READ)], data[end:]


class TestBacklogs:
    """Reads that are full leave their writes to the next ones."""

    def test_eight_full_reads_share_their_writes(self) -> None:
        """Seven in a row write nothing and the eighth writes what all have brought: for 2,000 users
        that is five frames a write, where one read has fewer events than there are users.
        """
        way_down = WayDown(users=2000)
        reads, _ = full_reads(way_down.for_users, 16)
        come_in(way_down, reads[:7])
        assert way_down.writes == []
        come_in(way_down, reads[7:8])
        assert {len(each) for each in way_down.written} == {1}
        come_in(way_down, reads[8:15])
        assert {len(each) for each in way_down.written} == {1}
        come_in(way_down, reads[15:])
        assert {len(each) for each in way_down.written} == {2}
        events = way_down.hub.counts.deliveries
        assert sum(each.count(OWN) for each in way_down.writes) == events
        assert events >= 5 * len(way_down.writes)

    def test_a_crowds_write_is_large_enough_once_and_not_much_larger(self) -> None:
        """What each of a crowd is to get is put off until it is worth a write: copying much more
        than that would take longer for each byte.
        """
        way_down = WayDown(crowd=RECEIVERS)
        reads, _ = full_reads(partial(way_down.for_crowd, durable=True), 8)
        come_in(way_down, reads[:1])
        assert way_down.writes == []  # one read brings less, with the stream's headers
        come_in(way_down, reads[1:])
        sizes = {len(write) for write in way_down.writes}
        assert min(sizes) >= LARGE
        assert max(sizes) < LARGE + FULL_READ
        assert {len(each) for each in way_down.written} == {4}

    def test_what_comes_for_others_in_between_changes_nothing(self) -> None:
        """A crowd's share is what it has got since the last write, however often it was settled."""
        way_down = WayDown(crowd=RECEIVERS, users=1)

        def events(number: int) -> bytes:
            some = way_down.for_crowd(50, durable=True) + way_down.for_users(1, durable=True)
            return some * number

        come_in(way_down, full_reads(events, 8)[0])
        sizes = {len(write) for written in way_down.written[:RECEIVERS] for write in written}
        assert min(sizes) >= LARGE
        assert max(sizes) < LARGE + FULL_READ

    def test_a_read_that_is_not_full_is_written_at_its_end(self) -> None:
        """It is the last that is waiting: with it goes what the full ones before it have left."""
        way_down = WayDown(users=RECEIVERS)
        reads, rest = full_reads(way_down.for_users, 3)
        come_in(way_down, reads)
        assert way_down.writes == []
        come_in(way_down, [rest])
        assert {len(each) for each in way_down.written} == {1}
        events = way_down.hub.counts.deliveries
        assert sum(each.count(OWN) for each in way_down.writes) == events

    def test_a_full_read_that_none_follows_is_written_two_turns_later(self) -> None:
        """The next read has had its turn by then."""
        way_down = WayDown(users=RECEIVERS)
        come_in(way_down, full_reads(way_down.for_users, 1)[0])
        way_down.turns.step()
        assert way_down.writes == []
        way_down.turns.step()
        assert {len(each) for each in way_down.written} == {1}

    def test_a_full_read_is_what_asyncio_reads(self) -> None:
        """The loop's transport has a buffer of this size, which a socket with more in it fills."""
        assert Transport.max_size == FULL_READ


class CountedSocket(socket.socket):
    """A socket that counts its system calls."""

    sends = receives = 0

    def send(self, *arguments: Any) -> int:
        self.sends += 1
        return super().send(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self.sends += 1
        return super().sendmsg(*arguments)

    def sendall(self, *arguments: Any) -> None:
        raise AssertionError("it may take more than one system call")

    def recv(self, *arguments: Any) -> bytes:
        self.receives += 1
        return super().recv(*arguments)


class OnSockets:
    """The way down on a running loop, with its turns, its transports and sockets at both ends.

    An async context manager, which connects all clients, and NATS.
    """

    def __init__(self, crowd: int, users: int) -> None:
        self.way_down = WayDown(call_soon=asyncio.get_running_loop().call_soon)
        self.clients: list[CountedSocket] = []
        """First the crowd's, then the users'."""
        self.nats: CountedSocket
        self._crowd = crowd
        self._users = users
        self._peers: list[socket.socket] = []
        self._transports: list[asyncio.Transport] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._crowd):
            await self._client(self.way_down.join)
        for _ in range(self._users):
            await self._client(self.way_down.come)
        self.way_down.turns.run()
        self.nats, self._far = await self._pair(lambda: self.way_down.tap)
        return self

    async def _client(self, enter: Callable[[Callable[[bytes], None]], None]) -> None:
        ours, peer = await self._pair(asyncio.Protocol)
        self.clients.append(ours)
        self._peers.append(peer)
        enter(self._transports[-1].write)
        lend(self._transports[-1], self.way_down.outboxes[-1])

    async def _pair(
        self, protocol: Callable[[], asyncio.Protocol]
    ) -> tuple[CountedSocket, socket.socket]:
        near, far = socket.socketpair()
        far.settimeout(10)
        for each in (near, far):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        near.setblocking(False)
        ours = CountedSocket(fileno=near.detach())
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(protocol, ours)
        self._transports.append(transport)
        return ours, far

    def read_at_most(self, size: int) -> None:
        """Let asyncio's buffer for NATS be smaller than it is."""
        self._transports[-1].max_size = size  # type: ignore[attr-defined]  # an internal of it

    async def exchange(self, data: bytes, crowd: int, own: int) -> None:
        """Send what NATS writes, all at once; return when each client has so many events of it."""
        assert self._far.send(data) == len(data)
        await asyncio.to_thread(self._take, crowd, own)

    def _take(self, crowd: int, own: int) -> None:
        for at, peer in enumerate(self._peers):
            expected, got = crowd if at < self._crowd else own, b""
            while got.count(b'{"type":') < expected:
                got += peer.recv(1 << 18)

    @property
    def sends(self) -> list[int]:
        """How many system calls the writes to each client took."""
        return [client.sends for client in self.clients]

    async def __aexit__(self, *_: object) -> None:
        for transport in self._transports:
            transport.abort()
        for peer in (*self._peers, self._far):
            peer.close()
        await asyncio.sleep(0)


class TestSystemCalls:
    """What of all this reaches the kernel: on the bridge's loop, and with its transports."""

    def test_a_read_is_one_send_for_each_connection(self) -> None:
        """Three bursts, for a crowd and for users, are three reads and three sends each."""

        async def main() -> None:
            async with OnSockets(crowd=20, users=20) as sockets:
                burst = sockets.way_down.for_crowd(50) + sockets.way_down.for_users(100)
                for at in (1, 2, 3):
                    await sockets.exchange(burst, crowd=50, own=5)
                    assert sockets.nats.receives == at
                    assert sockets.sends == [at] * 40

        with asyncio.Runner(loop_factory=FairLoop) as runner:
            runner.run(main())

    def test_a_backlog_is_a_send_for_eight_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sixteen full reads and one that is not are three sends to each user."""

        async def main() -> None:
            async with OnSockets(crowd=0, users=10) as sockets:
                backlog = sockets.way_down.for_users(400)
                size = len(backlog) * 2 // 33
                sockets.read_at_most(size)
                monkeypatch.setattr(ingest_module, "FULL_READ", size)
                await sockets.exchange(backlog, crowd=0, own=40)
                assert sockets.nats.receives == 17
                assert sockets.sends == [3] * 10

        with asyncio.Runner(loop_factory=FairLoop) as runner:
            runner.run(main())


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

    upgrades = Upgrades(admit, Parsers(1000))
    pending = counts()
    clients = []
    async with serving(nothing, upgrades=upgrades, counts=pending) as port:
        try:
            first = await connect(f"ws://127.0.0.1:{port}/ws")
            clients.append(first)
            client_tasks = len(asyncio.all_tasks()) - 1  # what one client takes, and this test
            clients += [await connect(f"ws://127.0.0.1:{port}/ws") for _ in range(9)]
            await clients[-1].ping()
            assert len(taken) == 10
            assert len(asyncio.all_tasks()) - 1 <= 10 * client_tasks
            assert not pending
            assert {type(each._transport.get_protocol()) for each in taken} == {Socket}
        finally:
            for client in clients:
                await client.close()
