"""One address without a token, with all its might: the bridge stays small, and others are served.

All attacks at once for a few seconds; with ``HOSTILE_SECONDS`` for so long, and each by itself too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Figure
from tests.support.blocking_peer import UNCHECKED
from tests.support.certificates import self_signed
from tests.support.clients import mint
from tests.support.cores import core_of_its_own
from tests.support.faulty import World
from tests.support.hostile import ATTACKS, upgrade
from tests.support.pulse import Pulse

LONG = "HOSTILE_SECONDS" in os.environ
SECONDS = float(os.environ.get("HOSTILE_SECONDS", "5"))
SCENES = [list(ATTACKS), *([name] for name in ATTACKS if LONG)]
GROWTH = 64.0
"""MB of memory that an attack may cost while it lasts."""
LEFT = 16.0
"""MB of that which the allocator may keep 10 s after."""
BACK = 10.0
SLOWER = 3.0
"""How much longer the events of others may take: the worst hundredth in a long run, half of them in
a short one, where a hundredth is a few events of a machine that others use as well.
"""
NOISE = 3.0 if LONG else 25.0
"""ms that the machine alone may be late."""
PATIENCE = 3.0
"""Seconds that one who has a right to be served may wait for it."""

OVER_TLS = ["half-handshakes", "garbage", "open-and-idle", "churn", "endless-headers"]
"""What is of use before a handshake, or instead of one."""


def memory(pid: int) -> float:
    """The memory of a process that is in RAM, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("it has ended")


def _hurry(*pids: int | None) -> None:
    """Let these go before what else runs on the machine, where that is allowed."""
    for pid in pids:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, pid or 0, -10)


class Visitor:
    """Somebody at another address, who asks for ``/livez`` and comes in with a token."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._port = port
        self._tls = tls
        self.waits: list[float] = []

    async def until(self, done: asyncio.Event) -> None:
        """Come again and again."""
        number = 0
        while not done.is_set() or not self.waits:
            number += 1
            await self._visit(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", b'{"status":"alive"}')
            await self._visit(upgrade(f"/ws/{mint(f'visitor-{number % 9}')}"), b"established")
            await asyncio.sleep(0.05)

    async def _visit(self, asks: bytes, for_: bytes) -> None:
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, local_addr=("127.0.0.3", 0), ssl=self._tls
            )
            writer.write(asks)
            await reader.readuntil(for_)
        self.waits.append(time.monotonic() - began)
        writer.transport.abort()


async def attack(port: int, pid: int, names: list[str], tls: ssl.SSLContext | None) -> str:
    """Have it attacked while somebody else visits; returns what that cost, and checks it."""
    before = most = memory(pid)
    done = asyncio.Event()
    visitor = Visitor(port, tls)
    visits = asyncio.create_task(visitor.until(done))
    hostile = subprocess.Popen(  # noqa: ASYNC220  # it starts at once
        [sys.executable, "-m", "tests.support.hostile", str(port), str(SECONDS), *names],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)),
    )
    try:
        while hostile.poll() is None:
            most = max(most, memory(pid))
            await asyncio.sleep(0.05)
            if visits.done():
                await visits  # somebody was not served
        done.set()
        await visits
        made, _ = hostile.communicate()
    finally:
        hostile.kill()
        hostile.wait()
    began = time.monotonic()
    while memory(pid) - before > LEFT and time.monotonic() - began < BACK:  # noqa: ASYNC110
        await asyncio.sleep(0.1)  # another process has no events
    left = memory(pid) - before
    told = (
        f"+{most - before:.0f} MB, {left:.0f} MB left after {time.monotonic() - began:.1f} s; "
        f"{int(made)} connections; {len(visitor.waits)} visits, {max(visitor.waits):.2f} s at most"
    )
    assert most - before <= GROWTH, told
    assert left <= LEFT, told
    return told


@pytest.fixture(autouse=True)
def _descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs all of 127/8")
@pytest.mark.parametrize("names", SCENES, ids=lambda names: "all" if len(names) > 1 else names[0])
async def test_an_address_that_attacks(world: World, names: list[str], figure: Figure) -> None:
    """Memory grows by 64 MB at most and comes back; events of others are little later; ``/livez``
    and a good token from another address get in, always.
    """
    bridge = await world.start_bridge()
    with (
        Pulse(world.nats.url, bridge.url, world.subjects.prefix) as pulse,
        core_of_its_own(bridge.pid, world.nats.pid, pulse.pid),
    ):
        _hurry(bridge.pid, world.nats.pid, pulse.pid)
        await pulse.lap()
        await asyncio.sleep(2)
        calm = await pulse.lap()
        told = await attack(bridge.port, bridge.pid, names, None)
        busy = await pulse.lap()
    figure(f"{told}; events {calm} calm, {busy} meanwhile")
    assert busy.lost == 0
    before, during = (calm.p99, busy.p99) if LONG else (calm.p50, busy.p50)
    assert during <= max(SLOWER * before, NOISE), (calm, busy)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs all of 127/8")
async def test_an_address_that_attacks_over_tls(
    world: World, figure: Figure, tmp_path: Path
) -> None:
    """The same before a handshake of TLS, and in the middle of one."""
    cert, key = self_signed(tmp_path)
    bridge = await world.start_bridge(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key))
    _hurry(bridge.pid)
    figure(await attack(bridge.port, bridge.pid, OVER_TLS, UNCHECKED))


def test_the_attacker_has_an_address_of_its_own() -> None:
    """Else nothing above would say much."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        with socket.create_connection(place, 5, ("127.0.0.2", 0)), server.accept()[0] as accepted:
            assert accepted.getpeername()[0] == "127.0.0.2"
