"""Waits that end: requests whose answer can't come any more, and tasks that are cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from natsbridge.publishers.errors import NotPermitted

log = logging.getLogger("publishers")

CANCEL_AGAIN_SECONDS: Final = 0.5
"""Pause after which a task that has not ended is cancelled once more: cleaning up takes time."""

CANCEL_SECONDS: Final = 2.0
"""Longest wait for cancelled tasks to end."""


class Requests:
    """What waits now. Each wait has a deadline of its own, and may end before it."""

    def __init__(self) -> None:
        self._subjects: dict[asyncio.Timeout, str] = {}
        self._denied: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def until(self, subject: str, deadline: float) -> AsyncIterator[None]:
        """Bound what is awaited inside.

        Raises :class:`TimeoutError` at the deadline or after :meth:`end`, and
        :class:`NotPermitted` after :meth:`deny`.
        """
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                self._subjects[limit] = subject
                yield
        except TimeoutError:
            if limit in self._denied:
                raise NotPermitted(f"this connection may not publish to {subject}") from None
            raise
        finally:
            self._subjects.pop(limit, None)
            self._denied.discard(limit)

    def end(self) -> None:
        """End every wait: the connection that would bring the answers is gone."""
        for limit in self._subjects:
            _expire(limit)

    def deny(self, lowered: str) -> None:
        """End the waits on the subject that the broker refused, told in lower case."""
        refused = [limit for limit, subject in self._subjects.items() if subject.lower() == lowered]
        # Of two subjects that differ in case alone nobody knows which was meant: both wait on.
        if len({self._subjects[limit] for limit in refused}) == 1:
            for limit in refused:
                self._denied.add(limit)
                _expire(limit)


@contextmanager
def cancellable() -> Iterator[None]:
    """Raise a cancellation that was swallowed inside.

    nats-py swallows some itself, and it uses ``wait_for``, which before Python 3.12 drops one that
    meets its result.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


async def cancelled(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel these tasks and wait until they have ended, for :data:`CANCEL_SECONDS` at most.

    One cancellation is not enough where the code inside swallows it (see :func:`cancellable`): it
    goes on to its next wait, which may have no end.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    attempts = round(CANCEL_SECONDS / CANCEL_AGAIN_SECONDS)
    while left and attempts:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
        attempts -= 1
    if left:
        log.warning("tasks did not end within %g s of their cancellation: %s", CANCEL_SECONDS, left)


async def within(seconds: float, work: Coroutine[Any, Any, object]) -> None:
    """Run this in a task of its own; raise :class:`TimeoutError` after so many seconds.

    Unlike ``asyncio.timeout``, which cancels once, it also ends what swallows a cancellation. What
    ``work`` raises is raised.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
    finally:
        await cancelled(task)
        failure = None if task.cancelled() or not task.done() else task.exception()
    if failure is not None:
        raise failure


def _expire(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())
