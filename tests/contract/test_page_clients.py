"""The two complete clients of ``docs/clients.md``, taken from the page as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import pytest

from natsbridge.schemas.subjects import Root
from tests.support.bridge import StartBridge
from tests.support.bus import Bus, to_user, topic
from tests.support.clients import mint, new_user
from tests.support.pages import block
from tests.support.peers import NODE, install_node
from tests.support.proxy import Proxy

DEADLINE: Final = 40.0
SETTINGS: Final = {
    "BRIDGE_HEARTBEAT_INTERVAL": "1",
    "BRIDGE_CONNECTION_TIMEOUT": "30",
    "BRIDGE_RATE_LIMIT_MESSAGES": "100000",
    "BRIDGE_DRAIN_SECONDS": "1",
}

PYTHON: Final = """
import asyncio, json, os, sys
from client import Client, Stopped

def say(**told):
    print(json.dumps(told), flush=True)

async def token(is_new):
    say(token=is_new)
    return os.environ["NEW_TOKEN" if is_new else "TOKEN"]

async def main():
    client = Client(
        os.environ["URL"], token, json.loads(os.environ["EVENTS"]),
        lambda event: say(event=event), lambda message: say(missing=message),
        keepalive=1,
    )
    try:
        await client.run()
    except Stopped as stopped:
        say(stopped=stopped.code)

asyncio.run(main())
"""
JAVASCRIPT: Final = """
import { WebSocket } from "undici";
import { Client } from "./client.mjs";

