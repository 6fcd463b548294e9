"""Nothing of a client that is gone is left to the cycle collector.

The bridge puts full collections off, since they hold everything up: what is in a cycle stays.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import GeneratorType
from urllib.parse import urlsplit

import pytest

from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.schemas.subjects import Root
from tests.support.blocking_peer import Peer, upgraded
from tests.support.bus import envelope, everyone
from tests.support.certificates import self_signed
from tests.support.clients import mint
from tests.support.faulty import eventually
from tests.support.inside import InsideBridge
from tests.support.nats_server import NatsServer
from tests.support.scripted_peer import TEXT, client_frame

SPARE_PARSERS = 16
STORED = 600
CLIENTS = 40
DEADLINE = 10.0


def _visit(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user) as peer:
        peer.until("connection.established")


def _talk(url: str, user: str, cursor: str) -> None:
    pace = {"upload.progress": {"max_rate": 5, "keep": "latest"}}
    with upgraded(url, user) as peer:
        peer.until("connection.established")
        peer.ask("subscribe", {"events": ["review.*"]}, "subscription.acknowledged")
        peer.ask("subscribe", {"events": ["upload.*"], "policy": pace}, "subscription.acknowledged")
        peer.ask("subscribe", {"events": ["file.ready"], "history": 20}, "resume.completed")
        peer.ask("unsubscribe", {"events": ["review.*"]}, "unsubscription.acknowledged")
        peer.ask("upload.cancel", {"upload_id": "7"}, "SERVICE_UNAVAILABLE")
        peer.ask("auth.refresh", {"token": mint(user)}, "auth.refreshed")
        peer.ask("nonsense", {}, "error")
        peer.close_politely()


def _resume(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user, f"?cursor={cursor}") as peer:
        peer.until("resume.completed")
        peer.reset()


def _cut_amid_a_replay(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user, f"?cursor={cursor}") as peer:
        peer.read(random.choice((0, 1, 3, 30)))
        peer.reset()


def _be_refused(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user, token="x.y.z") as peer:
        peer.until("INVALID_TOKEN")


def _cut_amid_a_frame(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user) as peer:
        peer.until("connection.established")
        peer.send(client_frame(TEXT, bytes(200_000))[:150_000])
        peer.reset()


def _cut_amid_a_message(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user) as peer:
        peer.until("connection.established")
        peer.send(client_frame(TEXT, b"x" * 1000, fin=False))
        peer.reset()


def _break_a_frame(url: str, user: str, cursor: str) -> None:
    broken = (b"\xc1\x80" + bytes(4), client_frame(TEXT, b"\xff"), b"\x81\xff\x01" + bytes(11))
    with upgraded(url, user) as peer:
        peer.until("connection.established")
        peer.send(random.choice(broken) + bytes(1000))
        peer.drain()


def _cut_before_authenticating(url: str, user: str, cursor: str) -> None:
    with upgraded(url, user, header=False) as peer:
        peer.until("101 Switching Protocols")
        peer.send(client_frame(TEXT, bytes(10_000))[:9_000])
        peer.reset()


def _cut_amid_a_request(url: str, user: str, cursor: str) -> None:
    head = b"POST /ws/tickets HTTP/1.1\r\nHost: a\r\n"
    for more in (
        b"X: y",
        b"Content-Length: 9\r\n\r\n1",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n",
    ):
        with Peer(url, "/livez") as peer:
            peer.until("alive")
            peer.send(head + more)
            peer.reset()


def _cut_before_the_answer(url: str, user: str, cursor: str) -> None:
    with Peer(url, "/readyz") as peer:
        peer.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        peer.reset()


def _send_too_much(url: str, user: str, cursor: str) -> None:
    with Peer(url, "/livez") as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"x" * 1000) * 60)
        peer.drain()


def _break_the_handshake(url: str, user: str, cursor: str) -> None:
    place = urlsplit(url)
    for garbage in (
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection((place.hostname, place.port), 10) as half:
            half.sendall(garbage)


def _ask_over_http(url: str, user: str, cursor: str) -> None:
    for path in ("/healthz", "/ws/stats", "/nowhere"):
        with Peer(url, path) as peer:
            peer.until("HTTP/1.1")


@contextmanager
def kept() -> Iterator[Callable[[], Counter[str]]]:
    """Keep what is found in cycles that are made from here on; gives a call that counts it by type.

    What is older may be given up meanwhile by a cache that had it from another test.
    """

    def count() -> Counter[str]:
        # A cycle through a generator is not among the garbage: it ends when the generator does,
        # which the collector sees to before.
        waiting = Counter(
            each.gi_code.co_qualname for each in gc.get_objects() if isinstance(each, GeneratorType)
        )
        if waiting["Protocol.parse"] + waiting["Protocol.discard"] > SPARE_PARSERS:
            return waiting
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(type(each).__name__ for each in gc.garbage)

    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield count
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "life",
    [
        _visit,
        _talk,
        _resume,
        _cut_amid_a_replay,
        _be_refused,
        _ask_over_http,
        _cut_amid_a_frame,
        _cut_amid_a_message,
        _break_a_frame,
        _cut_before_authenticating,
        _cut_amid_a_request,
        _cut_before_the_answer,
        _send_too_much,
        _break_the_handshake,
    ],
)
def test_nothing_is_left_to_the_collector(
    life: Callable[[str, str, str], None],
    secure: bool,
    nats_server: NatsServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However clients end, what was made for them is freed with the last reference to it."""

    settings = {}
    if secure:
        cert, key = self_signed(tmp_path)
        settings = {"BRIDGE_TLS_CERT": str(cert), "BRIDGE_TLS_KEY": str(key)}

    async def main() -> Counter[str]:
        async with InsideBridge(nats_server.url, settings) as bridge:
            address = everyone("file.ready", "1")
            subject = bridge.subjects.event(Root.EVENTS, address)
            stream = bridge.client.jetstream()
            for _ in range(STORED):
                await stream.publish(subject, json.dumps(envelope(address)).encode())
            cursor = f"{await bridge.identity()}-0"
            # What is made once is made, and may be in cycles.
            await asyncio.to_thread(life, bridge.url, "first", cursor)
            await eventually(bridge.is_alone, "nobody is connected", DEADLINE)
            with kept() as count:
                async with asyncio.TaskGroup() as group:
                    for number in range(CLIENTS):
                        group.create_task(
                            asyncio.to_thread(life, bridge.url, f"user-{number}", cursor)
                        )
                await eventually(bridge.is_alone, "nobody is connected", DEADLINE)
                return count()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        assert runner.run(main()) == Counter()
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
