"""A place in which things break: a broker, bridges on one stream, and signals to all of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, Protocol
from uuid import uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families

from natsbridge.schemas.subjects import Subjects
from tests.support.accounting import Ledger
from tests.support.bridge import BridgeProcess, finish
from tests.support.clients import http, mint
from tests.support.fleet import Fleet, mixed_wishes
from tests.support.model import Wish
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy
from tests.support.resuming_client import OnMessage
from tests.support.steady_publisher import Addresses, Plain, SteadyPublisher, Way, mixed

USERS: Final = ("ann", "bob.b@example.com", "cy")


class FaultyBridge(BridgeProcess):
    """A bridge that may be killed, frozen and weighed."""

    @property
    def pid(self) -> int:
        """The number of the process, while it runs."""
        assert self.returncode is None, self.output
        return self._process.pid

    def freeze(self) -> None:
        """Stop the whole process, as a blocked event loop would."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def memory(self) -> int:
        """Its resident memory in KiB."""
        if sys.platform == "linux":
            with open(f"/proc/{self.pid}/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
        answer = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, check=True
        )
        return int(answer.stdout)

    async def ready_checks(self) -> dict[str, Any]:
        """What ``/readyz`` says, whatever its status."""
        async with http(self.url) as client:
            checks: dict[str, Any] = (await client.get("/readyz")).json()["checks"]
        return checks

    async def gauge(self, name: str) -> float:
        """One number of ``/metrics`` that has no labels, by its name without ``bridge_``."""
        async with http(self.url, mint("admin", role="admin")) as client:
            text = (await client.get("/metrics")).text
        [value] = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"bridge_{name}"
        ]
        return float(value)

    async def stats(self) -> dict[str, Any]:
        """What ``/ws/stats`` tells an admin."""
        async with http(self.url, mint("admin", role="admin")) as client:
            data: dict[str, Any] = (await client.get("/ws/stats")).json()["data"]
        return data


class Reachable(Protocol):
    """A bridge, wherever it runs, or a way to one."""

    @property
    def url(self) -> str: ...


class World:
    """One broker, and bridges that share its stream and subjects."""

    def __init__(self, nats: NatsServer) -> None:
        name = uuid4().hex[:12]
        self.nats = nats
        self.nats_url = nats.url
        """The way to the broker past all proxies."""
        self.stream = f"F{name}"
        self.subjects = Subjects(f"f{name}")
        self.ledger = Ledger()
        self.bridges: list[FaultyBridge] = []
        self._proxies = ExitStack()

    @property
    def shared(self) -> dict[str, str]:
        """The settings that every bridge of this place has."""
        return {
            "BRIDGE_SUBJECT_PREFIX": self.subjects.prefix,
            "BRIDGE_STREAM": self.stream,
            # To come back often is no fault here.
            "BRIDGE_RATE_LIMIT_MESSAGES": "100000",
            "BRIDGE_REPLAY_MESSAGES": "10000000",
            # A connection that broke counts until the bridge has seen that.
            "BRIDGE_MAX_CONNECTIONS_PER_USER": "100",
        }

    def proxy(self) -> Proxy:
        """Return a proxy in front of the broker, which goes when the bridges have ended."""
        return self._proxies.enter_context(Proxy(self.nats.url))

    async def start_bridge(self, nats_url: str | None = None, **settings: str) -> FaultyBridge:
        """Start one more bridge, ready when this returns; by way of a proxy where a URL says so."""
        bridge = FaultyBridge(nats_url or self.nats.url, {**self.shared, **settings})
        self.bridges.append(bridge)
        await asyncio.to_thread(bridge.wait_ready)
        return bridge

    def publishing(
        self, *, way: Way | None = None, addresses: Addresses | None = None, **options: Any
    ) -> SteadyPublisher:
        """Return a publisher of mixed durable events, which goes on inside its block."""
        return SteadyPublisher(
            way or Plain(self.nats.url),
            self.subjects,
            self.ledger,
            addresses or mixed(USERS),
            **options,
        )

    def fleet(
        self,
        bridges: Sequence[Reachable],
        wishes: Sequence[Wish] | None = None,
        *,
        on_message: OnMessage | None = None,
        seed: int = 0,
    ) -> Fleet:
        """Return clients of these bridges: one of each kind unless wishes are given."""
        return Fleet(
            [bridge.url for bridge in bridges],
            mixed_wishes(USERS) if wishes is None else wishes,
            self.ledger,
            on_message=on_message,
            seed=seed,
        )

    def close(self) -> None:
        """End the bridges in order, all of which must be able to; then the broker."""
        with ExitStack() as last:
            last.callback(self.nats.close)
            last.callback(self._proxies.close)
            for bridge in self.bridges:
                if bridge.returncode is None:
                    last.callback(bridge.kill)
                    bridge.thaw()
            self.nats.start()
            finish(self.bridges)


async def eventually(
    condition: Callable[[], Any], what: str, deadline: float, pause: float = 0.02
) -> float:
    """Wait until something holds that nobody tells; return the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        holds = condition()
        if asyncio.iscoroutine(holds):
            try:
                holds = await holds
            except httpx.TransportError:
                holds = False
        if holds:
            return loop.time() - began
        assert loop.time() - began < deadline, f"not {what} after {deadline} s"
        await asyncio.sleep(pause)


def monitored(answer: Mapping[str, Any], name: str) -> int:
    """Return a number of nats-server's monitoring."""
    return int(answer[name])
