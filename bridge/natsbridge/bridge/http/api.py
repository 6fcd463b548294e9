"""The FastAPI application: routes, authentication, validation and their documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from natsbridge.bridge.http.callers import Check, address_of
from natsbridge.bridge.http.cors import PageCalls
from natsbridge.bridge.http.docs import SCHEMA, add_docs
from natsbridge.bridge.http.hosts import AllowedHosts
from natsbridge.bridge.http.paths import EncodedIds, routed_path
from natsbridge.bridge.identity.failures import Failures
from natsbridge.bridge.telemetry.observer import Observer


@dataclass(frozen=True, slots=True)
class Context:
    """What the routes share."""

    check_token: Check
    """Takes a token; raises :class:`~natsbridge.bridge.errors.TokenError`."""
    observer: Observer
    address: Callable[[str, str | None], str]
    """Takes a peer's address and ``X-Forwarded-For``, and returns the client's."""
    failures: Failures


def make_api(
    routers: Iterable[APIRouter],
    context: Context,
    *,
    docs: bool = False,
    websocket: bool = False,
    token_in_path: bool = False,
    allowed_hosts: tuple[str, ...] = (),
    allowed_origins: tuple[str, ...] = (),
) -> FastAPI:
    """Return the application with these routes.

    With ``websocket``, whoever asks for the WebSocket without an upgrade is told so.
    """
    api = FastAPI(
        title="NATS WebSocket bridge",
        description="Admin, tickets and health of the bridge. Clients connect to `/ws`.",
        redirect_slashes=False,  # a redirect leads to whatever ``Host`` says
        docs_url=None,
        redoc_url=None,
        openapi_url=SCHEMA if docs else None,
    )
    api.state.check_token = context.check_token
    api.state.observer = context.observer
    api.state.address = context.address
    api.state.failures = context.failures
    api.add_middleware(EncodedIds)
    api.add_middleware(PageCalls, origins=allowed_origins)
    api.add_middleware(CountedAnswers, observer=context.observer)
    if allowed_hosts:
        api.add_middleware(AllowedHosts, allowed=allowed_hosts)
    api.add_exception_handler(RequestValidationError, refuse_request)
    routers = tuple(routers)
    api.state.with_body = [
        route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.body_field is not None
    ]
    for router in routers:
        api.include_router(router)
    if docs:
        add_docs(api)
    if websocket:
        # Last, so that what has a route of its own keeps it.
        for path in ("/ws", "/ws/{token:path}" if token_in_path else "/ws/"):
            api.add_api_route(path, websocket_only, include_in_schema=False)
    return api


class CountedAnswers:
    """Counts answers by their status."""

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self._app: Final = app
        self._observer: Final = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._observer.requests.add(str(message["status"]))
            await send(message)

        await self._app(scope, receive, counted)


def takes_body(api: FastAPI, scope: Mapping[str, Any]) -> bool:
    """Whether a request (its ASGI scope) has a route that takes a body."""
    path = routed_path(scope)
    return any(
        scope["method"] in route.methods and route.path_regex.match(path)
        for route in api.state.with_body
    )


async def websocket_only(request: Request) -> JSONResponse:
    """Tell whoever asks for the WebSocket without an upgrade; never what stood in the path."""
    request.app.state.observer.request_refused(426, "no upgrade", address_of(request), "/ws")
    return JSONResponse(
        {
            "code": "UPGRADE_REQUIRED",
            "message": "This is a WebSocket endpoint, and the request asks for no upgrade. If the "
            "client did, a proxy in between drops the headers Connection and Upgrade",
        },
        status_code=status.HTTP_426_UPGRADE_REQUIRED,
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


async def refuse_request(_: Request, problem: Exception) -> JSONResponse:
    """Answer 422 without the input, which may be secret, or no text that can be sent back."""
    assert isinstance(problem, RequestValidationError)
    told = [
        {"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]}
        for each in problem.errors()
    ]
    return JSONResponse({"detail": told}, status_code=status.HTTP_422_UNPROCESSABLE_CONTENT)
