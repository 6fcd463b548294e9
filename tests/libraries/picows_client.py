"""``picows``; see README.md."""

from __future__ import annotations

import asyncio

import picows
from driver import Connection, RefusedError, main, say, trusted
from picows import WSFrame, WSListener, WSMsgType, WSTransport


class Listener(WSListener):
    """What picows calls; ``over`` becomes code and reason of the end."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.over: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.parts = b""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            if not self.over.done():
                code = int(frame.get_close_code() or 1005)
                self.over.set_result((code, (frame.get_close_message() or b"").decode()))
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PONG:
            say("pong", self.name)
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self.parts += frame.get_payload_as_bytes()
            if frame.fin:
                parts, self.parts = self.parts, b""
                say("text", self.name, parts.decode())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.over.done():
            self.over.set_result((1006, ""))


class Picows(Connection):
    """One connection."""

    transport: WSTransport
    listener: Listener

    async def connect(
        self, url: str, token: str | None, protocols: list[str], origin: str | None
    ) -> str | None:
        headers = [("Authorization", f"Bearer {token}")] if token else []
        if protocols:
            headers.append(("Sec-WebSocket-Protocol", ", ".join(protocols)))
        if origin:
            headers.append(("Origin", origin))
        try:
            self.transport, self.listener = await picows.ws_connect(  # type: ignore[assignment]
                lambda: Listener(self.name),
                url,
                ssl_context=trusted() if url.startswith("wss") else None,
                extra_headers=headers,
            )
        except picows.WSHandshakeError as refused:
            raise RefusedError(refused.response.status if refused.response else 0) from None
        except (OSError, picows.WSError):
            raise RefusedError(0) from None
        return self.transport.response.headers.get("Sec-WebSocket-Protocol")

    async def receive(self) -> tuple[int, str]:
        return await self.listener.over

    async def send(self, text: str) -> None:
        self.transport.send(WSMsgType.TEXT, text.encode())

    async def send_parts(self, parts: list[str]) -> None:
        for number, part in enumerate(parts):
            kind = WSMsgType.CONTINUATION if number else WSMsgType.TEXT
            self.transport.send(kind, part.encode(), number == len(parts) - 1)

    async def ping(self) -> None:
        self.transport.send_ping(b"")

    async def close(self) -> None:
        self.transport.send_close(picows.WSCloseCode.OK)


asyncio.run(main(Picows, "header origin status parts ping"))
