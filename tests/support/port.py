"""The bridge's port without the bridge: its listener and its HTTP protocol before any ASGI app."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn

from natsbridge.bridge.http.acceptor import Acceptor
from natsbridge.bridge.http.protocol import Edge, HttpConnection
from natsbridge.bridge.websocket.pending import Pending

MAX_BODY = 2000


def pending(
    per_address: int = 100,
    most: int = 1000,
    held_per_address: int = 1 << 20,
    most_held: int = 1 << 24,
) -> Pending:
    """Bounds that few tests reach."""
    return Pending(
        per_address=per_address, most=most, held_per_address=held_per_address, most_held=most_held
    )


@contextlib.asynccontextmanager
async def serving(
    app: Any,
    *,
    timeout: float = 5.0,
    max_body: int = MAX_BODY,
    counts: Pending | None = None,
    address: Callable[[str, str | None], str | None] = lambda peer, forwarded: peer,
    upgrades: Any = None,
    tls: ssl.SSLContext | None = None,
    **deadlines: float,
) -> AsyncIterator[int]:
    """Listen on a free port of 127.0.0.1 while the block runs, and give its number."""
    counts = pending() if counts is None else counts
    config = uvicorn.Config(
        app, http=HttpConnection, ws=upgrades, lifespan="off", access_log=False, log_config=None
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[])
    edge = Edge(timeout, lambda scope: max_body, counts, address, **deadlines)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    port: int = sock.getsockname()[1]
    acceptor = Acceptor(
        sock,
        lambda: HttpConnection(edge, config=config, server_state=server.server_state, app_state={}),
        counts,
        counts.make_room,
        tls,
        timeout,
    )
    acceptor.start()
    try:
        yield port
    finally:
        acceptor.stop()
        counts.clear()
        server.should_exit = True
        await server.shutdown()
