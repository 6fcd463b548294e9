"""A connection's and a process's life: heartbeats, silence, the drain, a broker that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import httpx

from natsbridge.schemas import codes
from tests.support.bridge import STOP_DEADLINE, StartBridge
from tests.support.bus import Bus, everyone, to_user, topic
from tests.support.clients import Client, Clients, http, mint, new_user
from tests.support.lean import CLOSE, PING, TEXT, LeanClient
from tests.support.nats_server import NatsServer

SHORT = {"BRIDGE_HEARTBEAT_INTERVAL": "0.2", "BRIDGE_CONNECTION_TIMEOUT": "0.8"}


async def eventually(what: Callable[[], Awaitable[bool]], deadline: float = 10) -> None:
    """Ask until the answer is yes; fail where it is not in time."""
    async with asyncio.timeout(deadline):
        while not await what():  # noqa: ASYNC110  # another process: there is no event to await
            await asyncio.sleep(0.05)


class Frames:
    """What a client that answers nothing by itself hears, and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.closed = asyncio.Event()

    def __call__(self, opcode: int, payload: bytes) -> None:
        self.heard.append((opcode, payload))
        if opcode == CLOSE:
            self.closed.set()

    async def until_closed(self, deadline: float) -> bool:
        """Whether the close came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self.closed.wait()
        return self.closed.is_set()


async def test_silence_and_signs_of_life(start_bridge: StartBridge) -> None:
    """The bridge pings. Pongs alone keep a connection, and so do messages; silence ends in 4000."""
    bridge = start_bridge(**SHORT)
    silent, talking = Frames(), Frames()
    async with Clients(bridge.url) as clients:
        alive = await clients.join()
        rude = [
            await LeanClient.connect(bridge.url, f"/ws/{mint(new_user())}", frames)
            for frames in (silent, talking)
        ]
        try:
            connected = time.monotonic()
            # Time is what is tested: twice the timeout.
            while time.monotonic() < connected + 1.6:
                rude[1].send({"type": "heartbeat"})
                assert not await talking.until_closed(0.2)
                if silent.closed.is_set():
                    assert time.monotonic() > connected + 0.6
            assert await silent.until_closed(3)
            assert await talking.until_closed(5)
            await alive.ping()
        finally:
            for client in rude:
                client.transport.abort()
    for frames in (silent, talking):
        opcode, payload = frames.heard[-1]
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") == codes.HEARTBEAT_TIMEOUT.code
        assert payload[2:].decode() == codes.HEARTBEAT_TIMEOUT.name
        assert [each[0] for each in frames.heard].count(PING) >= 2
        assert {each[0] for each in frames.heard} == {TEXT, PING, CLOSE}


async def readiness(client: httpx.AsyncClient) -> int:
    """Return what ``/readyz`` says."""
    return (await client.get("/readyz")).status_code


async def test_drain(start_bridge: StartBridge) -> None:
    """SIGTERM: not ready, each client is told when to come back, then 1001; exit 0 in time."""
    bridge = start_bridge(BRIDGE_DRAIN_SECONDS="2")
    async with Clients(bridge.url) as clients, http(bridge.url) as probe:
        crowd = [await clients.join() for _ in range(20)]
        assert await readiness(probe) == 200
        before = time.monotonic()
        bridge.terminate()

        async def leave(client: Client) -> float:
            message = await client.expect("connection.draining", STOP_DEADLINE)
            assert message["data"]["reconnect_after_ms"] >= 0
            await client.expect_close(codes.GOING_AWAY, STOP_DEADLINE)
            return time.monotonic() - before

        leaving = asyncio.gather(*map(leave, crowd))
        await eventually(lambda: is_not_ready(probe), 2)
        gone = await leaving
        assert await asyncio.to_thread(bridge.wait) == 0
        assert time.monotonic() - before < 10
        assert max(gone) - min(gone) > 0.5, "they are sent away spread over the time set"


async def is_not_ready(probe: httpx.AsyncClient) -> bool:
    """Whether the bridge says that it wants no more clients, while it still answers."""
    return await readiness(probe) == 503


async def test_drain_does_not_wait_for_ever(start_bridge: StartBridge) -> None:
    """Clients that don't answer the close, and ones that never authenticated, hold up no exit."""
    bridge = start_bridge(BRIDGE_DRAIN_SECONDS="0.2")
    frames: list[int] = []
    rude = [
        await LeanClient.connect(bridge.url, path, lambda opcode, _: frames.append(opcode))
        for path in (f"/ws/{mint(new_user())}", "/ws")
    ]
    try:
        _, unfinished = await asyncio.open_connection("127.0.0.1", bridge.port)
        unfinished.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        await unfinished.drain()
        bridge.terminate()
        assert await asyncio.to_thread(bridge.wait) == 0
        assert CLOSE in frames
        unfinished.close()
    finally:
        for client in rude:
            client.transport.abort()


