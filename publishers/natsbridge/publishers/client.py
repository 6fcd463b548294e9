"""nats-py's client, mended where it would hang, raise or stop reading.

Only :mod:`natsbridge.publishers.connection` uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from natsbridge.publishers.waiting import within
from natsbridge.schemas.bus import limit_unacknowledged

PING_INTERVAL: Final = 5
"""Seconds between nats-py's own PINGs."""
OUTSTANDING: Final = 2
"""PINGs that may go without a PONG before the connection counts as dead."""

NEVER: Final = 3600.0
"""A timeout for nats-py, in seconds, where the caller sets the limit itself."""

CLOSE_TIMEOUT: Final = 1.0
"""Longest wait, in seconds, for what was sent to leave and for the socket to close, together."""


class NatsClient(Client):
    """A client whose ``flush`` is behind what was sent before it, and that outlives a late PONG."""

    async def flush(self, timeout: int = 10) -> None:
        """Return when the broker has done all that was sent until now, on this connection.

        Raises an error of nats-py where it has not within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                # nats-py's PING overtakes what its flusher has not written yet: then this would
                # not say that a subscription is there, nor ``drain`` that one is gone.
                await self.written()
                await super().flush(timeout)
        except TimeoutError:
            raise nats.errors.FlushTimeoutError from None

    async def written(self) -> None:
        """Return when all that was sent until now is with the system, but for some kilobytes.

        Has no deadline. Raises an error of nats-py when the connection is gone.
        """
        flusher, queue = self._flusher_task, self._flush_queue
        if not self.is_connected or flusher is None or queue is None:
            raise nats.errors.StaleConnectionError
        if not self._pending or flusher.done():  # without it nats-py writes by itself
            return
        written = asyncio.get_running_loop().create_future()
        await queue.put(written)
        await asyncio.wait({written, flusher}, return_when=asyncio.FIRST_COMPLETED)
        if flusher.done() or flusher is not self._flusher_task:
            raise nats.errors.StaleConnectionError

    async def _process_connect_init(self) -> None:
        # nats-py closes a dead connection before it tries another server, and closing waits for
        # what is unsent: by default for a quarter of an hour.
        writer = getattr(self._transport, "_io_writer", None)
        found = None if writer is None else writer.get_extra_info("socket")
        if found is not None:
            with contextlib.suppress(OSError):  # it is gone again already
                limit_unacknowledged(found, PING_INTERVAL * (OUTSTANDING + 1))
        if writer is not None:
            transport: Any = self._transport

            def writelines(parts: Sequence[bytes]) -> None:
                # asyncio's takes no notice of the high-water mark up to Python 3.12.8 and 3.13.1
                # (CVE-2024-12254). TLS changes the writer.
                transport._io_writer.write(b"".join(parts))

            transport.writelines = writelines
        await super()._process_connect_init()

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            # nats-py would set this future's result a second time, and its read loop end with that.
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()


async def close(client: NatsClient) -> None:
    """Disconnect within :data:`CLOSE_TIMEOUT`."""
    # Bounded: with a broker that does not read, nats-py waits for room in the socket for ever, and
    # the socket for what is unsent. A cancellation that comes while it ends its own reconnecting
    # it swallows, and then waits on.
    writer = getattr(client._transport, "_io_writer", None)
    try:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await within(CLOSE_TIMEOUT / 2, client.close())
    finally:
        if writer is not None:
            writer.transport.abort()


def options(timeout: float) -> dict[str, Any]:
    """Return how nats-py is to connect, and to connect again; ``timeout`` is in seconds."""
    return {
        "max_reconnect_attempts": -1,
        # Not all replicas at once, when a broker comes back.
        "reconnect_time_wait": random.uniform(0.2, 0.5),  # noqa: S311  # spread, not secret
        "connect_timeout": min(2.0, timeout),
        # Notices within 15 s a connection that is dead without having been closed.
        "ping_interval": PING_INTERVAL,
        "max_outstanding_pings": OUTSTANDING,
        # Refuses, rather than buffers, what is sent while the broker is away.
        "pending_size": 0,
    }


def words(error: BaseException | None) -> str:
    """Return what to say of an error of nats-py, some of which have no words."""
    return "closed" if error is None else str(error) or type(error).__name__
