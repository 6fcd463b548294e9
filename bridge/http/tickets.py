"""``POST /ws/tickets``: a token in exchange for a word that may stand in a URL, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, status

from bridge.http.callers import Caller
from bridge.identity.tickets import Tickets, TicketsExhausted
from bridge.limits.rates import SlidingWindow


def router(
    tickets: Tickets, ttl: float, rates: SlidingWindow, wall: Callable[[], float]
) -> APIRouter:
    """Return the route; ``ttl`` is the life of a ticket in seconds, ``rates`` bound a user."""
    routes = APIRouter(prefix="/ws", tags=["tickets"])

    @routes.post("/tickets", summary="A ticket for one connection")
    async def issue(caller: Caller) -> dict[str, Any]:
        now = wall()
        if not rates.allow(caller.user_id, now):
            wait = (rates.reset_time(caller.user_id) or now) - now
            raise HTTPException(
                status.HTTP_429_TOO_MANY_REQUESTS,
                "Too many tickets",
                headers={"Retry-After": str(max(1, math.ceil(wait)))},
            )
        try:
            ticket = tickets.issue(caller)
        except TicketsExhausted:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "Too many tickets wait to be used",
                headers={"Retry-After": str(max(1, round(ttl)))},
            ) from None
        return {"status": "success", "data": {"ticket": ticket, "expires_in": ttl}}

    return routes
