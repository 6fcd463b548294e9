"""The upgrade: what is a handshake, how it is answered, and who gets the connection."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import pytest

from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.bridge.websocket.upgrade import Admitted, Handshake, Refused, Upgrades
from natsbridge.schemas.codes import TRY_AGAIN_LATER
from tests.support.scripted_peer import (
    CLOSE,
    PING,
    Owner,
    ScriptedTransport,
    client_frame,
    server_frames,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Key and answer of RFC 6455 §1.3."""


class Scene:
    """An upgrade whose admission does what a test wants."""

    def __init__(self, outcome: Refused | None = None, subprotocol: str | None = None) -> None:
        self.asked: list[Handshake] = []
        self.taken: list[Socket] = []
        self.transport = ScriptedTransport(peername=("192.0.2.1", 5000))
        self.outcome = outcome or Admitted(self.taken.append, subprotocol)
        self.upgrades = Upgrades(self._admit, Parsers(1000))

    def _admit(self, handshake: Handshake) -> Refused | Admitted:
        self.asked.append(handshake)
        return self.outcome

    def request(
        self, method: str = "GET", target: str = "/ws?a=b", **changes: str | None
    ) -> Socket | None:
        """Send a handshake as uvicorn reads it; None leaves a header away."""
        headers: dict[str, str | None] = {
            "host": "bridge.example",
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": KEY,
        }
        headers.update({name.replace("_", "-"): value for name, value in changes.items()})
        lines = [
            (name.encode(), value.encode("latin-1"))
            for name, value in headers.items()
            if value is not None
        ]
        return self.upgrades(method, target.encode("latin-1"), lines, self.transport)

    @property
    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of what was written."""
        head, _, body = self.transport.written.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), {k.lower(): v for k, v in headers.items()}, body


async def test_a_handshake_is_answered_and_handed_over() -> None:
    """101 with the accept value of the RFC's example; the connection goes to who admitted it."""
    scene = Scene()
    scene.request()
    status, headers, body = scene.answer
    assert status == 101
    assert headers["sec-websocket-accept"] == ACCEPT
    assert headers["upgrade"] == "websocket"
    assert headers["connection"] == "Upgrade"
    assert "sec-websocket-protocol" not in headers
    assert "sec-websocket-extensions" not in headers
    assert body == b""
    assert len(scene.taken) == 1


async def test_admission_sees_the_request() -> None:
    """Target, headers in lower case with repeated ones joined, the peer's address."""
    scene = Scene()
    scene.request(target="/ws/token?x=1", origin="https://a.example", x_forwarded_for="1, 2")
    (asked,) = scene.asked
    assert asked.target == "/ws/token?x=1"
    assert asked.headers["origin"] == "https://a.example"
    assert asked.headers["x-forwarded-for"] == "1, 2"
    assert asked.peer == "192.0.2.1"
    assert not asked.secure


async def test_a_handshake_does_not_show_what_it_asks_with() -> None:
    """Target and headers may hold a token: printing a handshake shows neither."""
    scene = Scene()
    scene.request(target="/ws/canary", authorization="Bearer canary")
    assert "canary" not in repr(scene.asked[0])


async def test_the_chosen_subprotocol_is_answered() -> None:
    """What admission chose stands in the answer."""
    scene = Scene(subprotocol="bridge.v1")
    scene.request(sec_websocket_protocol="bridge.v1, bearer.x")
    assert scene.answer[1]["sec-websocket-protocol"] == "bridge.v1"


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "GETX", "get"])
async def test_another_method_is_405(method: str) -> None:
    """A handshake is a GET; the answer says so."""
    scene = Scene()
    scene.request(method)
    status, headers, body = scene.answer
    assert (status, headers["allow"]) == (405, "GET")
    assert json.loads(body)["code"] == "METHOD_NOT_ALLOWED"
    assert scene.asked == []


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "13, 8", "x"])
async def test_another_version_is_426(version: str | None) -> None:
    """The answer names the version that is spoken (RFC 6455 §4.4)."""
    scene = Scene()
    scene.request(sec_websocket_version=version)
    status, headers, _ = scene.answer
    assert (status, headers["sec-websocket-version"]) == (426, "13")
    assert scene.asked == []


