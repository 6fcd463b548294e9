"""The publisher against a real broker with a real stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import nats
import pytest
from fastapi import FastAPI
from nats.aio.client import Client
from nats.aio.msg import Msg

from natsbridge.publishers import (
    EVERYBODY,
    SUBSCRIBERS,
    EventPublisher,
    InvalidEvent,
    PublisherSettings,
    StreamMissing,
    SystemEvents,
    UploadEvents,
)
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.events import UploadCompleted
from tests.support.nats_server import NatsServer, create_stream, settle

CATALOGUE = Catalogue.load()


class Listener:
    """A plain NATS client that hears everything under one prefix."""

    def __init__(self, connection: Client, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix
        self.heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def next(self) -> Msg:
        """Return the next message, without the deployment's prefix in its subject."""
        message = await asyncio.wait_for(self.heard.get(), 5)
        message.subject = message.subject.removeprefix(f"{self.prefix}.")
        return message


@pytest.fixture
def settings(nats_server: NatsServer) -> PublisherSettings:
    """A deployment of its own on the shared server, without a stream yet."""
    return PublisherSettings(url=(nats_server.url,), prefix=f"t{uuid4().hex}", timeout=5)


@pytest.fixture
async def stream(settings: PublisherSettings) -> str:
    """The stream of this deployment."""
    name = f"EVENTS_{settings.prefix}"
    await create_stream(settings.url[0], name=name, prefix=settings.prefix)
    return name


@pytest.fixture
async def listener(settings: PublisherSettings) -> AsyncIterator[Listener]:
    """Hear what reaches ``live.…``, and nothing of other tests."""
    connection = await nats.connect(settings.url[0])
    listener = Listener(connection, settings.prefix)
    await connection.subscribe(f"{settings.prefix}.live.>", cb=listener.heard.put)
    await settle(connection)
    yield listener
    await connection.close()


async def test_a_durable_event_is_stored_acknowledged_and_republished(
    settings: PublisherSettings, stream: str, listener: Listener
) -> None:
    """The receipt has the stream's sequence, and live subscribers get the very bytes, sequence
    included in the headers."""
    async with EventPublisher(settings, source="upload-service") as publisher:
        [receipt] = await UploadEvents(publisher).completed("u1", {"size": 3}, to="42")
    message = await listener.next()
    assert (receipt.stored, receipt.stream, receipt.sequence) == (True, stream, 1)
    assert not receipt.duplicate
    assert message.subject == "live.stream.user.42.upload.completed.u1"
    assert message.headers is not None
    assert message.headers["Nats-Sequence"] == "1"
    assert message.headers["Nats-Msg-Id"] == receipt.id
    assert message.headers["Bridge-Schema"] == "upload.completed@1"
    event = CATALOGUE.get("upload.completed").read(message.data)  # type: ignore[union-attr]
    assert (event.id, event.source) == (receipt.id, "upload-service")


async def test_an_ephemeral_event_is_not_stored(
    settings: PublisherSettings, stream: str, listener: Listener
) -> None:
    """``upload.progress`` reaches live subscribers directly and leaves nothing in the stream."""
    async with EventPublisher(settings) as publisher:
        [receipt] = await UploadEvents(publisher).progress("u1", 40, to="42")
    message = await listener.next()
    assert (receipt.stored, receipt.stream, receipt.sequence) == (False, None, None)
    assert message.headers is not None
    assert "Nats-Sequence" not in message.headers
    info = await listener.connection.jetstream().stream_info(stream)
    assert info.state.messages == 0


async def test_publishing_an_id_again_is_deduplicated(
    settings: PublisherSettings, stream: str, listener: Listener
) -> None:
    """A retry of the caller's own gets the first one's sequence and is delivered once."""
    data = UploadCompleted(upload_id="u1", result={})
    async with EventPublisher(settings) as publisher:
        [first] = await publisher.publish(data, to="42", event_id="order-7")
        [again] = await publisher.publish(data, to="42", event_id="order-7")
        [other] = await publisher.publish(data, to="42", event_id="order-8")
    assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
    assert first.sequence == again.sequence == 1
    assert other.sequence == 2
    assert [json.loads((await listener.next()).data)["id"] for _ in range(2)] == [
        "order-7",
        "order-8",
    ]


