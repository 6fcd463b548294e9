"""The life of one bridge process: from its settings to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

from natsbridge.bridge.app import Bridge
from natsbridge.bridge.errors import StartError
from natsbridge.bridge.http.acceptor import raise_descriptors
from natsbridge.bridge.runtime.garbage import Collector
from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.bridge.settings import BridgeSettings


def run(settings: BridgeSettings, on_ready: Callable[[str], None]) -> None:
    """Run one bridge to its end; see :func:`serve`."""
    raise_descriptors()
    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(serve(settings, on_ready))


async def serve(settings: BridgeSettings, on_ready: Callable[[str], None]) -> None:
    """Run one bridge until SIGTERM or SIGINT, and stop it in order; SIGHUP has it read certificates
    and keys again, unless it says that the terminal is gone.

    ``on_ready`` gets the base URL once clients can connect. Raises :class:`StartError` for what its
    owner can mend. A second signal cuts the drain short.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    on_terminal = sys.stdin is not None and sys.stdin.isatty()

    def on_hangup() -> None:
        if on_terminal and not sys.stdin.isatty():
            on_signal()  # the terminal has gone
        else:
            bridge.reload()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        bridge = Bridge(settings, loop)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
        collector = Collector(loop, bridge.work)
        starting = loop.create_task(bridge.start())
        stopped = loop.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            url = await starting
            collector.start()
            on_ready(url)
            await stopped
        else:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StartError):
                await starting
        collector.stop()
        stopping = loop.create_task(bridge.stop())
        hurried = loop.create_task(hurry.wait())
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
