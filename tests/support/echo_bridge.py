"""An echo server on the bridge's real socket, for the Autobahn cases.

The bridge answers what is no message with an error; the cases want their own bytes back. So this
runs the bridge's upgrade, socket and frames, with a receiver that sends back what it gets. It
prints ``echo ready on ws://127.0.0.1:PORT`` and ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.bridge.websocket.upgrade import Admitted, Handshake, Upgrades
from tests.support.port import serving

MAX_SIZE = 64 * 1024 * 1024


class Echo:
    """Sends back what it gets."""

    def __init__(self, connection: Socket) -> None:
        self._connection = connection
        connection.known("echo")  # a stranger's messages are small
        connection.start(self)

    def on_message(self, data: bytes, is_text: bool) -> None:
        frame = text_frame(data)
        self._connection.write(frame if is_text else b"\x82" + frame[1:])

    def on_sign_of_life(self) -> None:
        pass

    def on_pause(self) -> None:
        pass

    def on_resume(self) -> None:
        pass

    def on_lost(self) -> None:
        pass


def admit(_: Handshake) -> Admitted:
    return Admitted(take=Echo)  # type: ignore[arg-type]  # what it returns is of no use


async def app(scope: object, receive: object, send: object) -> None:
    """Nothing is served over HTTP."""


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serving(app, upgrades=Upgrades(admit, Parsers(MAX_SIZE))) as port:
        print(f"echo ready on ws://127.0.0.1:{port}", flush=True)  # noqa: T201  # tests wait for it
        await stop.wait()


asyncio.run(main())
