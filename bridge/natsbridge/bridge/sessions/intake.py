"""What a client has sent and the bridge has not handled yet.

Messages wait here while the process is busy with those of others, and while their client is slowed
down for sending more than its rate. Nothing more is read from the connection meanwhile, so what
waits is what one read brought.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.limits.share import HEAVY
from natsbridge.bridge.sessions.dispatch import receive
from natsbridge.bridge.sessions.states import State
from natsbridge.schemas import codes

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.session import Session

REFUSED_AT_ONCE: Final = 32
"""Messages over the rate that are refused before nothing is read for a while."""
FIRST_PAUSE: Final = 0.25
"""Seconds of the first pause; each one after it is twice as long."""
LONGEST_PAUSE: Final = 5.0
MOST_REFUSED: Final = 4 * REFUSED_AT_ONCE
"""Messages refused within one window of the rate from which on a client is sent away, at its end;
the limit itself where that is lower."""


class Intake:
    """The messages of one session that wait, and how much it was slowed down."""

    __slots__ = (
        "_began",
        "_cost",
        "_is_paused",
        "_is_queued",
        "_last",
        "_pause",
        "_refused",
        "_session",
        "_waiting",
    )

    def __init__(self, session: Session) -> None:
        self._session: Final = session
        self._waiting: Final[deque[tuple[bytes, bool]]] = deque()
        self._is_queued = self._is_paused = False
        self._cost = 0.0
        self._began = self._last = float("-inf")
        self._refused, self._pause = 0, FIRST_PAUSE

    @property
    def is_open(self) -> bool:
        """Whether a message may be handled as soon as there is time for it."""
        return not self._waiting and not self._is_paused

    def put(self, data: bytes, is_text: bool) -> None:
        """Handle this message in its turn; nothing more is read until then."""
        self._session.hold()
        self._waiting.append((data, is_text))
        self._go_on()

    def refused(self, count: int = 1) -> None:
        """So much more came than the rate allows: slow down, and end what goes on."""
        session = self._session
        limits, now = session.env.limits, session.env.clock()
        window = limits.rate_limit_window
        goes_on, self._last = now - self._last <= window, now
        if now - self._began > window:
            if goes_on and self._refused >= min(MOST_REFUSED, limits.rate_limit_messages):
                session.close(codes.TRY_AGAIN_LATER)
                return
            self._began, self._refused, self._pause = now, 0, FIRST_PAUSE
        before, self._refused = self._refused, self._refused + count
        if before // REFUSED_AT_ONCE != self._refused // REFUSED_AT_ONCE and not self._is_paused:
            session.hold()
            self._is_paused = True
            # Not so long that the connection would be taken for a silent one.
            longest = min(LONGEST_PAUSE, window / 4, limits.connection_timeout / 4)
            session.env.call_later(min(self._pause, longest), self._unpause)
            self._pause *= 2

    def _unpause(self) -> None:
        self._is_paused = False
        self._go_on()

    def _go_on(self) -> None:
        session = self._session
        if session.state is not State.OPEN:
            self._waiting.clear()
        elif self._is_paused or self._is_queued:
            return
        elif self._waiting:
            self._is_queued = True
            session.env.share.run(self._next, heavy=self._cost >= HEAVY)
        else:
            session.read_on()

    def _next(self) -> None:
        self._is_queued = False
        session = self._session
        if session.state is State.OPEN and not self._is_paused:
            began = time.perf_counter()
            receive(session, *self._waiting.popleft())
            # By turns heavy and light is heavy as well.
            self._cost = max(time.perf_counter() - began, self._cost / 2)
        self._go_on()
