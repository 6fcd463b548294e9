"""Answers requests for the hosts of ``BRIDGE_ALLOWED_HOSTS`` alone; nothing behind it sees others.

A page whose name was made to point at this machine (DNS rebinding) is of the same origin as the
bridge for the browser, so that neither CORS nor ``Origin`` stops it; its ``Host`` does.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from natsbridge.bridge.identity.origins import host_allowed


class AllowedHosts:
    """The middleware; ``allowed`` as :func:`natsbridge.bridge.identity.origins.host_allowed` takes
    it."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self._app: Final = app
        self._allowed: Final = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Of repeated headers neither may be foreign.
        named = Headers(scope=scope).getlist("host") or [""]
        if all(host_allowed(each, self._allowed) for each in named):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"code": "HOST_NOT_ALLOWED", "message": "This host is not served here"},
            status_code=HTTPStatus.MISDIRECTED_REQUEST,
        )
        await refusal(scope, receive, send)
