"""A rolling deploy behind nginx and behind HAProxy, with the examples that ``deploy/`` has."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect

from natsbridge.schemas import codes
from tests.faults.conftest import Figure
from tests.support.blocking_peer import UNCHECKED
from tests.support.bridge import NEVER
from tests.support.clients import mint
from tests.support.faulty import USERS, FaultyBridge, World, eventually
from tests.support.fleet import mixed_wishes
from tests.support.front import Front, HaProxy, Nginx, program
from tests.support.nats_server import free_port

EVENTS: Final = 200
CLIENTS: Final = 99
SETTLE: Final = 20.0
SETTINGS: Final = {
    "BRIDGE_TRUSTED_PROXIES": "127.0.0.1",
    "BRIDGE_DRAIN_SECONDS": "2",
    "BRIDGE_TICKET_TTL": "120",
}


@pytest.fixture(params=[Nginx, HaProxy], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Front]:
    """Each of the proxies that this machine has."""
    found: type[Front] = request.param
    if program(found.name) is None:
        pytest.skip(f"{found.name} is not installed here")
    return found


class Knocker:
    """New clients, one after the other, with their tokens in the path; what each was answered."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self.answers: Counter[str] = Counter()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Come no more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self.answers[await self._once()] += 1
            await asyncio.sleep(0.02)

    async def _once(self) -> str:
        token = mint("knocker")
        request = (
            f"GET /ws/{token} HTTP/1.1\r\nHost: {self._place.netloc}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Origin: https://{self._place.netloc}\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(
                    self._place.hostname, self._place.port, ssl=UNCHECKED
                )
                writer.write(request.encode())
                status = await reader.readline()
                if b" 101 " in status:
                    await reader.readuntil(b"\r\n\r\n")
                    frame = await reader.readexactly(2)
                    status += b"and a close frame" if frame[0] == 0x88 else b""
                writer.write(b"\x88\x80" + bytes(4))
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ssl.SSLError) as problem:
            return repr(problem)
        return status.decode().strip()


async def start(world: World, port: int) -> FaultyBridge:
    """Start a replica at this port."""
    return await world.start_bridge(**SETTINGS, BRIDGE_PORT=str(port))


async def is_used(bridge: FaultyBridge) -> bool:
    """Whether clients come to this replica."""
    return bool(await bridge.gauge("connections_established_total"))


async def ask_for_ticket(front: Front) -> str:
    """Fetch a ticket by way of the proxy."""
    headers = {"Authorization": f"Bearer {mint('late')}"}
    async with httpx.AsyncClient(verify=UNCHECKED, trust_env=False, headers=headers) as client:
        answer = await client.post(f"{front.url}/ws/tickets")
    ticket: str = answer.json()["data"]["ticket"]
    return ticket


async def use(ticket: str, front: Front) -> None:
    """Connect with a ticket that a replica issued which is gone."""
    url = front.url.replace("http", "ws", 1)
    async with connect(f"{url}/ws?ticket={ticket}", ssl=UNCHECKED, proxy=None) as socket:
        assert json.loads(await socket.recv())["data"]["user_id"] == "late"


async def test_rolling_deploy(
    world: World, kind: type[Front], tmp_path: Path, repetition: int, figure: Figure
) -> None:
    """Both replicas are replaced, one after the other, beside a hundred clients and new ones.

    No durable event is lost or doubled, nobody is told not to come back, no client that comes
    meets anything but its upgrade, a ticket from before is good after it, and neither token nor
    ticket is in the proxy's log.
    """
    ports = [free_port(), free_port()]

    bridges = {port: await start(world, port) for port in ports}
    with kind(tmp_path, ports) as front:
        wishes = mixed_wishes(USERS) * (CLIENTS // 9)
        async with world.fleet([front], wishes, seed=repetition) as fleet:
            ticket = await ask_for_ticket(front)
            knocker = Knocker(front.url)
            async with world.publishing() as publisher:
                await publisher.more(EVENTS)
                for port in ports:
                    bridges[port].terminate()
                    await publisher.more(EVENTS)
                    assert await asyncio.to_thread(bridges[port].wait) == 0
                    await publisher.more(EVENTS)
                    bridges[port] = await start(world, port)
                    # As a deployment waits a little before it takes the next one.
                    await eventually(partial(is_used, bridges[port]), "taken in again", 10)
                await publisher.finish()
            await fleet.settled(SETTLE)
            await knocker.stop()
            await use(ticket, front)
            fleet.check()
            closes = Counter(code for client in fleet.clients for code in client.closes)
            failures = Counter[str]()
            for client in fleet.clients:
                failures += client.failures
            assert set(closes) == {codes.GOING_AWAY.code}, closes
            assert not failures, failures
            assert set(knocker.answers) == {"HTTP/1.1 101 Switching Protocols"}, knocker.answers
            figure(f"{kind.name}: {closes.total()} moves, {knocker.answers.total()} new clients")
        assert "GET /ws/-" in front.log
        assert not NEVER.search(front.log), front.log
        assert ticket not in front.log
