"""Runs an ASGI application of a peer on uvicorn and prints its port."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        print("ready", sockets[0].getsockname()[1], flush=True)


def serve(app: Any, loop: str = "auto") -> None:
    """Serve until the process is ended."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop=loop,
        log_level="error",
        backlog=4096,
        ws_per_message_deflate=False,
        ws_ping_interval=30,
        ws_ping_timeout=60,
    )
    server = _Server(config)

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
