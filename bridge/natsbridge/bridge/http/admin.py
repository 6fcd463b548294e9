"""The admin endpoints with the answers of the first version of the protocol, and what an operator
needs beside them.

``stats`` and the list tell of this replica; what names one connection or one user reaches every
replica over the control subjects.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, HTTPException, Request, status
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.http.callers import Admin, address_of
from natsbridge.bridge.http.operations import operations
from natsbridge.bridge.http.paths import Id
from natsbridge.bridge.identity.revocations import Revocations
from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.nats.control import Control, Operation
from natsbridge.bridge.sessions.greeting import announced
from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.sessions.session import Session
from natsbridge.bridge.sessions.states import State
from natsbridge.bridge.settings import LimitSettings
from natsbridge.bridge.telemetry.lines import cut
from natsbridge.bridge.telemetry.observer import Observer
from natsbridge.schemas import codes
from natsbridge.schemas.envelope import new_id, rfc3339, timestamp
from natsbridge.schemas.errors import IdError
from natsbridge.schemas.subjects import encode_id

log = logging.getLogger(__name__)


class Message(BaseModel):
    """A message for every connection; what else it has goes along as it is."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(min_length=1, max_length=128)]
    data: Any = None


class Disconnect(BaseModel):
    """``revoke`` also refuses the user's tokens that were issued until now."""

    # A mistyped name is not passed over: whoever means to revoke would believe it done.
    model_config = ConfigDict(extra="forbid")

    revoke: bool = False


class Administration:
    """What admins ask, done on this replica's sessions."""

    def __init__(
        self,
        *,
        registry: Registry,
        hub: Hub,
        revocations: Revocations,
        limits: LimitSettings,
        replica: str,
        wall: Callable[[], float],
    ) -> None:
        self._registry: Final = registry
        self._hub: Final = hub
        self._revocations: Final = revocations
        self._limits: Final = limits
        self._replica: Final = replica
        self._wall: Final = wall

    @property
    def operations(self) -> dict[str, Operation]:
        """What other replicas may ask of this one."""
        return operations(self, self._limits.max_message_size)

    def stats(self) -> dict[str, Any]:
        """Return the counts of this replica."""
        per_user = self._registry.per_user()
        total, users = len(self._registry), len(per_user)
        limits, counts, told = self._limits, self._hub.counts, announced(self._limits)
        return {
            "total_connections": total,
            "unique_users": users,
            "connections_per_user": per_user,
            "average_connections_per_user": sum(per_user.values()) / users if users else 0,
            "events": counts.events,
            "deliveries": counts.deliveries,
            "rejected_events": dict(counts.rejected),
            "spared_deliveries": dict(self._hub.flush.counts),
            "replica": self._replica,
            "server_info": {
                "max_connections_per_user": limits.max_connections_per_user,
                "max_total_connections": limits.max_connections,
                "rate_limit_messages": told.rate_limit_messages,
                "rate_limit_window": told.rate_limit_window,
                "heartbeat_interval": told.heartbeat_interval,
                "connection_timeout": told.connection_timeout,
            },
        }

    def connections(self) -> list[dict[str, Any]]:
        """Return every connection of this replica."""
        return [self._tell(session) for session in self._registry]

    def connection(self, connection_id: str) -> dict[str, Any] | None:
        """Return one connection, or None where it is not this replica's."""
        session = self._registry.get(connection_id)
        return None if session is None else self._tell(session)

    def close(self, connection_id: str) -> bool:
        """Send one connection away to come back; False where it is not this replica's."""
        session = self._registry.get(connection_id)
        if session is None:
            return False
        session.close(codes.RECONNECT)
        return True

    def disconnect(self, user_id: str, revoke: bool) -> int:
        """Close a user's connections; returns how many."""
        if revoke and not self._revocations.revoke(encode_id(user_id), time.time()):
            log.warning("a revocation was forgotten for want of room")
        sessions = self._registry.of_user(user_id)
        for session in sessions:
            session.close(codes.REVOKED if revoke else codes.RECONNECT)
        return len(sessions)

    def broadcast(self, text: str) -> int:
        """Offer a message to every open connection; returns how many."""
        frame = text_frame(text.encode())
        reached = 0
        for session in self._registry:
            if session.state is State.OPEN:
                session.send_frame(frame)
                reached += 1
        return reached

    def _tell(self, session: Session) -> dict[str, Any]:
        identity = session.identity
        idle = session.idle
        return {
            "connection_id": session.id,
            "user_id": None if identity is None else identity.user_id,
            "user_email": None if identity is None else identity.email,
            "connected_at": rfc3339(session.connected_at),
            "last_activity": rfc3339(self._wall() - idle),
            "last_heartbeat": rfc3339(self._wall() - session.idle_heartbeat),
            "subscriptions": list(session.patterns),
            "message_count": session.message_count,
            "error_count": session.error_count,
            "is_authenticated": identity is not None,
            "expires_at": None if identity is None else rfc3339(identity.expires_at),
            "address": session.intro.address,
            "waiting_messages": session.outbox.waiting,
            "replica": self._replica,
        }


