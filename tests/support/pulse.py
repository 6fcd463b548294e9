"""Live traffic of somebody else, measured in a process of its own.

``python -m tests.support.pulse NATS_URL BRIDGE_URL PREFIX`` sends an ephemeral event to a user
every few milliseconds and receives it over WebSocket, and straight from NATS too: what both ways
have in common is the machine's doing, not the bridge's. For each line on its standard input it
prints the latencies since the last one as JSON. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import nats
from nats.aio.msg import Msg

from natsbridge.schemas.subjects import Root, Subjects
from tests.support.bus import envelope, to_user
from tests.support.clients import mint
from tests.support.lean import PING, TEXT, LeanClient, masked

USER: Final = "pulse"
INTERVAL: Final = 0.005
LAP_DEADLINE: Final = 20.0


@dataclass(frozen=True)
class Lap:
    """Latencies in milliseconds, and how many events they are of; ``lost`` did not come.

    ``straight`` is the p99 of the same events from NATS.
    """

    count: int
    lost: int
    p50: float
    p99: float
    worst: float
    straight: float

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:.2f} p99 {self.p99:.2f} worst {self.worst:.1f} ms,"
            f" straight from NATS p99 {self.straight:.2f} ({self.count})"
        )


def quantile(values: list[float], share: float) -> float:
    """The value below which this share lies, 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Pulse:
    """The process, from the side of the test that asks for laps; a context manager."""

    def __init__(self, nats_url: str, bridge_url: str, prefix: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.pulse", nats_url, bridge_url, prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    async def lap(self) -> Lap:
        """Return what was measured since the last lap, or since the start."""
        return await asyncio.wait_for(asyncio.to_thread(self._lap), LAP_DEADLINE)

    def _lap(self) -> Lap:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("lap\n")
        self._process.stdin.flush()
        return Lap(**json.loads(self._process.stdout.readline()))


async def run(nats_url: str, bridge_url: str, prefix: str) -> None:
    """Send, receive and tell, until the input ends."""
    sent: dict[str, float] = {}
    latencies: list[float] = []
    straight: list[float] = []
    established = asyncio.Event()

    def on_frame(opcode: int, payload: bytes) -> None:
        if opcode == PING:
            client.transport.write(masked(0xA, payload))
        elif opcode == TEXT:
            message = json.loads(payload)
            if message["type"] == "connection.established":
                established.set()
            elif (began := sent.pop(message["id"], None)) is not None:
                latencies.append((time.perf_counter() - began) * 1000)

    async def on_message(message: Msg) -> None:
        began = json.loads(message.data)["began"]
        straight.append((time.perf_counter() - began) * 1000)

    connection = await nats.connect(nats_url)
    receiver = await nats.connect(nats_url)
    client = await LeanClient.connect(bridge_url, f"/ws/{mint(USER, lifetime=7200)}", on_frame)
    await established.wait()
    address = to_user(USER, "user.status_changed", USER)
    subject = Subjects(prefix).event(Root.SERVICE, address)
    await receiver.subscribe(subject, cb=on_message)
    await receiver.flush()
    ended, laps = asyncio.Event(), asyncio.Queue[None]()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(laps.put_nowait, None)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    while not ended.is_set():
        event: dict[str, Any] = envelope(address)
        event["began"] = sent[event["id"]] = time.perf_counter()
        await connection.publish(subject, json.dumps(event).encode())
        await asyncio.sleep(INTERVAL)
        if not laps.empty():
            laps.get_nowait()
            for _ in range(100):
                if not sent:
                    break
                await asyncio.sleep(INTERVAL)
            shares = [round(quantile(latencies, share), 3) for share in (0.5, 0.99, 1.0)]
            shares.append(round(quantile(straight, 0.99), 3))
            lap = dict(zip(("p50", "p99", "worst", "straight"), shares, strict=True))
            print(json.dumps({"count": len(latencies), "lost": len(sent), **lap}), flush=True)  # noqa: T201  # what it is for
            sent.clear()
            latencies.clear()
            straight.clear()
    client.transport.abort()
    await receiver.close()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
