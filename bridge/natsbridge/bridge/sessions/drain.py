"""Sending all clients away, spread over time so that they don't come back all at once elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from functools import partial
from typing import Final

from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.sessions.session import Session

log = logging.getLogger(__name__)

CLOSE_PATIENCE: Final = 5.0
"""Seconds at the end of a drain for clients to answer their close frame."""
COME_BACK: Final = (200, 2000)
"""Milliseconds after which a client is asked to come back, at random in between."""


async def drain(registry: Registry, seconds: float) -> None:
    """Tell and close every session within these seconds, and cut those that don't go."""
    loop = asyncio.get_running_loop()
    sessions = list(registry)
    random.shuffle(sessions)
    log.info("draining %d connections over %g s", len(sessions), seconds)
    start = loop.time()
    for done, session in enumerate(sessions):
        due = start + seconds * done / len(sessions)
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        session.drain(random.randrange(*COME_BACK))  # noqa: S311  # a jitter, no secret
    for session in registry:
        session.drain(COME_BACK[0])  # who slipped in meanwhile
        sessions.append(session)
    here = set(sessions)
    all_gone = asyncio.Event()

    def gone(session: Session) -> None:
        here.discard(session)
        if not here:
            all_gone.set()

    for session in sessions:
        session.when_gone(partial(gone, session))
    if here:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE):
                await all_gone.wait()
    for session in here:
        session.cut()