def router(administration: Administration, control: Control, limits: LimitSettings) -> APIRouter:
    """Return the admin routes."""
    routes = APIRouter(prefix="/ws", tags=["admin"])

    def success(data: Any) -> dict[str, Any]:
        return {"status": "success", "data": data}

    def told(request: Request, action: str, who: Identity, **what: Any) -> None:
        observer: Observer = request.app.state.observer
        observer.administrator(action, who.user_id, address_of(request), **what)

    def whole() -> None:
        if control.is_alone:
            # What is said of every replica would not be true.
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "NATS is away: done on this replica, and no other was asked",
                headers={"Retry-After": "5"},
            )

    @routes.get("/stats", summary="Counts of this replica")
    async def stats(_: Admin) -> dict[str, Any]:
        return success(administration.stats())

    @routes.get("/connections", summary="Every connection of this replica")
    async def connections(_: Admin) -> dict[str, Any]:
        return success(administration.connections())

    @routes.get("/connections/{connection_id}", summary="One connection, on any replica")
    async def connection(connection_id: Id, _: Admin) -> dict[str, Any]:
        for found in await control.ask_all("connection", {"id": connection_id}):
            if found is not None:
                return success(found)
        whole()
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Connection not found")

    @routes.delete("/connections/{connection_id}", summary="Send one connection away (4003)")
    async def close(request: Request, connection_id: Id, who: Admin) -> dict[str, Any]:
        closed = any(await control.ask_all("close", {"id": connection_id}))
        told(request, "close connection", who, target=cut(connection_id), closed=int(closed))
        if not closed:
            whole()
            raise HTTPException(status.HTTP_404_NOT_FOUND, "Connection not found")
        return success({"connection_id": connection_id, "closed": True})

    @routes.post(
        # An id with `/` may also come decoded: some proxies do so.
        "/users/{user_id:path}/disconnect",
        summary="Close a user's connections: 4003, or 4501 with revoke",
    )
    async def disconnect(
        request: Request,
        user_id: Id,
        who: Admin,
        asked: Annotated[Disconnect | None, Body()] = None,
    ) -> dict[str, Any]:
        revoke = asked is not None and asked.revoke
        try:
            encode_id(user_id)
        except IdError as problem:
            raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, str(problem)) from None
        closed = await control.ask_all("disconnect", {"user": user_id, "revoke": revoke})
        action = "revoke user" if revoke else "disconnect user"
        told(request, action, who, target=cut(user_id), closed=sum(closed))
        whole()
        return success({"user_id": user_id, "connections_closed": sum(closed), "revoked": revoke})

    @routes.post("/broadcast", summary="A message for every connection, on every replica")
    async def broadcast(request: Request, message: Message, who: Admin) -> dict[str, Any]:
        whole = message.model_copy(
            update={"timestamp": timestamp(), "id": new_id(), "source": "admin_broadcast"}
        )
        try:
            text = json.dumps(
                whole.model_dump(exclude_unset=True), ensure_ascii=False, allow_nan=False
            )
            from_json(text.encode())
        except (ValueError, RecursionError):
            # NaN, an infinity, a lone surrogate, nesting without end: the body's parser takes some
            # of them, clients can't.
            raise HTTPException(
                status.HTTP_422_UNPROCESSABLE_CONTENT, "The message is not JSON (RFC 8259)"
            ) from None
        if len(text.encode()) > limits.max_message_size:
            raise HTTPException(status.HTTP_413_CONTENT_TOO_LARGE, "The message is too large")
        reached = await control.ask_all("broadcast", {"text": text})
        message_id: str = whole.id  # type: ignore[attr-defined]  # an extra field
        told(
            request,
            "broadcast",
            who,
            type=cut(message.type),
            message_id=message_id,
            reached=sum(reached),
        )
        return success(
            {
                "message_sent": True,
                "connections_reached": sum(reached),
                "message_id": message_id,
            }
        )

    return routes
