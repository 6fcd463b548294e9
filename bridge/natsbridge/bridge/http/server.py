"""uvicorn, bound to its port, with the upgrade in place of its WebSocket protocol."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from natsbridge.bridge.certificates import renew_chain
from natsbridge.bridge.errors import StartError
from natsbridge.bridge.http.acceptor import Acceptor
from natsbridge.bridge.http.api import takes_body
from natsbridge.bridge.http.callers import bearer_of
from natsbridge.bridge.http.protocol import Edge, HttpConnection
from natsbridge.bridge.identity.origins import counted_address
from natsbridge.bridge.settings import ServerSettings
from natsbridge.bridge.websocket.pending import Pending
from natsbridge.bridge.websocket.upgrade import Upgrades

MAX_PENDING: Final = 4096
"""Connections that are no WebSockets (yet), of one process."""
MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes that are kept for all of them."""
MAX_HELD_PER_ADDRESS: Final = 8 * 1024 * 1024
"""Bytes that are kept for those of one address."""
UNWANTED_BODY: Final = 4 * 1024
"""Bytes of a body where none is taken, or from whom none is: who calls a wrong path, or without a
token, reads the answer, and no reset."""
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
        is_good: Callable[[str], bool],
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """``place`` is the address and port to listen on; without ``upgrades`` there is no
        WebSocket there. Loads certificates; raises :class:`StartError` for one of no use.

        ``max_body`` is for requests that take a body, in bytes; ``is_good`` says of a token whether
        its bearer may send as much. ``make_room`` ends a connection of
        others that can go, if there is any, where descriptors run out.
        """
        self._settings: Final = settings
        self._place: Final = place
        self._is_good: Final = is_good
        self._others_make_room: Final = make_room
        self.pending: Final = Pending(
            per_address=settings.max_pending_per_address,
            most=MAX_PENDING,
            held_per_address=MAX_HELD_PER_ADDRESS,
            most_held=MAX_HELD,
        )
        networks = settings.proxy_networks
        self._edge: Final = Edge(
            settings.handshake_timeout,
            partial(self._max_body, api, max_body),
            self.pending,
            lambda peer, forwarded: counted_address(peer, forwarded, networks),
        )
        # What uvicorn warns of is a peer's mistake, and was answered.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            api,
            http=HttpConnection,
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
        self._acceptor: Acceptor | None = None

    def renew_certificate(self) -> str:
        """Read certificate and key again; tell until when the certificate is good.

        Raises what :func:`~natsbridge.bridge.certificates.renew_chain` does. Open connections stay
        as they
        are. Does nothing where no TLS is spoken.
        """
        context, settings = self._server.config.ssl, self._settings
        if context is None or settings.tls_cert is None or settings.tls_key is None:
            return ""
        return renew_chain(context, settings.tls_cert, settings.tls_key)

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
            raise self._taken(problem) from problem
        return listener

    async def start(self, listener: socket.socket) -> str:
        """Listen; returns the base URL. What uvicorn does at its start, but with a listener of our
        own.

        Raises :class:`StartError` where another listens there by now: Linux lets several bind.
        """
        server, config = self._server, self._server.config
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[])

        self._acceptor = Acceptor(
            listener,
            lambda: HttpConnection(
                self._edge,
                config=config,
                server_state=server.server_state,
                app_state=server.lifespan.state,
            ),
            self.pending,
            self._make_room,
            config.ssl,
            self._settings.handshake_timeout,
        )
        try:
            self._acceptor.start()
        except OSError as problem:
            raise self._taken(problem) from problem
        self._serving = asyncio.get_running_loop().create_task(server.main_loop())
        host, port = listener.getsockname()[:2]
        scheme = "https" if config.ssl else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Listen no more, and end what is under way; safe when it was never started."""
        if self._serving is None:
            return
        assert self._acceptor is not None
        self._acceptor.stop()
        self._server.should_exit = True
        await self._server.shutdown()
        await self._serving
        self.pending.clear()  # handshakes of TLS, which uvicorn does not know of

    def _taken(self, problem: OSError) -> StartError:
        host, port = self._place
        return StartError(f"port {port} on {host}: {(problem.strerror or str(problem)).lower()}")

    def _max_body(self, api: FastAPI, most: int, scope: Mapping[str, Any]) -> int:
        # The application reads a body before it looks at the token.
        if takes_body(api, scope) and self._is_good(bearer_of(scope["headers"])):
            return most
        return UNWANTED_BODY

    def _make_room(self) -> bool:
        return self._others_make_room() or self.pending.make_room()
