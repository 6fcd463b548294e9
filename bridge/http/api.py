"""The FastAPI application: routes, authentication, validation and their documentation."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from bridge.http.callers import Check


def make_api(routers: Iterable[APIRouter], check_token: Check) -> FastAPI:
    """Return the application with these routes, whose callers ``check_token`` knows."""
    api = FastAPI(
        title="NATS WebSocket bridge",
        description="Admin, tickets and health of the bridge. Clients connect to `/ws`.",
    )
    api.state.check_token = check_token
    api.add_exception_handler(RequestValidationError, refuse_request)
    for router in routers:
        api.include_router(router)
    api.add_api_route("/ws", websocket_only, include_in_schema=False)
    return api


async def websocket_only() -> JSONResponse:
    """Tell whoever asks for the WebSocket without an upgrade."""
    return JSONResponse(
        {"code": "UPGRADE_REQUIRED", "message": "This is a WebSocket endpoint"},
        status_code=status.HTTP_426_UPGRADE_REQUIRED,
        headers={"Upgrade": "websocket"},
    )


async def refuse_request(_: Request, problem: Exception) -> JSONResponse:
    """Answer 422 without the input, which may be secret, or no text that can be sent back."""
    assert isinstance(problem, RequestValidationError)
    told = [
        {"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]}
        for each in problem.errors()
    ]
    return JSONResponse({"detail": told}, status_code=status.HTTP_422_UNPROCESSABLE_CONTENT)
