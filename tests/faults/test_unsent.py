"""A broker that is gone without a word while megabytes wait to be sent to it: nats-py closes such a
connection before it makes another, and closing waits for what is unsent.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import pytest

from natsbridge.publishers import BrokerUnavailable, EventPublisher, PublisherSettings
from natsbridge.schemas.events import FileProcessing
from tests.faults.conftest import Figure
from tests.integration.test_ingest_nats import line, publisher
from tests.integration.test_publishers_faults import send_on_and_on
from tests.support.bus import next_message
from tests.support.faulty import eventually
from tests.support.nats_server import NatsServer, settle
from tests.support.proxy import Proxy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no TCP_USER_TIMEOUT")

MEGABYTE: Final = b"PUB unsent 1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
MEGABYTES: Final = 32
"""Far more than the kernel takes for a peer that does not read."""

NOTICE: Final = 20.0
BACK: Final = 5.0
"""Longest times, in seconds: until the connection is given up, and until there is another, counted
from when the broker is there again.
"""

AGAIN: Final = pytest.mark.parametrize("again", [False, True], ids=["first", "made again"])
"""Whether the connection is the first one, or one that was made after another was lost."""


def unsent(client: Any) -> int:
    """How many bytes wait inside the process, in nats-py or in asyncio."""
    in_asyncio: int = client._transport._io_writer.transport.get_write_buffer_size()
    return in_asyncio + int(client.pending_data_size)


@AGAIN
async def test_of_the_bridge(
    own_nats_server: NatsServer, again: bool, repetition: int, figure: Figure
) -> None:
    """The bridge gives the connection up while the broker is still gone, is connected once it is
    back, and has its subscriptions there.
    """
    with Proxy(own_nats_server.url) as proxy:
        async with line(proxy.url) as mine, publisher(own_nats_server.url) as other:
            mine.hold("again")
            await mine.confirmed()
            if again:
                mine.came_up.clear()
                proxy.cut()
                await eventually(mine.came_up.is_set, "connected again", BACK)
            mine.went_down.clear()
            mine.came_up.clear()
            proxy.swallow()
            mine.connection.write(MEGABYTE * MEGABYTES)
            assert unsent(mine.connection.client) > len(MEGABYTE)
            took = await eventually(mine.went_down.is_set, "given up", NOTICE)
            figure(f"given up after {took:.1f} s")
            proxy.heal()
            took = await eventually(mine.came_up.is_set, "connected again", BACK)
            figure(f"connected {took:.1f} s after the healing")
            await mine.confirmed()
            await other.publish("again", b"x")
            assert await mine.next() == ("again", b"x")


@AGAIN
async def test_of_the_sdk(
    own_nats_server: NatsServer, again: bool, repetition: int, figure: Figure
) -> None:
    """A service's publisher gives the connection up while the broker is still gone, is connected
    once it is back, and what it publishes then arrives.
    """
    with Proxy(own_nats_server.url) as proxy:
        settings = PublisherSettings(url=(proxy.url,), timeout=0.5)
        async with EventPublisher(settings) as service, publisher(own_nats_server.url) as other:
            subscription = await other.subscribe("live.service.user.42.file.processing.f1")
            await settle(other)
            [large] = service.prepare(FileProcessing(file_id="f0", status="x" * 60_000), to="42")
            [event] = service.prepare(FileProcessing(file_id="f1", status="new"), to="42")
            if again:
                proxy.cut()
                await eventually(lambda: proxy.accepted > 1, "connecting again", BACK)
                await service.connection.ready(asyncio.get_running_loop().time() + BACK)
            accepted = proxy.accepted
            proxy.swallow()
            while unsent(service.connection._client) < len(MEGABYTE):
                with pytest.raises(BrokerUnavailable, match="does not read"):
                    await send_on_and_on(service, large)
            assert proxy.accepted == accepted
            took = await eventually(lambda: proxy.accepted > accepted, "given up", NOTICE)
            figure(f"given up {took:.1f} s after a megabyte was unsent")
            proxy.heal()
            took = await eventually(lambda: service.connection.is_connected, "connected", BACK)
            figure(f"connected {took:.1f} s after the healing")
            await service.send(event)
            assert (await next_message(subscription)).data == event.payload
