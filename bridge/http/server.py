"""uvicorn, bound to its port, with the upgrade in place of its WebSocket protocol."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Final

import uvicorn
from fastapi import FastAPI

from bridge.errors import StartError
from bridge.settings import ServerSettings
from bridge.sockets.listener import bounded_http
from bridge.sockets.upgrade import Upgrades

BACKLOG: Final = 2048
"""Connections that the kernel completes while the loop is busy."""
ACCEPTS: Final = 4
"""Connections that one loop iteration accepts: a storm of them must not hold up deliveries."""
GRACE: Final = 2
"""Seconds that requests under way have at the stop."""


class HttpServer:
    """The listening side of the bridge."""

    def __init__(
        self,
        api: FastAPI,
        upgrades: Upgrades | None,
        settings: ServerSettings,
        place: tuple[str, int],
        *,
        max_body: int,
    ) -> None:
        """``place`` is the address and port to listen on; without ``upgrades`` there is no
        WebSocket there. Loads certificates; raises :class:`StartError` for one of no use.
        """
        self._settings: Final = settings
        self._place: Final = place
        # What uvicorn warns of is a peer's mistake, and was answered.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            api,
            http=bounded_http(settings.handshake_timeout, max_body),
            # Called like the class that it stands for.
            ws="none" if upgrades is None else upgrades,  # type: ignore[arg-type]
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=GRACE,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as problem:
            raise StartError(f"BRIDGE_TLS_CERT or BRIDGE_TLS_KEY: {problem}") from problem
        self._server: Final = uvicorn.Server(config)
        self._serving: asyncio.Task[None] | None = None

    def bind(self) -> socket.socket:
        """Take the port without listening yet; raises :class:`StartError`."""
        host, port = self._place
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, number, _, address = found[0]
            listener = socket.socket(family, kind, number)
        except OSError as problem:
            raise StartError(f"{host}: {problem.strerror or problem}") from problem
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.setblocking(False)
        except OSError as problem:
            listener.close()
            told = (problem.strerror or str(problem)).lower()
            raise StartError(f"port {port} on {host}: {told}") from problem
        return listener

    async def start(self, listener: socket.socket) -> str:
        """Listen; returns the base URL. As uvicorn does it, but with a deadline for TLS handshakes
        and few accepts at a time.
        """
        server, config = self._server, self._server.config
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[])

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(
                config=config,  # type: ignore[call-arg]  # uvicorn's own protocols take these
                server_state=server.server_state,
                app_state=server.lifespan.state,
            )

        loop = asyncio.get_running_loop()
        made = await loop.create_server(
            connection,
            sock=listener,
            ssl=config.ssl,
            backlog=ACCEPTS,
            ssl_handshake_timeout=self._settings.handshake_timeout if config.ssl else None,
        )
        # asyncio accepts as many at a time as the backlog it is given; the kernel holds more.
        listener.listen(BACKLOG)
        server.servers.append(made)
        self._serving = loop.create_task(server.main_loop())
        host, port = listener.getsockname()[:2]
        scheme = "https" if config.ssl else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Listen no more, and end what is under way; safe when it was never started."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await self._server.shutdown()
        await self._serving
