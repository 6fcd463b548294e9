"""The publisher while its broker is away, frozen, killed, or not to be reached at all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import nats
import pytest

from natsbridge.publishers import (
    BrokerUnavailable,
    EventPublisher,
    NotAcknowledged,
    OutgoingEvent,
    PublisherSettings,
    Receipt,
    UploadEvents,
)
from natsbridge.publishers.connection import MAX_UNSENT
from natsbridge.schemas.events import FileProcessing
from tests.conftest import StartNats
from tests.support.nats_server import NatsServer, create_stream, free_port


def settings(server: NatsServer, timeout: float) -> PublisherSettings:
    return PublisherSettings(url=(server.url,), timeout=timeout, publish_deadline=timeout)


@pytest.mark.parametrize("method", ["progress", "completed"])
async def test_a_broker_that_is_away_is_a_typed_error_in_bounded_time(
    own_nats_server: NatsServer, method: str
) -> None:
    """Durable or ephemeral: neither silence nor a buffer nobody sees, but an error in time."""
    async with EventPublisher(settings(own_nats_server, 0.5)) as publisher:
        uploads = UploadEvents(publisher)
        await uploads.progress("u1", 0, to="42")
        own_nats_server.stop()
        await lost(publisher)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            await publish(uploads, method)
        assert 0.4 < time.monotonic() - began < 1.5
        assert caught.value.event is not None
        assert caught.value.event.type == f"upload.{method}"


@pytest.mark.parametrize("method", ["progress", "completed"])
async def test_a_publish_waits_for_a_broker_that_comes_back(
    own_nats_server: NatsServer, method: str
) -> None:
    """A short absence costs a wait and nothing else."""
    await create_stream(own_nats_server.url, memory=False)
    async with EventPublisher(settings(own_nats_server, 20)) as publisher:
        uploads = UploadEvents(publisher)
        own_nats_server.stop()
        await lost(publisher)
        publishing = asyncio.create_task(publish(uploads, method))
        await asyncio.to_thread(own_nats_server.start)
        [receipt] = await publishing
        assert receipt.stored == (method == "completed")


async def test_a_frozen_broker_is_a_typed_error_and_the_retry_is_deduplicated(
    own_nats_server: NatsServer,
) -> None:
    """The event may have been stored, the error says so and carries it; sending it again with its
    id stores it once."""
    await create_stream(own_nats_server.url)
    async with EventPublisher(settings(own_nats_server, 0.8)) as publisher:
        uploads = UploadEvents(publisher)
        await uploads.completed("u0", {}, to="42")
        own_nats_server.pause()
        began = time.monotonic()
        with pytest.raises(NotAcknowledged) as caught:
            await uploads.completed("u1", {}, to="42")
        assert 0.6 < time.monotonic() - began < 2
        own_nats_server.resume()
        assert caught.value.event is not None
        receipt = await publisher.send(caught.value.event)
    assert (receipt.duplicate, receipt.sequence) == (True, 2)
    assert await stored(own_nats_server) == 2


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_no_acknowledged_event_is_lost_or_doubled_over_a_restart(
    own_nats_server: NatsServer, kill: bool
) -> None:
    """Tasks that publish while the broker restarts get their receipts, and the stream holds each
    event once."""
    await create_stream(own_nats_server.url, memory=False)
    receipts: list[int] = []
    restarted = asyncio.Event()

    async def publish(worker: int) -> None:
        number = 0
        while not restarted.is_set() or number < 20:
            [receipt] = await uploads.completed(f"u{worker}-{number}", {}, to="42")
            assert receipt.sequence is not None
            receipts.append(receipt.sequence)
            number += 1

    async with EventPublisher(settings(own_nats_server, 20)) as publisher:
        uploads = UploadEvents(publisher)
        async with asyncio.TaskGroup() as group:
            for worker in range(4):
                group.create_task(publish(worker))
            for _ in range(2):
                seen = len(receipts)
                while len(receipts) < seen + 20:  # noqa: ASYNC110  # the tasks' own progress
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(own_nats_server.stop, kill=kill)
                await asyncio.to_thread(own_nats_server.start)
            restarted.set()
    assert len(receipts) == len(set(receipts)) == await stored(own_nats_server)


async def test_opening_without_a_broker_fails_in_time() -> None:
    """A service that can't reach its broker at start says so instead of hanging."""
    url = f"nats://user:secret@127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"no connection to 127\.0\.0\.1") as caught:
        async with EventPublisher(PublisherSettings(url=(url,), timeout=0.5)):
            pass
    assert time.monotonic() - began < 2
    assert "secret" not in str(caught.value)


async def test_a_publisher_can_be_opened_again_after_it_failed(
    own_nats_server: NatsServer,
) -> None:
    """A service may keep trying with one publisher until its broker is there."""
    publisher = EventPublisher(settings(own_nats_server, 0.3))
    own_nats_server.stop()
    with pytest.raises(BrokerUnavailable):
        await publisher.open()
    own_nats_server.start()
    async with publisher:
        await UploadEvents(publisher).progress("u1", 1, to="42")


