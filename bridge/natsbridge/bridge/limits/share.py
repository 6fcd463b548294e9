"""How long the messages of clients may keep the event loop busy before others have their turn.

One message may come to a thousand subscriptions, and a read may bring many of them: what is over
the share of an iteration waits for the next one, in the order of asking. Heavy calls wait behind
all others, and what they take beyond the share is left to others in the iterations after it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

AT_A_TIME: Final = 0.005
"""Seconds of one loop iteration; the call that goes over it is the last of the iteration."""
BEHIND: Final = 0.005
"""Seconds after which it is looked again whether others have done what they were asked."""
HEAVY: Final = 0.002
"""Seconds from which on a call is a heavy one: whoever made one waits behind those who did not."""


class Share:
    """The share of each iteration, and what waits for one."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        *,
        is_behind: Callable[[], bool] = lambda: False,
        most: float = AT_A_TIME,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``is_behind`` says whether what heavy calls have asked of others is still to be done:
        none is made meanwhile. ``most`` is the share in seconds; ``timer`` measures how long a call
        took.
        """
        self._call_soon: Final = call_soon
        self._call_later: Final = call_later
        self._is_behind: Final = is_behind
        self._most: Final = most
        self._timer: Final = timer
        self._waiting: Final[deque[Callable[[], None]]] = deque()
        self._heavy: Final[deque[Callable[[], None]]] = deque()
        self._spent = self._owed = 0.0
        self._scheduled = self._is_making = False

    @property
    def is_free(self) -> bool:
        """Whether a call would be made at once."""
        return self._spent < self._most and not self._waiting and not self._is_making

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting) + len(self._heavy)

    def run(self, call: Callable[[], None], *, heavy: bool = False) -> None:
        """Make this call now, or when those before it have been made and there is time for it."""
        if self.is_free and not heavy:
            self._make(call)
        else:
            (self._heavy if heavy else self._waiting).append(call)
            self._schedule()

    def _make(self, call: Callable[[], None]) -> None:
        began = self._timer()
        self._is_making = True
        try:
            call()
        except Exception:
            # One client's fault must not keep the others from their turn.
            log.exception("a client's message could not be handled")
        self._is_making = False
        self._spent += self._timer() - began
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        self._owed = max(0.0, self._owed + self._spent - self._most)
        self._spent = 0.0
        while self._waiting and self._spent < self._most:
            self._make(self._waiting.popleft())
        behind = False
        while self._heavy and not self._waiting and self._spent + self._owed < self._most:
            behind = self._is_behind()
            if behind:
                break
            self._make(self._heavy.popleft())
        if behind and not self._scheduled:
            self._scheduled = True
            self._call_later(BEHIND, self._go_on)
        elif self._waiting or self._heavy:
            self._schedule()