globalThis.WebSocket = WebSocket;
const say = (told) => console.log(JSON.stringify(told));
new Client({
  url: process.env.URL,
  token: (isNew) => (say({ token: isNew }), process.env[isNew ? "NEW_TOKEN" : "TOKEN"]),
  events: JSON.parse(process.env.EVENTS),
  onEvent: (event) => say({ event }),
  onMissing: (missing) => say({ missing }),
  onState: (state, code) => state === "stopped" && say({ stopped: code }),
}).start();
"""


class Running:
    """A client program while it runs: what it says, line by line."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._news = asyncio.Event()
        self.told: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.told.append(json.loads(line))
            self._news.set()
        self.told.append({"ended": True})
        self._news.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that the program was given so far."""
        return [told["event"] for told in self.told if "event" in told]

    def count(self, what: str) -> int:
        """How many lines of this kind it wrote."""
        return sum(what in told for told in self.told)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what is to become true of what it says."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(self.told[-5:]) from None


Start = Callable[..., Running]


@pytest.fixture(params=["javascript", "python"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Start a client of the page against a URL, as a user, with patterns."""
    if request.param == "python":
        (tmp_path / "client.py").write_text(block("clients", "client.py"))
        (tmp_path / "main.py").write_text(PYTHON)
        command = [sys.executable, str(tmp_path / "main.py")]
    else:
        install_node()
        (tmp_path / "client.mjs").write_text(block("clients", "client.js"))
        (tmp_path / "main.mjs").write_text(JAVASCRIPT)
        (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
        command = ["node", str(tmp_path / "main.mjs")]

    def starting(url: str, user: str, *events: str, lifetime: float = 600) -> Running:
        environment = {
            "PATH": os.environ["PATH"],
            "URL": url,
            "TOKEN": mint(user, lifetime=lifetime),
            "NEW_TOKEN": mint(user),
            "EVENTS": json.dumps(events),
        }
        return Running(command, environment)

    return starting


async def publish(bus: Bus, user: str, numbers: range) -> list[str]:
    """Store events for the user and for a topic in turns, and return their ids in order."""
    return [
        await bus.publish(
            to_user(user, "system.notification")
            if number % 2
            else topic("review.updated", str(number % 3)),
            root=Root.EVENTS,
        )
        for number in numbers
    ]


async def knock(bus: Bus, client: Running) -> None:
    """Publish to the topic until one of these comes: then the client is subscribed."""
    heard = asyncio.create_task(
        client.until(lambda: any(event["type"] == "review.deleted" for event in client.events))
    )
    while not heard.done():
        await bus.publish(topic("review.deleted", "1"), root=Root.EVENTS)
        await asyncio.wait([heard], timeout=0.3)
    await heard


async def arrived(client: Running, ids: list[str]) -> None:
    """Wait until all of these have come, and check that each came once."""
    wanted = set(ids)
    await client.until(lambda: {event["id"] for event in client.events} >= wanted)
    came = [event["id"] for event in client.events if event["id"] in wanted]
    assert sorted(came) == sorted(ids)


async def test_everything_comes_once_through_faults(
    start: Start, start_bridge: StartBridge
) -> None:
    """Resets, a SIGKILL and a stop of the bridge lose and double no durable event."""
    bridge = start_bridge(**SETTINGS)
    same = {name: bridge.settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")}
    user = new_user()
    async with Bus(bridge) as bus:
        with Proxy(bridge.ws_url) as proxy:
            async with start(f"{proxy.url}/ws", user, "review.*") as client:
                await knock(bus, client)
                ids: list[str] = []
                for _ in range(3):
                    proxy.cut()
                    ids += await publish(bus, user, range(20))
                await arrived(client, ids)
                second = start_bridge(**SETTINGS, **same)
                await asyncio.to_thread(bridge.kill)
                proxy.retarget(second.ws_url)
                ids += await publish(bus, user, range(20))
                await arrived(client, ids)
                third = start_bridge(**SETTINGS, **same)
                proxy.retarget(third.ws_url)
                second.terminate()
                ids += await publish(bus, user, range(20))
                await asyncio.to_thread(second.wait)
                ids += await publish(bus, user, range(20))
                await arrived(client, ids)
                assert client.count("missing") == 0


async def test_a_dead_connection_is_given_up(start: Start, start_bridge: StartBridge) -> None:
    """A network that swallows everything is noticed, and nothing of that time is lost."""
    bridge = start_bridge(**SETTINGS)
    user = new_user()
    async with Bus(bridge) as bus:
        with Proxy(bridge.ws_url) as proxy:
            async with start(f"{proxy.url}/ws", user, "review.*") as client:
                await knock(bus, client)
                before = client.count("token")
                proxy.swallow()
                ids = await publish(bus, user, range(10))
                # Another connection is tried although no end of the first one was ever seen.
                await client.until(lambda: client.count("token") > before)
                proxy.cut()
                proxy.heal()
                await arrived(client, ids)


async def test_tokens_are_renewed(start: Start, start_bridge: StartBridge) -> None:
    """A token that is about to end is refreshed on the connection."""
    bridge = start_bridge(**SETTINGS)
    user = new_user()
    async with (
        Bus(bridge) as bus,
        start(f"{bridge.ws_url}/ws", user, "review.*", lifetime=20) as client,
    ):
        await client.until(lambda: {"token": True} in client.told)
        await knock(bus, client)
        await arrived(client, await publish(bus, user, range(3)))
        assert client.count("token") == 2


async def test_an_expired_token_is_replaced(start: Start, start_bridge: StartBridge) -> None:
    """After 4001 the client comes back with another token."""
    bridge = start_bridge(**SETTINGS)
    user = new_user()
    async with (
        Bus(bridge) as bus,
        start(f"{bridge.ws_url}/ws", user, "review.*", lifetime=-5) as client,
    ):
        await client.until(lambda: {"token": True} in client.told)
        await knock(bus, client)
        assert [told["token"] for told in client.told if "token" in told] == [False, True]


async def test_one_that_was_replaced_stops(start: Start, start_bridge: StartBridge) -> None:
    """After 4502 the client does not take the place back by itself."""
    bridge = start_bridge(**SETTINGS, BRIDGE_MAX_CONNECTIONS_PER_USER="1")
    user = new_user()
    async with Bus(bridge) as bus, start(f"{bridge.ws_url}/ws", user, "review.*") as first:
        await knock(bus, first)
        async with start(f"{bridge.ws_url}/ws", user, "review.*") as second:
            await first.until(lambda: {"stopped": 4502} in first.told)
            await knock(bus, second)
            await arrived(second, await publish(bus, user, range(3)))
            assert first.count("token") == 1
