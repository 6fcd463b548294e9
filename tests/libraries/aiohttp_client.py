"""``aiohttp``; see README.md."""

from __future__ import annotations

import asyncio

import aiohttp
from driver import Connection, RefusedError, main, say, trusted


class Aiohttp(Connection):
    """One connection, in a session of its own."""

    session: aiohttp.ClientSession
    socket: aiohttp.ClientWebSocketResponse

    async def connect(
        self, url: str, token: str | None, protocols: list[str], origin: str | None
    ) -> str | None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.session = aiohttp.ClientSession()
        try:
            self.socket = await self.session.ws_connect(
                url,
                ssl=trusted() if url.startswith("wss") else True,
                headers=headers,
                protocols=protocols,
                origin=origin,
            )
        except aiohttp.WSServerHandshakeError as refused:
            raise RefusedError(refused.status) from None
        except aiohttp.ClientError:
            raise RefusedError(0) from None
        return self.socket.protocol

    async def receive(self) -> tuple[int, str]:
        reason = ""
        while True:
            message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                say("text", self.name, message.data)
            elif message.type is aiohttp.WSMsgType.CLOSE:
                reason = message.extra or ""
                break
            elif message.type is not aiohttp.WSMsgType.PONG:
                break
        code = self.socket.close_code or 1006
        await self.session.close()
        return code, reason

    async def send(self, text: str) -> None:
        await self.socket.send_str(text)

    async def ping(self) -> None:
        await self.socket.ping()

    async def close(self) -> None:
        await self.socket.close()


asyncio.run(main(Aiohttp, "header origin status"))
