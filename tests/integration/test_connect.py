"""The work of a connect, counted: what makes it cheap can't be lost unnoticed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bridge import loop as loop_module
from bridge.loop import FairLoop
from tests.support.blocking_peer import Peer, upgraded
from tests.support.inside import InsideBridge
from tests.support.nats_server import NatsServer

CLIENTS = 20


def _come(url: str, user: str) -> Peer:
    peer = upgraded(url, user)
    peer.until("connection.established")
    peer.ask("subscribe", {"events": ["review.*"]}, "subscription.acknowledged")
    return peer


def test_a_connect_with_a_subscription_is_two_writes(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake's answer and the greeting are one, the acknowledgement is the other; and no
    task is left that a connection would keep.
    """
    writes: Counter[int] = Counter()
    write = loop_module._Transport.write

    def counted(self: asyncio.Transport, data: bytes) -> None:
        writes[id(self)] += 1
        write(self, data)

    async def main() -> list[int]:
        async with InsideBridge(nats_server.url) as bridge:
            nats = id(bridge.client._transport._io_writer.transport)  # type: ignore[union-attr]
            tasks = len(asyncio.all_tasks())
            peers = [await asyncio.to_thread(_come, bridge.url, f"u{at}") for at in range(CLIENTS)]
            assert len(asyncio.all_tasks()) == tasks
            for peer in peers:
                peer.reset()
            return [count for transport, count in writes.items() if transport != nats]

    monkeypatch.setattr(loop_module._Transport, "write", counted)
    with asyncio.Runner(loop_factory=FairLoop) as runner:
        counts = runner.run(main())
    assert counts == [2] * CLIENTS
