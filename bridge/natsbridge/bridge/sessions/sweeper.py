"""The one timer of all connections: pings, silence, deadlines, and what lingers elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from natsbridge.bridge.sessions.flow import look_after
from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.sessions.session import Session
from natsbridge.bridge.sessions.states import State
from natsbridge.bridge.settings import LimitSettings
from natsbridge.schemas import codes

log = logging.getLogger(__name__)


AT_A_TIME: Final = 0.00025
"""Seconds of looking after connections before others have their turn."""
AT_LEAST: Final = 64
"""Connections that are looked after at a time however long that takes: on a busy process a pass
must not take many seconds."""


class Keeper:
    """Looks after every connection once a tick, or as often as the process gets round to it: one
    pass over them, with turns for others between.
    """

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
        self._pass: Iterator[Session] = iter(())
        self._passing = False

    def start(self) -> None:
        """Tick from now on."""
        self._timer = self._loop.call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Tick no more; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pass = iter(())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
        if not self._passing:  # else it is still at the last one, on a busy process
            self._pass = iter(self._registry)
            self._go_on()
        for chore in self._chores:
            try:
                chore()
            except Exception:
                # One chore's fault must not end the timer that all connections live by.
                log.exception("a chore failed")

    def _go_on(self) -> None:
        began, wall = self._loop.time(), time.time()
        now, some = began, 1
        while some and now - began < AT_A_TIME:
            some = 0
            for session in islice(self._pass, AT_LEAST):
                some += 1
                try:
                    self._look_after(session, now, wall)
                except Exception:
                    log.exception("a connection could not be looked after")
            now = self._loop.time()
        self._passing = bool(some)
        if some:
            self._loop.call_soon(self._go_on)

    def _look_after(self, session: Session, now: float, wall: float) -> None:
        if session.state is State.CLOSED:
            return  # since the pass began
        session.signs = 0
        if session.outbox.backlog is not None:
            look_after(session, wall)
        silent = session.last_seen < now - self._timeout
        stalled = session.stalled_since is not None and session.stalled_since <= now - self._stall
        if (silent or stalled) and not session.has_taken(now):
            session.close(codes.HEARTBEAT_TIMEOUT if silent else codes.SLOW_CONSUMER)
        else:
            if session.deadline <= wall:
                session.on_deadline(wall)
            if session.next_ping <= now:
                session.ping(now)
