"""The ingest and the interests over a real nats-server, and what they rely on in nats-py."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport, Transport
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from natsbridge.bridge.delivery.outbox import Flush
from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.connection import Connection
from natsbridge.bridge.nats.ingest import Ingest, Receive, install
from natsbridge.bridge.nats.subscriptions import Interests, Unit
from natsbridge.schemas.bus import BusSettings
from tests.support.nats_server import NatsServer

DEADLINE = 10.0


class TestNatsPy:
    """What ``broker/ingest.py`` uses of nats-py: a release that changes it fails here."""

    def test_the_client_has_what_is_used(self) -> None:
        """The parser, the list of those who wait for PONGs, the counters, the transport."""
        client = Client()
        assert type(client._ps) is Parser
        assert client._ps.nc is client
        assert client._pongs == []
        assert client._pongs_received == 0
        assert client._pings_outstanding == 0
        assert client._transport is None
        assert client._resp_map == {}
        assert client._resp_sub_prefix is None
        install(client, {}, print)
        assert isinstance(client._ps, Ingest)

    async def test_names_of_requests_can_not_be_guessed(self, nats_server: NatsServer) -> None:
        """From the reply subject of one request nothing follows for the next: a service that gets
        a command can't answer another request of the bridge.
        """
        client = Client()
        install(client, {}, print)
        await client.connect(nats_server.url, inbox_prefix="_INBOX_b")
        replies = []

        async def answer(message: Msg) -> None:
            replies.append(message.reply)
            await message.respond(b"yes")

        try:
            await client.subscribe("names.of.requests", cb=answer)
            for _ in range(2):
                assert (await client.request("names.of.requests", b"", timeout=DEADLINE)).data
        finally:
            await client.close()
        first, second = [reply.removeprefix("_INBOX_b.").split(".") for reply in replies]
        assert first[0] == second[0] != first[1][:22]
        assert len({first[1], second[1]}) == 2
        assert all(len(token) >= 22 for _, token in (first, second))
        alike = [a for a, b in zip(first[1], second[1], strict=True) if a == b]
        assert len(alike) < 12  # nats-py's own have the first 19 or so in common

    def test_the_parser_is_called_as_expected(self) -> None:
        """``parse(data)`` is a coroutine, ``reset()`` is not, the buffer is ``buf``."""
        assert list(inspect.signature(Parser.__init__).parameters) == ["self", "nc"]
        assert list(inspect.signature(Parser.parse).parameters) == ["self", "data"]
        assert inspect.iscoroutinefunction(Parser.parse)
        assert list(inspect.signature(Parser.reset).parameters) == ["self"]
        assert not inspect.iscoroutinefunction(Parser.reset)
        assert Parser(None).buf == bytearray()

    def test_a_message_is_handed_on_as_expected(self) -> None:
        """``_process_msg(sid, subject, reply, data, headers)``."""
        assert list(inspect.signature(Client._process_msg).parameters) == [
            "self", "sid", "subject", "reply", "data", "headers",
        ]  # fmt: skip
        assert inspect.iscoroutinefunction(Client._process_msg)

    def test_the_read_loop_does_as_expected(self) -> None:
        """It awaits the parser for each read, and reconnects on a ProtocolError."""
        source = inspect.getsource(Client._read_loop)
        assert "await self._ps.parse(b)" in source
        assert "except errors.ProtocolError:\n                await self._process_op_err" in source
        assert issubclass(ProtocolError, Exception)

    def test_a_reconnect_does_as_expected(self) -> None:
        """The parser is reset, and nobody waits for the old connection's PONGs any more."""
        assert "self._ps.reset()" in inspect.getsource(Client._process_op_err)
        assert "self._pongs = []" in inspect.getsource(Client._process_connect_init)

    def test_a_pong_is_waited_for_as_expected(self) -> None:
        """Whoever sends a PING is appended to the list; the first of it gets the next PONG."""
        assert "self._pongs.append(future)" in inspect.getsource(Client._send_ping)
        assert "self._pongs.pop(0)" in inspect.getsource(Client._process_pong)

    def test_a_request_is_answered_as_expected(self) -> None:
        """On the one inbox of the client, which is made where there is none."""
        source = inspect.getsource(Client._init_request_sub)
        assert 'self._resp_sub_prefix.extend(b".")' in source
        assert "resp_mux_subject = self._resp_sub_prefix[:]" in source
        assert 'resp_mux_subject.extend(b"*")' in source
        assert "if not self._resp_sub_prefix" in inspect.getsource(Client._request_new_style)
        assert list(inspect.signature(Client._remove_sub).parameters)[:2] == ["self", "sid"]
        assert Client()._subs == {}

    def test_the_transport_takes_bytes_at_once(self) -> None:
        """``write`` is no coroutine, in every kind of transport."""
        for kind in (Transport, TcpTransport):
            assert list(inspect.signature(kind.write).parameters) == ["self", "payload"]
            assert not inspect.iscoroutinefunction(kind.write)
        assert TcpTransport()._io_writer is None


