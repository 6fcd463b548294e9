"""The work of a connect, counted: what makes it cheap can't be lost unnoticed."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Final

import pytest

from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.bridge.runtime.transport import Sender, Transport
from tests.support.blocking_peer import Peer, upgraded
from tests.support.inside import InsideBridge
from tests.support.nats_server import NatsServer
from tests.support.way_down import Work, counting

CLIENTS: Final = 20
CALLS: Final = 1210
"""What a connect may take, about 15 % more than it does."""


def _come(url: str, user: str) -> Peer:
    peer = upgraded(url, user)
    peer.until("connection.established")
    peer.ask("subscribe", {"events": ["review.*"]}, "subscription.acknowledged")
    return peer


def test_a_connect_with_a_subscription_is_two_writes(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake's answer and the greeting are one, the acknowledgement is the other, which goes
    past the transport as all does that is delivered; and no task is left that a connection would
    keep.
    """
    writes: Counter[int] = Counter()
    past: Counter[int] = Counter()
    write, lend = Transport.write, Transport.lend

    def counted(self: asyncio.Transport, data: bytes) -> None:
        writes[id(self)] += 1
        write(self, data)

    def lent(self: asyncio.Transport, sender: Sender | None) -> None:
        lend(self, sender)
        send = None if sender is None else sender.send
        if sender is not None and send is not None:

            def counted_send(data: bytes) -> int:
                past[id(self)] += 1
                return send(data)

            sender.send = counted_send

    async def main() -> list[tuple[int, int]]:
        async with InsideBridge(nats_server.url) as bridge:
            nats = id(bridge.client._transport._io_writer.transport)  # type: ignore[union-attr]
            tasks = len(asyncio.all_tasks())
            peers = [await asyncio.to_thread(_come, bridge.url, f"u{at}") for at in range(CLIENTS)]
            assert len(asyncio.all_tasks()) == tasks
            for peer in peers:
                peer.reset()
            return [(count, past[each]) for each, count in writes.items() if each != nats]

    monkeypatch.setattr(Transport, "write", counted)
    monkeypatch.setattr(Transport, "lend", lent)
    with asyncio.Runner(loop_factory=FairLoop) as runner:
        counts = runner.run(main())
    assert counts == [(1, 1)] * CLIENTS


@dataclass
class Connects:
    """What connects called that came one after the other, on the loop's thread."""

    work: Work
    calls: list[int]
    """How many calls each of them took, built-in ones too."""


@pytest.fixture(scope="module")
def connects(nats_server: NatsServer) -> Connects:
    """With a token, and a subscription to three types."""

    def come(url: str, work: Work) -> list[int]:
        counts, peers = [], []
        for at in range(CLIENTS):
            before = work.calls
            peers.append(_come(url, f"u{at}"))
            counts.append(work.calls - before)
        for peer in peers:
            peer.reset()
        return counts

    async def main() -> Connects:
        async with InsideBridge(nats_server.url) as bridge:
            with counting() as work:  # of this thread, which is the loop's
                return Connects(work, await asyncio.to_thread(come, bridge.url, work))

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        return runner.run(main())


def test_a_connect_is_a_bounded_number_of_calls(connects: Connects) -> None:
    """It is about 1,060, eight turns of the loop among them (their number makes a difference of
    some 30): the median, since the first has to fill what the others find.
    """
    assert 0 < median(connects.calls) <= CALLS


def test_a_connect_does_the_dear_things_once(connects: Connects) -> None:
    """Its token is checked once, it takes no task, and nobody waits in a future for what can be had
    at once. What the bridge does from time to time takes some: fewer than one a connect.
    """
    calls = connects.work.python
    assert calls["TokenVerifier.verify"] == CLIENTS
    assert calls["BaseEventLoop.create_task"] < CLIENTS
    assert calls["BaseEventLoop.create_future"] < CLIENTS
