"""A peer that reads too slowly, on a socket of the system's own."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from natsbridge.bridge.websocket.kernel import MAX_UNSENT
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket


@pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's")
async def test_the_kernel_keeps_little_for_a_peer_that_is_slow() -> None:
    """From its first pause on, and not before: in a burst the option would split the writes."""
    near, far = _pair()
    with near, far:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        ours = Socket(transport, Parsers(max_size=65536), loop)
        option = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert near.getsockopt(*option) != MAX_UNSENT
        ours.pause_writing()
        assert near.getsockopt(*option) == MAX_UNSENT
        transport.abort()
        await asyncio.sleep(0)


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    return near, far
