"""``websockets``; see README.md."""

from __future__ import annotations

import asyncio

import websockets
from driver import Connection, RefusedError, main, say, trusted
from websockets.asyncio.client import ClientConnection, connect


class Websockets(Connection):
    """One connection."""

    socket: ClientConnection

    async def connect(
        self, url: str, token: str | None, protocols: list[str], origin: str | None
    ) -> str | None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self.socket = await connect(
                url,
                ssl=trusted() if url.startswith("wss") else None,
                additional_headers=headers,
                subprotocols=protocols or None,
                origin=origin,
                proxy=None,
            )
        except websockets.InvalidStatus as refused:
            raise RefusedError(refused.response.status_code) from None
        except (OSError, websockets.WebSocketException):
            raise RefusedError(0) from None
        return self.socket.subprotocol

    async def receive(self) -> tuple[int, str]:
        try:
            while True:
                say("text", self.name, await self.socket.recv())
        except websockets.ConnectionClosed:
            return self.socket.close_code or 1006, self.socket.close_reason or ""

    async def send(self, text: str) -> None:
        await self.socket.send(text)

    async def send_parts(self, parts: list[str]) -> None:
        await self.socket.send(iter(parts))

    async def ping(self) -> None:
        await (await self.socket.ping())
        say("pong", self.name)

    async def close(self) -> None:
        await self.socket.close()


asyncio.run(main(Websockets, "header origin status parts ping"))