async def test_several_users_get_one_event_each(
    settings: PublisherSettings, stream: str, listener: Listener
) -> None:
    """None of them is lost to deduplication, and each has a receipt."""
    users = [f"user {number}" for number in range(100)]
    async with EventPublisher(settings) as publisher:
        receipts = await UploadEvents(publisher).error("u1", "disk full", to=users)
        again = await UploadEvents(publisher).error("u1", "disk full", to=users[:2], event_id="e")
        retry = await UploadEvents(publisher).error("u1", "disk full", to=users[:2], event_id="e")
    assert [receipt.user for receipt in receipts] == users
    assert sorted(receipt.sequence or 0 for receipt in receipts) == list(range(1, 101))
    assert [receipt.duplicate for receipt in again] == [False, False]
    assert [receipt.duplicate for receipt in retry] == [True, True]
    subjects = {(await listener.next()).subject for _ in users}
    assert subjects == {f"live.stream.user.user=20{n}.upload.error.u1" for n in range(100)}


@pytest.mark.parametrize(
    ("to", "subject"),
    [
        ("42", "live.stream.user.42.system.notification.-"),
        (SUBSCRIBERS, "live.stream.topic.system.notification.-"),
        (EVERYBODY, "live.stream.all.system.notification.-"),
    ],
)
async def test_each_audience_is_reached_on_its_subject(
    settings: PublisherSettings, stream: str, listener: Listener, to: str, subject: str
) -> None:
    """A user, the subscribers and everybody are told apart on the wire."""
    async with EventPublisher(settings) as publisher:
        await SystemEvents(publisher).notification("hello", to=to)
    assert (await listener.next()).subject == subject


async def test_nothing_is_sent_of_what_is_invalid(
    settings: PublisherSettings, stream: str, listener: Listener
) -> None:
    """The error names the field; of several users, none gets anything when one can't be."""
    async with EventPublisher(settings) as publisher:
        uploads = UploadEvents(publisher)
        with pytest.raises(InvalidEvent) as caught:
            await uploads.progress("u1", 101, to="42")
        assert caught.value.field == "data.progress"
        with pytest.raises(InvalidEvent) as caught:
            await uploads.error("u1", "disk full", to=["42", ""])
        assert caught.value.field == "to"
        with pytest.raises(InvalidEvent, match="bytes"):
            await uploads.error("u1", "x" * 65536, to="42")
        [receipt] = await uploads.completed("u1", {}, to="42")
    assert receipt.sequence == 1
    assert (await listener.next()).subject == "live.stream.user.42.upload.completed.u1"
    assert listener.heard.empty()


async def test_without_the_stream_a_durable_event_is_an_error(settings: PublisherSettings) -> None:
    """A durable event is never sent unstored unasked; the wait for the stream is bounded."""
    settings = settings.model_copy(update={"publish_deadline": 0.5})
    loop = asyncio.get_running_loop()
    async with EventPublisher(settings) as publisher:
        began = loop.time()
        with pytest.raises(StreamMissing) as caught:
            await UploadEvents(publisher).completed("u1", {}, to="42")
        assert loop.time() - began < 1.0
        assert caught.value.event is not None
        await create_stream(
            settings.url[0], name=f"EVENTS_{settings.prefix}", prefix=settings.prefix
        )
        receipt = await publisher.send(caught.value.event)
    assert (receipt.id, receipt.sequence) == (caught.value.event.id, 1)


