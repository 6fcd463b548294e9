"""Users with good tokens who ask for as much as they may: what it costs NATS, and others."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from natsbridge.schemas.subjects import Root
from tests.faults.conftest import Figure
from tests.support.bridge import finish
from tests.support.clients import Client, Clients, Message
from tests.support.greedy import ALL, ATTACKS, Greedy
from tests.support.nats_server import EmbeddedNats
from tests.support.stalls import TimedBridge

STORED: Final = 200_000
RARE: Final = 20_000
"""Events in the stream, and of how many resources they are."""
USERS: Final = 20
UNITS: Final = 8192
MOST_CPU: Final = 1.0
"""Seconds of nats-server's CPU that any one message may cost."""
MOST_STALL: Final = 0.05
"""Seconds of CPU that an iteration of the bridge's loop may take."""
SLOWLY: Final = 120_000
"""Events that are read slowly."""
MOST_EACH: Final = 15e-6
"""Seconds of nats-server's CPU that each may cost: it takes 7 to read one, and 2 to send it."""
BUSY: Final = 2.0
"""How much more CPU time the same takes on a machine whose cores are shared by many."""
TURBULENCE: Final = 8.0
"""Seconds for which all users do what they can."""

EVERYTHING = ["upload.*", "review.*"]
ABSENT = [f"upload.completed.absent{n}" for n in range(16)]
MANY_ABSENT = [f"*.*.absent{n}" for n in range(85)]
FEW_RARE = [f"upload.completed.r{2 * n}" for n in range(12)]
RARE_ONES = [f"upload.completed.r{2 * n}" for n in range(64)]
MANY_RARE = [f"upload.completed.r{2 * n}" for n in range(128)]
MIXED = [f"*.*.r{n}" for n in range(60)]


def fill(url: str, root: str) -> None:
    """Publish to the stream without waiting for acknowledgements; return when NATS has read it."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), 30) as connection:
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        for start in range(0, STORED, 2000):
            lines = []
            for number in range(start, start + 2000):
                kind = ("upload.completed", "review.updated")[number % 2]
                event = {
                    "type": kind,
                    "id": f"e{number}",
                    "timestamp": "2026-01-01T00:00:00Z",
                    "data": {
                        "upload_id": f"r{number % RARE}",
                        "review_id": f"r{number % RARE}",
                        "result": {},
                        "changes": {},
                    },
                }
                text = json.dumps(event)
                lines.append(f"PUB {root}.topic.{kind}.r{number % RARE} {len(text)}\r\n{text}\r\n")
            connection.sendall("".join(lines).encode())
        connection.sendall(b"PING\r\n")
        answer = b""
        while b"PONG" not in answer:
            answer = answer[-16:] + connection.recv(65536)


class Scene:
    """A bridge, its NATS with a large stream, and what both have cost."""

    def __init__(self, server: EmbeddedNats, bridge: TimedBridge) -> None:
        self.server = server
        self.bridge = bridge

    @property
    def cpu(self) -> float:
        """Seconds of CPU that nats-server has taken."""
        text = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(text[11]) + int(text[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def subscriptions(self) -> int:
        """How many subscriptions the bridge has at NATS."""
        answer = httpx.get(f"{self.server.monitor_url}/connz", timeout=10, trust_env=False)
        found = [each for each in answer.json()["connections"] if "bridge-" in each.get("name", "")]
        return sum(each["subscriptions"] for each in found)

    async def quiet(self) -> None:
        """Return when nats-server has nothing to do: what is stored is looked through later."""
        before = -1.0
        while self.cpu - before > 0.02:
            before = self.cpu
            await asyncio.sleep(0.5)


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """All of it, filled; its parameter is more settings."""
    if request.config.getoption("--nats") == "container":
        pytest.skip("the CPU time of a container's process is not read here")
    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    try:
        settings = {"BRIDGE_LOG_LEVEL": "info", **getattr(request, "param", {})}
        bridge = TimedBridge(server.url, settings)
        bridge.wait_ready()
        fill(server.url, bridge.subjects.root(Root.EVENTS))
        yield Scene(server, bridge)
        finish([bridge])
    finally:
        server.close()


async def until_over(client: Client, kind: str, deadline: float = 60.0) -> Message:
    """Return the first message of this type, passing over all before it."""
    while (message := await client.receive(deadline))["type"] != kind:
        pass
    return message


@asynccontextmanager
async def joined(clients: Clients) -> AsyncIterator[tuple[Client, str]]:
    """A client, and the cursor of the stream's beginning."""
    client = await clients.join()
    stream = client.established["data"]["cursor"].partition("-")[0]
    yield client, f"{stream}-0"
    await client.socket.close()


