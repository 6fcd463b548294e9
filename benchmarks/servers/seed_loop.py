"""Peer: the loop that this project began with, on FastAPI: for each connection ``json.dumps`` and
``send_text``, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import nats
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from nats.aio.msg import Msg

from benchmarks.servers import asgi
from benchmarks.servers.routing import Rooms

rooms: Rooms[WebSocket] = Rooms()


async def send(connection: WebSocket, message: dict[str, Any]) -> None:
    """Encode and send to one connection, as this loop does for each."""
    with contextlib.suppress(Exception):
        await connection.send_text(json.dumps(message))


async def on_event(message: Msg) -> None:
    """Give one event to everybody who wants it."""
    event = json.loads(message.data)
    for connection in list(rooms.receivers(message.subject)):
        await send(connection, event)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Hold the connection to the broker."""
    broker = await nats.connect(sys.argv[1])
    await broker.subscribe(
        "live.>", cb=on_event, pending_msgs_limit=1_000_000, pending_bytes_limit=1 << 30
    )
    await broker.flush()
    yield
    await broker.close()


app = FastAPI(lifespan=lifespan)


@app.websocket("/")
async def websocket(connection: WebSocket) -> None:
    """Register a client, and stay until it goes."""
    await connection.accept()
    rooms.join(connection, connection.url.query)
    await connection.send_text("ready")
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await connection.receive_text()
    rooms.leave(connection)


if __name__ == "__main__":
    asgi.serve(app)