async def test_a_type_that_the_stream_does_not_take_is_an_error(
    settings: PublisherSettings,
) -> None:
    """NATS refuses it, and the error names what adds it; other types are stored."""
    settings = settings.model_copy(update={"publish_deadline": 3.0})
    only = Catalogue([UploadCompleted])
    name = f"EVENTS_{settings.prefix}"
    await create_stream(settings.url[0], name=name, prefix=settings.prefix, catalogue=only)
    async with EventPublisher(settings) as publisher:
        [receipt] = await UploadEvents(publisher).completed("u1", {}, to="42")
        assert receipt.stored
        with pytest.raises(StreamMissing, match=r"not take this type.*natsbridge stream apply"):
            await UploadEvents(publisher).error("u1", "disk full", to="42")


async def test_a_stream_that_comes_a_little_later_is_waited_for(
    settings: PublisherSettings,
) -> None:
    """A service may start before the bridge that creates the stream."""
    async with EventPublisher(settings) as publisher:
        publishing = asyncio.create_task(UploadEvents(publisher).completed("u1", {}, to="42"))
        await UploadEvents(publisher).progress("u1", 99, to="42")
        await create_stream(
            settings.url[0], name=f"EVENTS_{settings.prefix}", prefix=settings.prefix
        )
        [receipt] = await publishing
    assert receipt.stored


async def test_without_the_stream_durable_events_go_live_where_that_is_set(
    settings: PublisherSettings, listener: Listener
) -> None:
    """With the setting ``live`` they are delivered unstored, and the receipt says so."""
    settings = settings.model_copy(update={"without_stream": "live"})
    async with EventPublisher(settings) as publisher:
        [receipt] = await UploadEvents(publisher).completed("u1", {}, to="42")
    message = await listener.next()
    assert (receipt.stored, receipt.sequence) == (False, None)
    assert message.subject == "live.service.user.42.upload.completed.u1"
    assert message.headers is not None
    assert "Nats-Sequence" not in message.headers


async def test_with_the_stream_the_setting_changes_nothing(
    settings: PublisherSettings, stream: str
) -> None:
    """``live`` is for brokers without the stream; where it is there, events are stored."""
    settings = settings.model_copy(update={"without_stream": "live"})
    async with EventPublisher(settings) as publisher:
        [receipt] = await UploadEvents(publisher).completed("u1", {}, to="42")
    assert receipt.stored


async def test_a_broker_without_jetstream_is_like_one_without_the_stream(
    plain_nats_server: NatsServer,
) -> None:
    """The two can't be told apart by a service, and need not be."""
    url = (plain_nats_server.url,)
    async with EventPublisher(PublisherSettings(url=url, publish_deadline=2)) as publisher:
        with pytest.raises(StreamMissing):
            await UploadEvents(publisher).completed("u1", {}, to="42")
    settings = PublisherSettings(url=url, without_stream="live")
    async with EventPublisher(settings) as publisher:
        [receipt] = await UploadEvents(publisher).completed("u1", {}, to="42")
    assert not receipt.stored


async def test_many_tasks_share_one_publisher(settings: PublisherSettings, stream: str) -> None:
    """A service needs one publisher however many requests it serves at a time."""
    async with EventPublisher(settings) as publisher:
        uploads = UploadEvents(publisher)
        receipts = await asyncio.gather(
            *(uploads.completed(f"u{number}", {}, to="42") for number in range(500))
        )
    assert sorted(receipt.sequence or 0 for [receipt] in receipts) == list(range(1, 501))


async def test_a_fastapi_service_publishes_inside_its_lifespan(
    settings: PublisherSettings, stream: str
) -> None:
    """The publisher is opened and closed by the application it lives in."""
    publisher = EventPublisher(settings, source="upload-service")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with publisher:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/uploads/{upload_id}")
    async def complete(upload_id: str) -> int | None:
        [receipt] = await UploadEvents(publisher).completed(upload_id, {}, to="42")
        return receipt.sequence

    service = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
    async with app.router.lifespan_context(app), service:
        assert (await service.post("/uploads/u1")).json() == 1
        assert (await service.post("/uploads/u2")).json() == 2
    assert not publisher.connection.is_connected
