"""A bridge in the test's own process, whole and on a real broker, whose parts a test may break."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from nats.aio.client import Client

from natsbridge.bridge.app import Bridge
from natsbridge.bridge.nats.connection import Connection
from natsbridge.bridge.nats.control import Operation
from natsbridge.bridge.nats.ingest import Receive
from natsbridge.bridge.settings import BridgeSettings
from tests.support.bridge import settings_of


class InsideBridge:
    """Runs during its block; ``url``, ``nats_url`` and ``subjects`` as of one that is a process.

    The joints below are the composition root's own: nothing of the bridge is put on for tests.
    """

    def __init__(self, nats_url: str, settings: Mapping[str, str] | None = None) -> None:
        self.nats_url = nats_url
        self.url = ""
        self._settings = BridgeSettings.from_environment(settings_of(nats_url, settings))
        self.subjects = self._settings.bus.subjects
        self._bridge: Bridge

    async def __aenter__(self) -> Self:
        self._bridge = Bridge(self._settings, asyncio.get_running_loop())
        self.url = await self._bridge.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._bridge.stop()

    @property
    def connection(self) -> Connection:
        """Its connection to NATS, with the callbacks."""
        return self._bridge._connection

    @property
    def client(self) -> Client:
        """nats-py's client of the moment."""
        return self.connection.client

    def offer(self, **operations: Operation) -> None:
        """Let it do this when another replica asks, in place of what it does."""
        self._bridge._control.offer({**self._bridge._administration.operations, **operations})

    async def receive(self, subject: str, receive: Receive) -> None:
        """Subscribe it to a subject by the way of the events; return when NATS knows."""
        self._bridge._interests.hold(subject, receive)
        assert await self._bridge._interests_confirmed()

    async def identity(self) -> str:
        """The identity of its stream, once it knows."""
        head = await self._bridge._continuity.look()
        return head.identity

    async def is_alone(self) -> bool:
        """Whether no client is connected, and nothing is done for one that was."""
        bridge = self._bridge
        return not (len(bridge._registry) or bridge._server.pending or bridge._turns.waiting)