class Line:
    """A connection with interests, as the bridge joins them, and all messages that came."""

    def __init__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        receivers: dict[bytes, Receive] = {}
        flush = Flush(loop.call_soon, max_frames=100, max_bytes=1024, clock=loop.time)
        self.connection = Connection(BusSettings(url=(url,), timeout=2), "test", receivers, flush)
        self.interests = Interests(
            self.connection,
            receivers,
            clock=loop.time,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            linger=0,
            patience=5,
        )
        self.went_down, self.came_up = asyncio.Event(), asyncio.Event()
        self.connection.on_down = (self.interests.on_down, self.went_down.set)
        self.connection.on_up = (self.interests.on_up, self.came_up.set)
        self.sockets: list[int] = []
        self.connection.on_socket = self.sockets.append
        self.got: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def hold(self, subject: str) -> Unit:
        """Hold a subject; what comes on it goes to ``got``."""

        def receive(found: bytes, headers: bytes, payload: bytes) -> None:
            self.got.put_nowait((found.decode(), payload))

        return self.interests.hold(subject, receive)

    async def confirmed(self) -> None:
        """Return when NATS has every interest."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.interests.confirm(answer.set_result)
        async with asyncio.timeout(DEADLINE):
            assert await answer

    async def next(self) -> tuple[str, bytes]:
        """Return subject and payload of the next message."""
        async with asyncio.timeout(DEADLINE):
            return await self.got.get()


@contextlib.asynccontextmanager
async def line(url: str) -> AsyncIterator[Line]:
    """A line that is open during the block."""
    found = Line(url)
    await found.connection.open()
    try:
        yield found
    finally:
        await found.connection.close()


@contextlib.asynccontextmanager
async def publisher(url: str) -> AsyncIterator[Client]:
    """Somebody else's connection."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def test_what_is_published_after_the_confirmation_arrives(nats_server: NatsServer) -> None:
    """Every time: the answer to the PING comes only when NATS has the subscription."""
    async with line(nats_server.url) as mine, publisher(nats_server.url) as other:
        for number in range(50):
            subject = f"confirmed.{number}"
            mine.hold(subject)
            await mine.confirmed()
            await other.publish(subject, b"%d" % number)
            await other.flush()
            assert await mine.next() == (subject, b"%d" % number)


async def test_what_was_left_no_longer_arrives(nats_server: NatsServer) -> None:
    """After the UNSUB nothing comes, and another interest goes on."""
    async with line(nats_server.url) as mine, publisher(nats_server.url) as other:
        unit = mine.hold("left.one")
        mine.hold("left.two")
        await mine.confirmed()
        mine.interests.drop([unit])
        await mine.connection.round_trip(DEADLINE)
        await other.publish("left.one", b"1")
        await other.publish("left.two", b"2")
        await other.flush()
        assert await mine.next() == ("left.two", b"2")
        await mine.connection.round_trip(DEADLINE)
        assert mine.got.empty()


async def test_headers_replies_and_large_messages(nats_server: NatsServer) -> None:
    """Whatever nats-server writes is read: long payloads over many reads, headers, empty ones."""
    payloads = [b"", b"x" * 500_000, b"PING\r\n", b"\r\n" * 3, b"y" * 70_000]
    async with line(nats_server.url) as mine, publisher(nats_server.url) as other:
        mine.hold("shapes")
        await mine.confirmed()
        for payload in payloads:
            await other.publish("shapes", payload)
            await other.publish("shapes", payload, reply="to.me", headers={"A": "1", "B": "é"})
        await other.flush()
        for payload in payloads:
            assert await mine.next() == ("shapes", payload)
            assert await mine.next() == ("shapes", payload)


