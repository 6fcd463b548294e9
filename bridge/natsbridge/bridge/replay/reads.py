"""Reading stored events for users: what it costs nats-server is charged to them, and shared fairly.

nats-server answers one request of this connection after the other, so few are on their way at once,
and users take turns. What a request costs is counted in messages of the stream that are read whole,
some 6 µs each of nats-server's time (2.15, measured; see docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from natsbridge.bridge.limits.budget import Budget
from natsbridge.bridge.nats.history import EVERYTHING, MAX_BATCH_BYTES, Batch, History
from natsbridge.bridge.replay.fair import FairSlots

AT_ONCE: Final = 4
"""Requests on their way at once: one more has to wait for all of them in nats-server."""

REQUEST: Final = 32
"""What a request costs beside what it returns."""
REQUEST_OF_TYPE: Final = 400
"""The same for all resources of a type: nats-server counts what is left, subject by subject."""
PASSED: Final = 200
"""Messages that are passed over for one subject at the cost of one that is read."""


class Reads:
    """Reads of the stream for users."""

    def __init__(self, history: History, budget: Budget) -> None:
        self._history: Final = history
        self._budget: Final = budget
        self._slots: Final = FairSlots(AT_ONCE, kept=1, is_light=budget.is_light)

    def of(self, user: str, upto: int) -> UserReads:
        """Return what reads for this user; ``upto`` is where the stream ends."""
        return UserReads(self._history, self._budget, self._slots, user, upto)

    def wait(self, user: str) -> float:
        """Return for how many seconds this user has nothing to spend."""
        return self._budget.wait(user)


class UserReads:
    """Reads for one user, as :class:`History` does."""

    def __init__(
        self, history: History, budget: Budget, slots: FairSlots, user: str, upto: int
    ) -> None:
        self._history: Final = history
        self._budget: Final = budget
        self._slots: Final = slots
        self._user: Final = user
        self._upto: Final = upto

    async def read(
        self, subject: str, after: int, most: int, most_bytes: int = MAX_BATCH_BYTES
    ) -> Batch:
        """Return the next stored messages of a subject after a sequence.

        Raises :class:`BrokerUnavailable`.
        """
        async with self._slots.slot(self._user):
            batch = await self._history.read(subject, after, most, most_bytes)
        cost = REQUEST + len(batch.messages)
        if batch.messages and subject != EVERYTHING:  # what there is none of is known at once
            end = batch.messages[-1].sequence if batch.pending else self._upto
            cost += max(0, end - after) // PASSED
            if subject.endswith(".*"):
                cost += REQUEST_OF_TYPE
        self._budget.spend(self._user, cost)
        return batch

    async def present(self, subjects: Iterable[str], after: int) -> set[str]:
        """Return which of these single subjects have a message after a sequence.

        Raises :class:`BrokerUnavailable`.
        """
        asked = list(subjects)
        async with self._slots.slot(self._user):
            found = await self._history.present(asked, after)
        self._budget.spend(self._user, REQUEST + len(asked) // 4 + len(found))
        return found
