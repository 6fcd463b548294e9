"""Peer: ``websockets.broadcast`` and nats-py."""

from __future__ import annotations

import asyncio
import sys

import nats
from nats.aio.msg import Msg
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.servers.routing import Rooms


async def main(url: str) -> None:
    """Serve until the process is ended."""
    rooms: Rooms[ServerConnection] = Rooms()

    async def on_client(connection: ServerConnection) -> None:
        assert connection.request is not None
        rooms.join(connection, connection.request.path.partition("?")[2])
        await connection.send("ready")
        try:
            await connection.wait_closed()
        finally:
            rooms.leave(connection)

    async def on_event(message: Msg) -> None:
        broadcast(rooms.receivers(message.subject), message.data, text=True)

    broker = await nats.connect(url, pending_size=1 << 30)
    await broker.subscribe(
        "live.>", cb=on_event, pending_msgs_limit=1_000_000, pending_bytes_limit=1 << 30
    )
    await broker.flush()
    async with serve(
        on_client,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=30,
        ping_timeout=60,
        backlog=4096,
    ) as server:
        print("ready", next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
