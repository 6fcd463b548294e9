"""From a request to the upgrade: what asks for one, and what comes before and behind it."""

from __future__ import annotations

import asyncio
import base64
import os
from http import HTTPStatus

import pytest

from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.bridge.websocket.upgrade import Admitted, Handshake, Refused, Upgrades
from tests.support import port
from tests.support.faulty import eventually
from tests.support.scripted_peer import TEXT, Owner, client_frame, server_frames
from tests.unit.bridge.http.test_bounds import BIG, GET, app, knocking

OFFERS = {
    "as most do": "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "two lines": "Connection: Upgrade\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n",
    "a list": "Connection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\n",
    "a line each": "connection: upgrade\r\nUPGRADE: h2c\r\nupgrade: WebSocket\r\n",
}


def handshake(offer: str = OFFERS["as most do"], target: str = "/ws") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\nHost: a\r\n{offer}"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


class Side:
    """The bridge's side of the upgrades: who was taken, and what came from them."""

    def __init__(self, refused: Refused | None = None) -> None:
        self.asked: list[Handshake] = []
        self.sockets: list[Socket] = []
        self.owner = Owner()
        self.upgrades = Upgrades(self._admit, Parsers(1000))
        self._refused = refused

    def _admit(self, handshake: Handshake) -> Refused | Admitted:
        self.asked.append(handshake)
        return self._refused or Admitted(self._take)

    def _take(self, socket: Socket) -> None:
        self.sockets.append(socket)
        socket.start(self.owner)


async def switched(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("name", OFFERS)
async def test_an_offer_is_a_list(name: str) -> None:
    """In one header or in several, with other protocols beside (RFC 9110 §5.3 and §7.8)."""
    side = Side()
    async with port.serving(app, upgrades=side.upgrades) as number, knocking(number) as peer:
        await peer.send(handshake(OFFERS[name]))
        await switched(peer.reader)


async def test_a_target_may_be_absolute() -> None:
    """As RFC 9112 §3.2.2 has it: then its host counts, and not the header's."""
    side = Side()
    async with port.serving(app, upgrades=side.upgrades) as number, knocking(number) as peer:
        await peer.send(handshake(target="http://b.example:81/ws?x=y"))
        await switched(peer.reader)
    assert side.asked[0].target == "/ws?x=y"
    assert side.asked[0].headers["host"] == "b.example:81"


@pytest.mark.parametrize("target", ["http://[/ws", "*", "x:y", "http://a:b:c", "http://"])
async def test_a_target_that_is_none(target: str) -> None:
    """It is handed on as it may be, and nothing breaks."""
    side = Side(Refused(HTTPStatus.NOT_FOUND, "NO", "no"))
    async with port.serving(app, upgrades=side.upgrades) as number, knocking(number) as peer:
        await peer.send(handshake(target=target))
        assert (await peer.answer()).startswith(b"HTTP/1.1 4")


UNUSABLE = {
    "no host": b"GET http://evil HTTP/1.1\r\nHost: a\r\n\r\n",
    "half an IPv6 address": b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "no port": b"GET http://a:99999999/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a handshake of HTTP/1.0": handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_what_can_not_be_used_is_answered(name: str) -> None:
    """A request whose head is whole gets a status: a proxy that has none says that the bridge is
    away. The last one is what nginx sends without ``proxy_http_version``.
    """
    side = Side()
    async with port.serving(app, upgrades=side.upgrades) as number:
        for before in (b"", GET):
            async with knocking(number) as peer:
                if before:
                    await peer.send(before)
                    assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")
                await peer.send(UNUSABLE[name])
                assert (await peer.answer()).startswith(b"HTTP/1.1 400 ")
                assert await peer.is_cut()
    assert not side.asked


async def test_an_upgrade_waits_for_the_answers_before_it() -> None:
    """It comes behind two requests in one breath, a message behind it: all in their order."""
    side = Side()
    async with port.serving(app, upgrades=side.upgrades) as number, knocking(number) as peer:
        await peer.send(GET + GET + handshake() + client_frame(TEXT, b"hello"))
        for _ in range(2):
            assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")
        await switched(peer.reader)
        await eventually(lambda: side.owner.messages == [(b"hello", True)], "it has come", 5)


async def test_an_upgrade_does_not_begin_on_a_full_transport() -> None:
    """Behind an answer that is not read it waits; the socket then knows a transport with room."""
    side = Side()
    counts = port.pending(held_per_address=1 << 30)
    async with (
        port.serving(app, upgrades=side.upgrades, counts=counts) as number,
        knocking(number) as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(BIG * 8 + handshake())
        await eventually(lambda: counts.held > 60_000, "answers wait", 5)
        assert not side.sockets
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(8):
            await peer.answer()
        await switched(peer.reader)
        assert not side.sockets[0].paused
        side.sockets[0].put(b"\x81\x01a")
        async with asyncio.timeout(5):
            assert server_frames(await peer.reader.readexactly(3)) == [(TEXT, b"a")]


async def test_an_upgrade_that_waits_in_vain_is_cut() -> None:
    """The answers before it have their deadline."""
    side = Side()
    counts = port.pending(held_per_address=1 << 30)
    async with (
        port.serving(app, upgrades=side.upgrades, counts=counts, answer=0.3) as number,
        knocking(number) as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(BIG * 8 + handshake())
        await eventually(lambda: counts.held > 60_000, "answers wait", 5)
        await eventually(lambda: not counts, "it is gone", 5)
    assert not side.sockets


async def test_a_refusal_that_is_not_read_ends_the_connection() -> None:
    """It is counted until it is gone, and that does not take long."""
    side = Side(Refused(HTTPStatus.FORBIDDEN, "NO", "no" * 16_000_000))
    counts = port.pending(held_per_address=1 << 30, most_held=1 << 30)
    async with (
        port.serving(app, upgrades=side.upgrades, counts=counts, end=0.3) as number,
        knocking(number) as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(handshake() + bytes(1000))
        await eventually(lambda: len(side.asked) == 1, "it was refused", 5)
        assert len(counts) == 1
        await eventually(lambda: not counts, "it is gone", 5)


async def test_another_protocol_is_not_taken() -> None:
    """An offer of what is not known is ignored (RFC 9110 §7.8), and the connection goes on."""
    async with port.serving(app, upgrades=Side().upgrades) as number, knocking(number) as peer:
        await peer.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + GET)
        for _ in range(2):
            assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")