@pytest.mark.timeout(240)
async def test_one_message(scene: Scene, figure: Figure) -> None:
    """No message of one user, with a cursor of the stream's beginning or a history, for resources
    that are absent, rare or all there are, costs nats-server over a second of its CPU; each is
    answered, and what is there of rare ones comes.
    """
    asked: dict[str, tuple[dict[str, Any], int | None]] = {
        "16 absent": ({"events": ABSENT, "cursor": ""}, 0),
        "85 x absent of any type": ({"events": MANY_ABSENT, "cursor": ""}, 0),
        "12 rare": ({"events": FEW_RARE, "cursor": ""}, 12 * STORED // RARE),
        "64 rare": ({"events": RARE_ONES, "cursor": ""}, 64 * STORED // RARE),
        "60 of any type": ({"events": MIXED, "cursor": ""}, 60 * STORED // RARE),
        "history of 64 rare": ({"events": RARE_ONES, "history": 1000}, 64 * STORED // RARE),
        "history of 85 absent": ({"events": MANY_ABSENT, "history": 1000}, 0),
        "history of a type": ({"events": ["review.*"], "history": 1000}, 1000),
    }
    async with Clients(scene.bridge.url) as clients:
        await scene.quiet()
        for name, (data, expected) in asked.items():
            async with joined(clients) as (client, beginning):
                data = {**data, "cursor": beginning} if "cursor" in data else data
                before = scene.cpu
                await client.send("subscribe", data)
                end = await until_over(client, "resume.completed")
                await client.ping()
                spent = scene.cpu - before
                figure(f"{name}: {spent:.2f} s of nats-server's CPU")
                assert spent <= BUSY * MOST_CPU, name
                assert end["data"]["recovered"], end
                assert end["data"]["replayed"] == expected, name


@pytest.mark.timeout(240)
async def test_one_message_for_more_than_its_budget(scene: Scene, figure: Figure) -> None:
    """So many rare resources that reading them all costs more than the budget allows: nats-server
    does a part of it, and then no more than is given back by time.
    """
    async with Clients(scene.bridge.url) as clients:
        await scene.quiet()
        async with joined(clients) as (client, beginning):
            before, began = scene.cpu, time.monotonic()
            await client.send("subscribe", {"events": MANY_RARE, "cursor": beginning})
            await client.expect("subscription.acknowledged")
            last = 0
            with suppress(AssertionError):
                while message := await client.receive(3.0):
                    last = int(message["cursor"].rpartition("-")[2])
                    if time.monotonic() - began > 30:
                        break
            spent, passed = scene.cpu - before, time.monotonic() - began
        figure(f"{spent:.2f} s of nats-server's CPU in {passed:.0f} s, up to event {last}")
        assert spent <= BUSY * MOST_CPU
        assert STORED / 5 < last < STORED


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scene", [{"BRIDGE_REPLAY_MESSAGES": "20000"}], indirect=True)
async def test_everything_waits_for_its_budget(scene: Scene) -> None:
    """Who asks for all of a stream that is larger than the budget gets that much as fast as it
    reads, and the rest as time passes; meanwhile another resumes at once.
    """
    async with Clients(scene.bridge.url) as clients:
        await scene.quiet()
        async with joined(clients) as (client, beginning):
            began = time.monotonic()
            await client.send("subscribe", {"events": EVERYTHING, "cursor": beginning})
            await client.expect("subscription.acknowledged")
            for count in range(1, 25_000):
                assert (await client.receive(30.0)).get("cursor")
                assert count <= 21_000 + 20_000 / 60 * (time.monotonic() - began)
            assert await resume(clients, beginning.replace("-0", f"-{STORED - 100}")) < 2.0
            assert (await client.receive(30.0)).get("cursor"), "it goes on"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scene", [{"BRIDGE_REPLAY_MESSAGES": "1000000"}], indirect=True)
async def test_a_slow_reader_is_read_for_once(scene: Scene, figure: Figure) -> None:
    """However often a replay pauses for its client, nats-server reads each stored event once."""
    async with Clients(scene.bridge.url) as clients:
        await scene.quiet()
        async with joined(clients) as (client, beginning):
            before = scene.cpu
            await client.send("subscribe", {"events": EVERYTHING, "cursor": beginning})
            await client.expect("subscription.acknowledged")
            for count in range(SLOWLY):
                assert (await client.receive(30.0)).get("cursor")
                if count % 1000 == 0:
                    await asyncio.sleep(0.05)
            each = (scene.cpu - before) / SLOWLY
        figure(f"{1e6 * each:.1f} µs of nats-server's CPU for each event")
        assert each <= BUSY * MOST_EACH


async def resume(clients: Clients, cursor: str) -> float:
    """Return how long a new user takes to resume from here, in seconds."""
    began = time.perf_counter()
    client = await clients.join(query={"cursor": cursor})
    await until_over(client, "resume.completed")
    took = time.perf_counter() - began
    await client.socket.close()
    return took


@pytest.mark.timeout(240)
@pytest.mark.parametrize("attack", [ALL, *ATTACKS])
async def test_twenty_users(scene: Scene, figure: Figure, attack: str) -> None:
    """Twenty users within their limits, each kind by itself and all kinds beside each other: no
    iteration of the bridge's loop takes long, what the bridge has at NATS is what their units
    allow, and another's resume is quick.
    """
    async with Clients(scene.bridge.url) as clients:
        await scene.quiet()
        reader = await clients.join()
        cursor = reader.established["data"]["cursor"]
        alone = sorted([await resume(clients, cursor) for _ in range(10)])
        before, spent = len(scene.bridge.stalls), scene.cpu
        with Greedy(scene.bridge.url, attack, USERS):
            ends, beside, most = time.monotonic() + TURBULENCE, list[float](), 0
            while time.monotonic() < ends:
                beside.append(await resume(clients, cursor))
                most = max(most, await asyncio.to_thread(lambda: scene.subscriptions))
        await reader.ping()
        spent = scene.cpu - spent
    stalls = scene.bridge.stalls[before:]
    beside.sort()
    figure(
        f"longest iteration {1000 * max(stalls, default=0):.0f} ms of CPU, {len(stalls)} over 20;"
        f" {most} subscriptions; nats-server {spent:.1f} s; resume {1000 * alone[5]:.0f} ms alone,"
        f" beside them {1000 * beside[len(beside) // 2]:.0f}, at worst {1000 * beside[-1]:.0f}"
    )
    assert max(stalls, default=0.0) <= BUSY * MOST_STALL
    assert most <= USERS * UNITS
    assert beside[len(beside) // 2] < 2.0
