"""CORS for the calls that pages make: the answers that browsers ask for before and with them.

A page of an allowed origin (``BRIDGE_ALLOWED_ORIGINS``) may call what is named here and read the
answer; whichever origin may connect to the WebSocket may fetch a ticket for it. Cookies play no
part, so ``*`` is as safe here as a token that the page has to have. Other routes get no header of
CORS: no page of another origin can read them, or send them an ``Authorization``.
"""

from __future__ import annotations

from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from natsbridge.bridge.identity.origins import ANY_ORIGIN, origin_allowed

CALLED_BY_PAGES: Final = frozenset({"/ws/tickets"})
MAX_AGE: Final = 600
"""Seconds for which a browser need not ask again."""


class PageCalls:
    """Puts CORS around what pages call, and nothing around the rest."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app: Final = app
        self._cors: Final = _Cors(app, origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        for_pages = scope["type"] == "http" and scope["path"] in CALLED_BY_PAGES
        await (self._cors if for_pages else self._app)(scope, receive, send)


class _Cors(CORSMiddleware):
    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=[ANY_ORIGIN] if ANY_ORIGIN in origins else [],
            allow_methods=["POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
            max_age=MAX_AGE,
        )
        self._origins: Final = origins

    def is_allowed_origin(self, origin: str) -> bool:
        """As for the WebSocket; a page of the bridge's own host needs no CORS."""
        return bool(self._origins) and origin_allowed(origin, None, self._origins, "")
