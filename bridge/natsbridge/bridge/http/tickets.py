"""``POST /ws/tickets``: a token in exchange for a word that may stand in a URL, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, status

from natsbridge.bridge.http.callers import Caller, address_of
from natsbridge.bridge.identity.tickets import Tickets, TicketsExhausted
from natsbridge.bridge.limits.rates import SlidingWindow


def router(
    tickets: Tickets, ttl: float, rates: SlidingWindow, wall: Callable[[], float]
) -> APIRouter:
    """Return the route; ``ttl`` is the life of a ticket in seconds, ``rates`` bound a user."""
    routes = APIRouter(prefix="/ws", tags=["tickets"])

    @routes.post("/tickets", summary="A ticket for one connection")
    async def issue(request: Request, caller: Caller) -> dict[str, Any]:
        now, told = wall(), request.app.state.observer.ticket
        who = (caller.user_id, address_of(request))
        if not rates.allow(caller.user_id, now):
            told("rate limit", *who)
            wait = (rates.reset_time(caller.user_id) or now) - now
            raise HTTPException(
                status.HTTP_429_TOO_MANY_REQUESTS,
                "Too many tickets",
                headers={"Retry-After": str(max(1, math.ceil(wait)))},
            )
        try:
            ticket = await tickets.issue(caller)
        except TicketsExhausted:
            told("too many wait", *who)
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "Too many tickets wait to be used",
                headers={"Retry-After": str(max(1, round(ttl)))},
            ) from None
        told("issued", *who)
        return {"status": "success", "data": {"ticket": ticket, "expires_in": math.floor(ttl)}}

    return routes