async def test_idle_stop_is_quick(start_bridge: StartBridge) -> None:
    """Without clients there is nothing to wait for."""
    bridge = start_bridge(BRIDGE_DRAIN_SECONDS="10")
    before = time.monotonic()
    bridge.terminate()
    assert await asyncio.to_thread(bridge.wait) == 0
    assert time.monotonic() - before < 5


async def test_what_other_replicas_were_not_asked_is_not_said_to_be_done(
    own_nats_server: NatsServer, start_bridge: StartBridge
) -> None:
    """While NATS is away a revocation holds on this replica alone, and a connection may be that of
    another one: 503.
    """
    bridge = start_bridge(own_nats_server.url)
    admin = mint("admin", role="admin")
    async with Clients(bridge.url) as clients, http(bridge.url, admin) as client:
        revoked = await clients.join()
        await asyncio.to_thread(own_nats_server.stop, kill=True)
        deadline = time.monotonic() + 10
        while (await client.get("/readyz")).status_code == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        answer = await client.get("/ws/connections/unknown")
        assert answer.status_code == 503, answer.text
        answer = await client.delete("/ws/connections/unknown")
        assert answer.status_code == 503, answer.text
        path = f"/ws/users/{revoked.user}/disconnect"
        answer = await client.post(path, json={"revoke": True})
        assert answer.status_code == 503, answer.text
        assert "no other was asked" in answer.json()["detail"]
        await revoked.expect_close(codes.REVOKED)


async def test_frozen_nats(own_nats_server: NatsServer, start_bridge: StartBridge) -> None:
    """A broker that holds its connections and answers nothing is not taken for a good one."""
    bridge = start_bridge(own_nats_server.url, BRIDGE_NATS_TIMEOUT="1")
    async with Clients(bridge.url) as clients, http(bridge.url) as probe:
        client = await clients.join()
        await asyncio.to_thread(own_nats_server.pause)
        try:
            await eventually(lambda: is_not_ready(probe))
            await client.ping()
        finally:
            await asyncio.to_thread(own_nats_server.resume)


async def test_nats_restart(own_nats_server: NatsServer, start_bridge: StartBridge) -> None:
    """Without the broker the bridge is alive and not ready; after it all that clients held works.

    ``/readyz`` is a round trip to NATS, ``/livez`` asks nobody, and clients stay connected.
    """
    bridge = start_bridge(own_nats_server.url)
    async with Clients(bridge.url) as clients, http(bridge.url) as probe:
        client = await clients.join()
        await client.subscribe("review.updated", "upload.*")
        await client.unsubscribe("upload.*")
        await asyncio.to_thread(own_nats_server.stop)
        await eventually(lambda: is_not_ready(probe))
        assert (await probe.get("/livez")).status_code == 200
        await client.ping()
        await asyncio.to_thread(own_nats_server.start)

        async def is_ready() -> bool:
            return await readiness(probe) == 200

        await eventually(is_ready, 20)
        newcomer = await clients.join()
        await newcomer.subscribe("review.updated.77")
        async with Bus(bridge) as bus:
            await bus.publish(topic("upload.progress", "1"))
            for address in (topic("review.updated", "77"), everyone("system.notification")):
                event = await bus.publish(address)
                for each in (client, newcomer):
                    await each.expect_event(event)
            own = await bus.publish(to_user(client.user, "upload.progress", "1"))
            await client.expect_event(own)
            await newcomer.ping()


async def test_stop_without_nats(own_nats_server: NatsServer, start_bridge: StartBridge) -> None:
    """The stop is in order even when the broker is gone."""
    bridge = start_bridge(own_nats_server.url)
    async with Clients(bridge.url) as clients, http(bridge.url) as probe:
        client = await clients.join()
        await asyncio.to_thread(own_nats_server.stop)
        await eventually(lambda: is_not_ready(probe))
        bridge.terminate()
        await client.expect("connection.draining", 10)
        await client.expect_close(codes.GOING_AWAY, 10)
        assert await asyncio.to_thread(bridge.wait) == 0


async def test_broker_without_jetstream(
    plain_nats_server: NatsServer, start_bridge: StartBridge
) -> None:
    """Without JetStream the bridge delivers what comes straight to ``live.…``, without cursors."""
    bridge = start_bridge(plain_nats_server.url)
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        event = await bus.publish(to_user(client.user, "upload.completed", "1"))
        assert "cursor" not in await client.expect_event(event)
