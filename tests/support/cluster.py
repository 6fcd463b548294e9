"""A cluster of three brokers, which a stream with replicas needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from tests.support.nats_server import DEADLINE, EmbeddedNats, free_port

CHOOSING: Final = 60.0
"""Longest time that a cluster may take to choose, on a machine that is busy."""

T = TypeVar("T")


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask a cluster, and again while it chooses who is to answer."""
    async with asyncio.timeout(CHOOSING):
        while True:
            try:
                return await ask()
            except NotFoundError:
                raise
            except (JetStreamError, NoRespondersError, TimeoutError):
                await asyncio.sleep(0.1)


class Cluster:
    """Three brokers by name. What one loses with its process is on the others."""

    def __init__(self, folder: Path) -> None:
        ports = {name: free_port() for name in ("n1", "n2", "n3")}
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports.values())
        self.servers: dict[str, EmbeddedNats] = {}
        for name, port in ports.items():
            config = folder / f"{name}.conf"
            config.write_text(
                f"server_name: {name}\n"
                f"cluster {{ name: test, listen: '127.0.0.1:{port}', routes: [{routes}] }}\n"
            )
            self.servers[name] = EmbeddedNats(folder / name, arguments=("-c", str(config)))

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers.values()]

    def start(self) -> None:
        for server in self.servers.values():
            server.start()

    def close(self) -> None:
        for server in self.servers.values():
            server.close()

    async def leader(self, jetstream: JetStreamContext, stream: str) -> str:
        """Return the name of the broker that leads a stream, once both are there."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(JetStreamError, TimeoutError):
                    info = await jetstream.stream_info(stream)
                    if info.cluster is not None and info.cluster.leader:
                        return info.cluster.leader
                await asyncio.sleep(0.1)
