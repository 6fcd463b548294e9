"""The one timer of all connections: pings, silence, deadlines, and what lingers elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from bridge.sessions.detours import look_after
from bridge.sessions.registry import Registry
from bridge.sessions.session import Session
from bridge.settings import LimitSettings
from schemas import codes

log = logging.getLogger(__name__)


class Keeper:
    """Looks after every connection once a tick; a tick costs one pass over them."""

    def __init__(
        self,
        registry: Registry,
        limits: LimitSettings,
        loop: asyncio.AbstractEventLoop,
        chores: Sequence[Callable[[], object]],
    ) -> None:
        """``chores`` are done each tick too; they must be quick."""
        self._registry: Final = registry
        self._timeout: Final = limits.connection_timeout
        self._stall: Final = limits.stall_timeout
        self._interval: Final = min(
            1.0, limits.heartbeat_interval / 2, (limits.connection_timeout) / 4
        )
        self._loop: Final = loop
        self._chores: Final = chores
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick from now on."""
        self._timer = self._loop.call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Tick no more; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
        now, wall = self._loop.time(), time.time()
        for session in self._registry:
            try:
                self._look_after(session, now, wall)
            except Exception:
                log.exception("a connection could not be looked after")
        for chore in self._chores:
            try:
                chore()
            except Exception:
                # One chore's fault must not end the timer that all connections live by.
                log.exception("a chore failed")

    def _look_after(self, session: Session, now: float, wall: float) -> None:
        session.signs = 0
        if session.outbox.backlog is not None:
            look_after(session, wall)
        if session.last_seen < now - self._timeout:
            session.close(codes.HEARTBEAT_TIMEOUT)
        elif session.stalled_since is not None and session.stalled_since <= now - self._stall:
            session.close(codes.SLOW_CONSUMER)
        else:
            if session.deadline <= wall:
                session.on_deadline(wall)
            if session.next_ping <= now:
                session.ping(now)
