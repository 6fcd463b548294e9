"""``/livez`` and ``/readyz``: whether to restart this process, and whether to send it clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter, Response, status

from natsbridge.bridge.errors import BrokerUnavailable

PATIENCE: Final = 2.0
"""Seconds that NATS has for its answer."""


def router(
    round_trip: Callable[[float], Awaitable[float]],
    is_draining: Callable[[], bool],
    stream_problem: Callable[[], str],
    catching_up: Callable[[], str],
    missing: Callable[[], str],
    clock: Callable[[], str],
    keys: Callable[[], str],
) -> APIRouter:
    """Return the routes. A stream that is missing is told, but live delivery goes on without it;
    so is what is being read from it after a break. ``missing`` are subscriptions that every client
    needs and NATS refuses. ``clock`` says how this machine's differs from NATS's, which leaves it
    ready. ``keys`` says why no token can be checked at all.
    """
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", summary="The process is alive")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/readyz", summary="Clients are welcome: not draining, and NATS answers")
    async def readyz(response: Response) -> dict[str, Any]:
        stream = stream_problem()
        stream = f"live only: {stream}" if stream else ""
        checks = {
            "nats": "ok",
            "stream": stream or "ok",
            "catch_up": catching_up() or "ok",
            "clock": clock() or "ok",
            "keys": keys() or "ok",
        }
        # A replica whose issuer was mistyped must not take the place of one that serves.
        ready = not is_draining() and not keys()
        try:
            await round_trip(PATIENCE)
            if refused := missing():
                checks["nats"] = f"subscriptions are refused: {refused}"
                ready = False
        except BrokerUnavailable as problem:
            checks["nats"] = str(problem)
            # What was seen of the stream last says nothing now.
            checks["stream"] = stream or "unknown: NATS does not answer"
            ready = False
        if is_draining():
            checks["draining"] = "yes"
        if not ready:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "ready" if ready else "not ready", "checks": checks}

    return routes