async def test_nats_pys_own_way_goes_on_beside_it(nats_server: NatsServer) -> None:
    """Requests are answered while messages for the natsbridge stream in on the same connection."""
    async with line(nats_server.url) as mine, publisher(nats_server.url) as other:
        mine.hold("stream.>")
        await mine.confirmed()
        service = await other.subscribe("echo")
        for _ in range(2):  # nats-py writes a PING at once, and a SUB a little later
            await other.flush()

        async def answer() -> None:
            async for message in service.messages:
                for number in range(100):
                    await other.publish(f"stream.{number}", b"x" * 100)
                await message.respond(message.data)

        answering = asyncio.create_task(answer())
        try:
            for _ in range(5):
                assert await mine.connection.request("echo", b"hi") == b"hi"
            for number in range(500):
                assert (await mine.next())[0] == f"stream.{number % 100}"
        finally:
            answering.cancel()


async def test_after_a_restart_of_the_server_everything_is_subscribed_again(
    own_nats_server: NatsServer,
) -> None:
    """The interests are asked for again and confirmed, without anybody's help."""
    async with line(own_nats_server.url) as mine:
        mine.hold("again.1")
        left = mine.hold("again.2")
        await mine.confirmed()
        await asyncio.to_thread(own_nats_server.stop)
        async with asyncio.timeout(DEADLINE):
            await mine.went_down.wait()
        assert not mine.connection.is_up
        with pytest.raises(BrokerUnavailable):
            await mine.connection.round_trip(1)
        mine.interests.drop([left])
        mine.hold("again.3")
        await asyncio.to_thread(own_nats_server.start)
        async with asyncio.timeout(DEADLINE):
            await mine.came_up.wait()
        await mine.confirmed()
        async with publisher(own_nats_server.url) as other:
            for number in (1, 2, 3):
                await other.publish(f"again.{number}", b"x")
            await other.flush()
        assert await mine.next() == ("again.1", b"x")
        assert await mine.next() == ("again.3", b"x")
        # Whoever looks after the socket is told of each, and when it is gone.
        first, gone, second = mine.sockets
        assert gone == -1
        assert min(first, second) > 2


async def test_a_server_that_does_not_answer_is_told_and_forgiven(
    own_nats_server: NatsServer,
) -> None:
    """A round trip that ran out of time leaves nothing behind that its late answer would hurt."""
    async with line(own_nats_server.url) as mine:
        own_nats_server.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                await mine.connection.round_trip(0.1)
        finally:
            own_nats_server.resume()
        assert await mine.connection.round_trip(DEADLINE) > 0
        mine.hold("forgiven")
        await mine.confirmed()
        assert mine.connection.is_up


class Cutter:
    """A proxy before a server that can end the connection amid what the server writes."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("nats://").partition(":")
        self._upstream = host, int(port)
        self._left: int | None = None
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen; return the URL that leads through here."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut_after(self, count: int) -> None:
        """Let so many more bytes of the server pass, then end the connection."""
        self._left = count

    async def stop(self) -> None:
        """End it all."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        try:
            up = asyncio.create_task(self._pass_on(reader, up_writer))
            self._tasks.add(up)
            await self._pass_on(up_reader, writer, cutting=True)
            up.cancel()
        finally:
            writer.close()
            up_writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cutting: bool = False
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if cutting and self._left is not None:
                    data, self._left = data[: self._left], self._left - len(data)
                writer.write(data)
                await writer.drain()
                if cutting and self._left is not None and self._left <= 0:
                    self._left = None
                    return


@pytest.mark.parametrize("passing", [10, 1_000, 150_000])
async def test_half_a_message_is_forgotten(nats_server: NatsServer, passing: int) -> None:
    """Cut in the control line or in the payload: the next connection starts clean."""
    cutter = Cutter(nats_server.url)
    url = await cutter.start()
    try:
        async with line(url) as mine, publisher(nats_server.url) as other:
            subject = f"halves.{passing}"
            mine.hold(subject)
            await mine.confirmed()
            cutter.cut_after(passing)
            await other.publish(subject, b"x" * 200_000)
            async with asyncio.timeout(DEADLINE):
                await mine.came_up.wait()
            await mine.confirmed()
            await other.publish(subject, b"whole")
            await other.flush()
            assert await mine.next() == (subject, b"whole")
    finally:
        await cutter.stop()
