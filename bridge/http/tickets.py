"""``POST /ws/tickets``: a token in exchange for a word that may stand in a URL, once."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, status

from bridge.http.callers import Caller
from bridge.identity.tickets import Tickets, TicketsExhausted


def router(tickets: Tickets, ttl: float) -> APIRouter:
    """Return the route; ``ttl`` is the life of a ticket in seconds."""
    routes = APIRouter(prefix="/ws", tags=["tickets"])

    @routes.post("/tickets", summary="A ticket for one connection")
    async def issue(caller: Caller) -> dict[str, Any]:
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
