"""Which routes are served where: a public address, and an internal one where it is set.

Clients need the WebSocket, tickets and health. What is for operators (admin endpoints, metrics,
the documentation) is at the internal address alone when there is one; else it is at the public
address for admins' tokens, and the documentation only when it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter

from natsbridge.bridge.http.api import Context, make_api
from natsbridge.bridge.http.server import HttpServer
from natsbridge.bridge.settings import ServerSettings
from natsbridge.bridge.websocket.upgrade import Upgrades

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes by who needs them."""

    health: APIRouter
    tickets: APIRouter
    admin: APIRouter
    metrics: Callable[[bool], APIRouter]
    """Takes whether an admin's token is needed."""


class Listeners:
    """The HTTP side of one process."""

    def __init__(
        self,
        settings: ServerSettings,
        routes: Routes,
        context: Context,
        upgrades: Upgrades,
        *,
        max_body: int,
        is_good: Callable[[str], bool],
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """``is_good`` and ``make_room`` are as in :class:`HttpServer`.

        Raises :class:`~natsbridge.bridge.errors.StartError` for certificates that can't be used.
        """
        apart = settings.internal_port is not None
        public = [routes.health, routes.tickets]
        if not apart:
            public += [routes.metrics(True), routes.admin]
        self._public: Final = HttpServer(
            make_api(
                public,
                context,
                docs=settings.docs and not apart,
                websocket=True,
                token_in_path=settings.token_in_path,
                allowed_hosts=settings.allowed_hosts,
                allowed_origins=settings.allowed_origins,
            ),
            upgrades,
            settings,
            (settings.host, settings.port),
            max_body=max_body,
            is_good=is_good,
            make_room=make_room,
        )
        self._internal: HttpServer | None = None
        if settings.internal_port is not None:
            self._internal = HttpServer(
                make_api([routes.health, routes.metrics(False), routes.admin], context, docs=True),
                None,
                settings,
                (settings.internal_host, settings.internal_port),
                max_body=max_body,
                is_good=is_good,
                make_room=lambda: make_room() or self._public.pending.make_room(),
            )

    def bind(self) -> list[socket.socket]:
        """Take the ports without listening yet; raises
        :class:`~natsbridge.bridge.errors.StartError`."""
        with ExitStack() as opened:
            taken = [opened.enter_context(closing(server.bind())) for server in self._servers]
            opened.pop_all()
        return taken

    async def start(self, listeners: list[socket.socket]) -> str:
        """Listen on what :meth:`bind` took; returns the base URL of the public address."""
        urls = [
            await server.start(each) for server, each in zip(self._servers, listeners, strict=True)
        ]
        for url in urls[1:]:
            log.info("internal address: %s", url)
        return urls[0]

    def renew_certificate(self) -> str:
        """Read certificate and key again, see :meth:`HttpServer.renew_certificate`."""
        until = self._public.renew_certificate()
        if self._internal is not None:
            self._internal.renew_certificate()
        return until

    async def stop(self) -> None:
        """Listen no more, and end what is under way; safe when it was never started."""
        await asyncio.gather(*(server.stop() for server in self._servers))

    @property
    def pending(self) -> int:
        """Connections that are no WebSockets (yet)."""
        return sum(len(server.pending) for server in self._servers)

    @property
    def evicted(self) -> int:
        """How many of them had to make room for others so far."""
        return sum(server.pending.evicted for server in self._servers)

    @property
    def _servers(self) -> list[HttpServer]:
        return [self._public] if self._internal is None else [self._public, self._internal]