@pytest.mark.parametrize(
    "key", [None, "", "x", "AAAA", KEY + "AAAA", KEY[:-2], "é" * 24, KEY + ", " + KEY, "*" * 24]
)
async def test_a_key_that_is_none_is_400(key: str | None) -> None:
    """Sixteen bytes in Base64, once."""
    scene = Scene()
    scene.request(sec_websocket_key=key)
    status, headers, body = scene.answer
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["code"] == "BAD_REQUEST"
    assert scene.asked == []


async def test_a_refusal_is_an_http_answer() -> None:
    """Status, headers, code and words of admission, as JSON of the length it says; then closed."""
    scene = Scene(
        Refused(HTTPStatus.SERVICE_UNAVAILABLE, "FULL", "no room é", (("Retry-After", "5"),))
    )
    scene.request()
    status, headers, body = scene.answer
    assert status == 503
    assert headers["retry-after"] == "5"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    assert json.loads(body) == {"code": "FULL", "message": "no room é"}
    assert scene.transport.closed
    assert scene.taken == []


async def test_the_connection_is_handed_over_at_once() -> None:
    """The socket is the transport's protocol before anybody else hears of the connection."""
    seen: list[bool] = []
    scene = Scene()
    scene.outcome = Admitted(lambda socket: seen.append(scene.transport.protocol is socket))
    assert scene.request() is scene.transport.protocol
    assert seen == [True]


async def test_who_greets_shares_the_answers_write() -> None:
    """The answer waits for the first frame: both are one write, and the next frame is another."""
    scene = Scene()
    scene.outcome = Admitted(scene.taken.append, greets=True)
    scene.request()
    assert scene.transport.written == b""
    scene.taken[0].put(b"first")
    status, _, body = scene.answer
    assert (status, body, scene.transport.writes) == (101, b"first", 1)
    scene.taken[0].put(b"second")
    assert scene.transport.written.endswith(b"firstsecond")


async def test_an_answer_does_not_wait_for_long() -> None:
    """When the first frame takes a while, the handshake is answered without it, once."""
    scene = Scene()
    answered = asyncio.Event()
    write = scene.transport.write
    scene.transport.write = lambda data: (write(data), answered.set())[0]  # type: ignore[method-assign]
    scene.outcome = Admitted(scene.taken.append, greets=True)
    scene.request()
    async with asyncio.timeout(5):
        await answered.wait()
    assert scene.answer[0] == 101
    scene.taken[0].put(b"first")
    assert scene.answer[2] == b"first"


async def test_whatever_is_written_first_comes_behind_the_answer() -> None:
    """A ping, a pong or a close frame does not overtake the end of the handshake."""
    for write in (
        Socket.ping,
        lambda socket: socket.data_received(client_frame(PING, b"")),
        lambda socket: socket.close(TRY_AGAIN_LATER),
        lambda socket: socket.data_received(client_frame(CLOSE, b"")),
    ):
        scene = Scene()
        scene.outcome = Admitted(scene.taken.append, greets=True)
        scene.request()
        scene.taken[0].start(Owner())
        write(scene.taken[0])
        status, _, body = scene.answer
        assert status == 101
        assert len(server_frames(body)) == 1


async def test_who_sends_no_more_is_answered_before_the_end() -> None:
    """A client that half-closes right behind its handshake has its answer."""
    scene = Scene()
    scene.outcome = Admitted(scene.taken.append, greets=True)
    scene.request()
    scene.taken[0].eof_received()
    assert scene.answer[0] == 101


async def test_nothing_is_answered_to_who_is_gone() -> None:
    """The wait for the first frame ends with the connection."""
    scene = Scene()
    scene.outcome = Admitted(scene.taken.append, greets=True)
    scene.request()
    scene.taken[0].connection_lost(None)
    scene.taken[0].put()
    assert scene.transport.written == b""