async def test_wrong_credentials_are_told(start_nats: StartNats) -> None:
    """The reason is the broker's own words, and no secret is in it."""
    server = start_nats(arguments=("--user", "svc", "--pass", "right"))
    try:
        good = PublisherSettings.from_environment(
            {
                "BRIDGE_NATS_URL": server.url,
                "BRIDGE_NATS_USER": "svc",
                "BRIDGE_NATS_PASSWORD": "right",
                "BRIDGE_NATS_TIMEOUT": "0.5",
            }
        )
        async with EventPublisher(good) as publisher:
            await UploadEvents(publisher).progress("u1", 1, to="42")
        with pytest.raises(BrokerUnavailable, match="Authorization Violation") as caught:
            await EventPublisher(settings(server, 1.5)).open()
        assert "right" not in str(caught.value)
    finally:
        server.close()


async def test_a_broker_that_does_not_read_is_an_error_and_closing_is_bounded(
    own_nats_server: NatsServer,
) -> None:
    """What waits for a frozen broker is bounded: then sending raises, and a service can stop."""
    publisher = EventPublisher(settings(own_nats_server, 0.3))
    await publisher.open()
    [event] = publisher.prepare(FileProcessing(file_id="f1", status="x" * 60_000), to="42")
    own_nats_server.pause()
    try:
        with pytest.raises(BrokerUnavailable, match="does not read"):
            await send_on_and_on(publisher, event)
        began = time.monotonic()
        await publisher.close()
        assert time.monotonic() - began < 2
    finally:
        own_nats_server.resume()


async def test_what_waits_for_a_broker_is_bounded_for_all_together(
    own_nats_server: NatsServer,
) -> None:
    """However many tasks send to a frozen broker at once, once the system takes no more: but for a
    few they get the error, and what waits stays at a few times ``MAX_UNSENT``.
    """
    async with EventPublisher(settings(own_nats_server, 0.1)) as publisher:
        [event] = publisher.prepare(FileProcessing(file_id="f1", status="x" * 60_000), to="42")
        client: Any = publisher.connection._client
        transport = client._transport._io_writer.transport
        own_nats_server.pause()
        try:
            while not transport.get_write_buffer_size():
                with pytest.raises(BrokerUnavailable, match="does not read"):
                    await send_on_and_on(publisher, event)
            sending = [publisher.send(event) for _ in range(2000)]
            results = await asyncio.gather(*sending, return_exceptions=True)
            waiting = client.pending_data_size + transport.get_write_buffer_size()
            assert sum(isinstance(each, BrokerUnavailable) for each in results) > 1900
            assert waiting < 3 * MAX_UNSENT
        finally:
            own_nats_server.resume()


@pytest.mark.parametrize("restarts", [False, True], ids=["reads again", "restarts"])
async def test_who_waits_for_a_broker_that_does_not_read_is_not_forgotten(
    own_nats_server: NatsServer, restarts: bool
) -> None:
    """All is sent once it reads again, or is there anew; in order, and never much at once."""
    async with EventPublisher(settings(own_nats_server, 20)) as publisher:
        [event] = publisher.prepare(FileProcessing(file_id="f1", status="x" * 60_000), to="42")
        client: Any = publisher.connection._client
        own_nats_server.pause()
        sent: list[int] = []

        async def send(number: int) -> None:
            await publisher.send(event)
            sent.append(number)
            assert client.pending_data_size < 2 * MAX_UNSENT

        sending = [asyncio.create_task(send(number)) for number in range(1000)]
        await asyncio.wait(sending, timeout=0.5)
        assert len(sent) < 900
        began = time.monotonic()
        if restarts:
            await asyncio.to_thread(own_nats_server.stop, kill=True)
            await asyncio.to_thread(own_nats_server.start)
        else:
            own_nats_server.resume()
        await asyncio.gather(*sending)
        assert time.monotonic() - began < 5
        assert sent == list(range(1000))


async def publish(uploads: UploadEvents, method: str) -> list[Receipt]:
    """Publish an ephemeral event, or a durable one."""
    if method == "progress":
        return await uploads.progress("u1", 50, to="42")
    return await uploads.completed("u1", {}, to="42")


async def send_on_and_on(publisher: EventPublisher, event: OutgoingEvent) -> None:
    """Send more than all buffers on the way can hold."""
    for _ in range(2000):
        await publisher.send(event)


async def lost(publisher: EventPublisher) -> None:
    """Wait until the publisher has noticed that its broker is gone."""
    async with asyncio.timeout(5):
        while publisher.connection.is_connected:  # noqa: ASYNC110  # nothing tells it earlier
            await asyncio.sleep(0.005)


async def stored(server: NatsServer) -> int:
    """Return how many messages the stream holds."""
    connection = await nats.connect(server.url)
    try:
        info = await connection.jetstream().stream_info("EVENTS")
        return info.state.messages
    finally:
        await connection.close()
