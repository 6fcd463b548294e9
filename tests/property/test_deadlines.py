"""A connection before its upgrade: whatever a peer sends and when, a deadline runs at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from natsbridge.bridge.http.protocol import (
    ANSWER_TIMEOUT,
    CLOSE_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_PIPELINED,
    Edge,
    HttpConnection,
)
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.bridge.websocket.upgrade import Admitted, Upgrades
from tests.support.port import pending
from tests.support.scripted_peer import Owner, ScriptedTransport
from tests.support.virtual_loop import run

TIMEOUT = 10.0
Scope = dict[str, Any]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PIECES = [
    GET,
    GET * (MAX_PIPELINED + 1),
    b"G",
    GET[:-2],
    b"\r\n",
    b"x",
    b"\x00",
    b"X: y\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"1\r\nx\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
    GET[:-2] + b"Connection: close\r\n\r\n",
    GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    UPGRADE,
    UPGRADE.replace(b"13", b"12"),
    UPGRADE[:40],
    UPGRADE[40:],
]
steps = st.lists(
    st.tuples(
        st.sampled_from(PIECES) | st.binary(min_size=1, max_size=5),
        st.sampled_from((0.0, 0.0, 1.0, 4.0, 9.0, 12.0, 40.0)),
        st.sampled_from(("", "", "", "full", "room", "eof", "shutdown")),
    ),
    max_size=12,
)


async def app(
    scope: Scope,
    receive: Callable[[], Awaitable[Scope]],
    send: Callable[[Scope], Awaitable[None]],
) -> None:
    while (await receive()).get("more_body"):
        pass
    if scope["path"] != "/":
        await asyncio.sleep(20 if scope["path"] == "/slow" else 10_000)
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class Transport(ScriptedTransport):
    """Ends as asyncio's does: at once when it is aborted, else when what was written is read."""

    def write(self, data: Any) -> None:
        if not self.closed:
            super().write(data)

    def close(self) -> None:
        super().close()
        self.end()

    def abort(self) -> None:
        super().abort()
        self.unsent = 0
        self.end()

    def end(self) -> None:
        if self.closed and not self.unsent and self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)


class Story:
    """One connection, and what must hold of it after every step."""

    def __init__(self) -> None:
        self.counts = pending()
        upgrades = Upgrades(lambda _: Admitted(self._take), Parsers(1000))
        config = uvicorn.Config(app, ws=upgrades, log_config=None)  # type: ignore[arg-type]
        config.load()
        self.edge = Edge(TIMEOUT, lambda scope: 100, self.counts, lambda peer, _: peer)
        self.state = ServerState()
        self.connection = HttpConnection(
            self.edge, config=config, server_state=self.state, app_state={}
        )
        self.transport = Transport()
        self.transport.protocol = self.connection
        self.connection.accepted("a", self.transport)
        self.connection.connection_made(self.transport)

    def _take(self, socket: Socket) -> None:
        socket.start(Owner())

    @property
    def is_upgraded(self) -> bool:
        return isinstance(self.transport.protocol, Socket)

    @property
    def is_over(self) -> bool:
        return self.transport.protocol is None or self.is_upgraded

    async def settle(self) -> None:
        for _ in range(10 * (MAX_PIPELINED + 2)):
            await asyncio.sleep(0)

    def check(self) -> None:
        running = [self.connection in each for each in self.edge.deadlines]
        assert any(running) is not self.is_over
        assert (len(self.counts) == 0) is self.is_over

    async def step(self, piece: bytes, pause: float, event: str) -> None:
        transport, connection = self.transport, self.connection
        if event == "full" and not transport.unsent and not transport.closed:
            transport.unsent = 100_000
            connection.pause_writing()
        elif event == "room" and transport.unsent:
            transport.unsent = 0
            connection.resume_writing()
            transport.end()
        elif event == "eof":
            connection.eof_received()
            transport.close()
        elif event == "shutdown":
            connection.shutdown()
        if not self.is_over and transport.reading and not transport.closed:
            connection.data_received(piece)
        await self.settle()
        if not self.is_over:
            self.check()
            await asyncio.sleep(pause)
            await self.settle()


@given(steps)
def test_a_deadline_always_runs(story: list[tuple[bytes, float, str]]) -> None:
    """After each piece and each pause one of them runs, or the connection has ended or was
    upgraded; it is counted as long; and a peer that falls silent is gone soon, unread or not.
    """

    async def main() -> None:
        scene = Story()
        scene.check()
        for piece, pause, event in story:
            if scene.is_over:
                break
            await scene.step(piece, pause, event)
        # What was asked for in one breath is answered one by one.
        await asyncio.sleep(
            TIMEOUT + ANSWER_TIMEOUT * (MAX_PIPELINED + 1) + IDLE_TIMEOUT + CLOSE_TIMEOUT + 1
        )
        await scene.settle()
        assert scene.is_over
        scene.check()
        for task in scene.state.tasks:
            task.cancel()

    run(main())
