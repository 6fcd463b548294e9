"""Peer: python-socketio and nats-py. Rooms are users and topics; events are emitted as objects."""

from __future__ import annotations

import json
import sys
from typing import Any

import nats
import socketio  # type: ignore[import-not-found]  # in the environment of the peers
from nats.aio.msg import Msg

from benchmarks.servers import asgi
from benchmarks.servers.routing import introduction

server = socketio.AsyncServer(
    async_mode="asgi", cors_allowed_origins="*", ping_interval=600, transports=["websocket"]
)


@server.event  # type: ignore[untyped-decorator]  # of an untyped package
async def connect(sid: str, environ: dict[str, Any]) -> None:
    """Enter a client's rooms."""
    user, topics = introduction(environ["QUERY_STRING"])
    await server.enter_room(sid, f"user.{user}")
    for topic in topics:
        await server.enter_room(sid, topic)
    await server.emit("ready", to=sid)


async def on_event(message: Msg) -> None:
    """Emit one event to its rooms; who is in several gets it once."""
    event = json.loads(message.data)
    words = message.subject.split(".")
    if words[1] == "all":
        await server.emit(event["type"], event)
    elif words[1] == "user":
        await server.emit(event["type"], event, room=f"user.{words[2]}")
    else:
        rooms = [f"{words[2]}.{words[3]}", ".".join(words[2:])]
        await server.emit(event["type"], event, room=rooms)


async def start() -> None:
    """Subscribe to the broker."""
    broker = await nats.connect(sys.argv[1])
    await broker.subscribe(
        "live.>", cb=on_event, pending_msgs_limit=1_000_000, pending_bytes_limit=1 << 30
    )
    await broker.flush()


if __name__ == "__main__":
    asgi.serve(socketio.ASGIApp(server, on_startup=start))
