"""Users who ask for as much as their limits allow, as a process of its own.

``python -m tests.support.greedy URL ATTACK USERS`` goes on until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from websockets.exceptions import WebSocketException

from tests.support.clients import Client, Clients, mint

ALL: Final = "all"
DEADLINE: Final = 60.0

Attack = Callable[[Clients, str, int], Coroutine[Any, Any, None]]


class Greedy:
    """The process, during a block."""

    def __init__(self, url: str, attack: str, users: int) -> None:
        command = [sys.executable, "-m", "tests.support.greedy", url, attack, str(users)]
        self._process = subprocess.Popen(command)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = self._process.poll()
        self._process.kill()
        self._process.wait()
        assert ended is None, "it came to an end by itself"


async def until(client: Client, kind: str) -> None:
    """Pass over all messages up to the first of this type."""
    while (await client.receive(DEADLINE))["type"] != kind:
        pass


async def listen(client: Client) -> None:
    """Take whatever comes."""
    while True:
        await client.receive(600)


async def churn(clients: Clients, user: str, number: int) -> None:
    """Subscribe to ever other resources of all types, and give them back."""
    client = await clients.join(user)
    for step in range(50):
        events = [f"*.*.u{number}-{step}-{n}" for n in range(85)]
        await client.send("subscribe", {"events": events})
        await client.send("unsubscribe", {"events": events})
    await listen(client)


async def replays(clients: Clients, user: str, number: int) -> None:
    """Have absent and rare resources replayed from the beginning, again and again."""
    client = await clients.join(user)
    beginning = client.established["data"]["cursor"].partition("-")[0] + "-0"
    for step in range(45):
        events = [f"upload.completed.r{2 * (number * 50 + step * 8 + n)}" for n in range(8)]
        events += [f"upload.completed.a{number}-{step}-{n}" for n in range(100)]
        await client.send("subscribe", {"events": events, "cursor": beginning})
        await until(client, "resume.completed")
        await client.send("unsubscribe", {"events": events})
    await listen(client)


async def histories(clients: Clients, user: str, number: int) -> None:
    """Ask for the last thousand of many rare resources."""
    client = await clients.join(user)
    for step in range(45):
        events = [f"upload.completed.r{2 * (number * 100 + step + n)}" for n in range(64)]
        await client.send("subscribe", {"events": events, "history": 1000})
        await until(client, "resume.completed")
        await client.send("unsubscribe", {"events": events})
    await listen(client)


async def pings(clients: Clients, user: str, _: int) -> None:
    """Send as fast as the connection takes it; come back when that was too much."""
    client = await clients.join(user)
    while True:
        for _ in range(100):
            await client.send_raw('{"type":"ping"}')
        await asyncio.sleep(0.001)


async def refreshes(clients: Clients, user: str, number: int) -> None:
    """Hold many patterns, and change the grants behind them with each token."""
    client = await clients.join(user)
    await client.send("subscribe", {"events": [f"*.*.r{number}-{n}" for n in range(85)]})
    for step in range(90):
        many = {"subscribe": {"allow": [f"*.*.r{number}-{n}" for n in range(step % 85)]}}
        await client.send("auth.refresh", {"token": mint(user, grants=many)})
    await listen(client)


async def reconnects(clients: Clients, user: str, number: int) -> None:
    """Connect, subscribe to much, and go without a word."""
    while True:
        client = await clients.join(user)
        await client.send("subscribe", {"events": [f"*.*.c{number}-{n}" for n in range(85)]})
        await client.receive()
        client.socket.transport.abort()
        await asyncio.sleep(0.2)


async def commands(clients: Clients, user: str, _: int) -> None:
    """Ask services that are not there, with patterns and paces beside it."""
    client = await clients.join(user)
    for step in range(45):
        await client.send("upload.cancel", {"upload_id": str(step)})
        policy = {"upload.progress": {"max_rate": 1 + step}, "file.processing": None}
        await client.send("subscribe", {"events": ["upload.*"], "policy": policy})
    await listen(client)


ATTACKS: Final[dict[str, Attack]] = {
    each.__name__: each
    for each in (churn, replays, histories, pings, refreshes, reconnects, commands)
}


async def again(url: str, attack: Attack, number: int) -> None:
    """Be this user, and come back whenever the connection ends."""
    user = f"greedy-{os.getpid()}-{number}"
    while True:
        async with Clients(url) as clients:
            try:
                await attack(clients, user, number)
            except (AssertionError, WebSocketException, OSError, TimeoutError):
                await asyncio.sleep(0.5)


async def run(url: str, name: str, users: int) -> None:
    """All users at once."""
    attacks = list(ATTACKS.values()) if name == ALL else [ATTACKS[name]]
    await asyncio.gather(*(again(url, attacks[n % len(attacks)], n) for n in range(users)))


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
