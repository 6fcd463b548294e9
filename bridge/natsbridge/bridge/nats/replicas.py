"""Waits until what the stream has can be read from those of its replicas that answer.

A replica that has not everything yet answers a read as if there were no more, and none tells what
it has. So they are given time, and the one that answers has to show the last message. Where the
server that this bridge is connected to has a replica, that is mostly the one that answers.
"""

from __future__ import annotations

import asyncio
from typing import Final

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.history import EVERYTHING, History
from natsbridge.bridge.nats.stream import MAX_DELETED, Head, Stream

LAG: Final = 0.1
"""Seconds that replicas are given. Where nothing else runs, a read right after an acknowledgement
misses the event in 2 to 3 of 100 cases, for 2.6 ms at the most in 2,000 reads."""
PATIENCE: Final = 3.0
"""Seconds that the one that answers has to catch up."""


class Replicas:
    """How far the replicas of one stream have shown to be, for all readers together."""

    def __init__(self, stream: Stream, history: History) -> None:
        self._stream: Final = stream
        self._history: Final = history
        self._shown = (0, "", 0)  # on which connection, of which stream, up to where
        self._showing: asyncio.Future[None] | None = None
        self._asking: Final[set[asyncio.Task[None]]] = set()

    def on_down(self) -> None:
        """The connection is gone; nobody is to wait for what was asked on it."""
        if self._showing is not None:
            self._showing.set_exception(BrokerUnavailable("the connection to NATS is gone"))
            self._showing = None

    async def settle(self, head: Head) -> None:
        """Wait until all that the stream had can be read; raises :class:`BrokerUnavailable`."""
        while self._stream.is_replicated and not self._has(head):
            if self._showing is None:
                loop = asyncio.get_running_loop()
                self._showing = loop.create_future()
                self._showing.add_done_callback(_seen)
                task = loop.create_task(self._show(head, self._showing))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            await asyncio.shield(self._showing)

    def _has(self, head: Head) -> bool:
        breaks, identity, last = self._shown
        is_shown = (breaks, identity) == (self._history.breaks, head.identity) and last >= head.last
        return is_shown or head.first > head.last

    async def _show(self, head: Head, showing: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + PATIENCE
        problem: Exception | None = None
        try:
            is_shown = False
            while not is_shown:
                await asyncio.sleep(LAG)
                is_shown = await self._shows(head, loop.time() >= ends)
        except Exception as error:
            problem = error
        if showing.done():
            return  # on a connection that is gone
        self._showing = None
        if problem is None:
            self._shown = (self._history.breaks, head.identity, head.last)
            showing.set_result(None)
        else:
            showing.set_exception(problem)

    async def _shows(self, head: Head, last_time: bool) -> bool:
        before = head.last - 1
        if (await self._history.read(EVERYTHING, before, 1)).messages:
            return True
        now = await self._stream.look()
        if now.identity != head.identity:
            raise BrokerUnavailable("the stream was made anew meanwhile")
        if now.first > head.last:
            return True  # all of that is gone
        if await self._stream.thinned(before, head.last):
            # With more deleted than are looked through, that is only a guess.
            return last_time or now.deleted <= MAX_DELETED
        if last_time:
            raise BrokerUnavailable("a replica of the stream is behind")
        return False


def _seen(showing: asyncio.Future[None]) -> None:
    # Whoever waited may have gone; asyncio would complain about an error that nobody reads.
    if not showing.cancelled():
        showing.exception()
