"""Buckets on a real NATS: who gets a value, what is refused, and what becomes of the bucket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from natsbridge.bridge.errors import BrokerUnavailable, BucketFull
from natsbridge.bridge.nats.buckets import Bucket, Shape, bucket_name
from natsbridge.bridge.nats.connection import Nobody
from tests.support.cluster import Cluster
from tests.support.faulty import eventually
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.anyio

AGE = 60.0


class Requests:
    """A client of NATS as a bucket wants it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: list[str] = []

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> bytes:
        """Ask, as the bridge's connection does."""
        self.asked.append(subject)
        try:
            answer = await self.client.request(subject, payload, timeout=5, headers=headers)
        except nats.errors.NoRespondersError:
            raise Nobody("nobody answers") from None
        except nats.errors.Error as problem:
            raise BrokerUnavailable("no answer in time") from problem
        return bytes(answer.data)

    async def info(self, shape: Shape) -> dict[str, Any]:
        """Return what JetStream tells of a bucket."""
        found = await self.request(f"$JS.API.STREAM.INFO.KV_{shape.name}", b"")
        told: dict[str, Any] = json.loads(found)
        return told


def new_shape() -> Shape:
    """Return a bucket that no other test uses."""
    return Shape(f"b{uuid4().hex[:12]}", AGE, max_values=100, max_bytes=100_000)


def bucket(requests: Requests, shape: Shape) -> Bucket:
    """Return the bucket as one replica has it."""
    return Bucket(requests, shape, asyncio.get_running_loop().time)


@pytest.fixture
async def requests(nats_server: NatsServer) -> AsyncIterator[Requests]:
    """A connection of this test."""
    client = await nats.connect(nats_server.url)
    yield Requests(client)
    await client.close()


async def test_a_value_is_taken_once(requests: Requests) -> None:
    """By whichever replica comes first; afterwards, and for a key that never was, there is none."""
    shape = new_shape()
    one, two = bucket(requests, shape), bucket(requests, shape)
    assert await two.take("a") is None
    await one.create("a", b"\x00value")
    assert await two.take("a") == b"\x00value"
    assert await one.take("a") is None
    assert await one.take("b") is None
    with pytest.raises(BrokerUnavailable):
        await two.create("a", b"again")


async def race(first: Bucket, second: Bucket, rounds: int) -> None:
    for number in range(rounds):
        key, value = f"k{number}", str(number).encode()
        await first.create(key, value)
        taken = await asyncio.gather(*(each.take(key) for each in (first, second, first, second)))
        assert sorted(taken, key=bool) == [None, None, None, value], key


async def test_of_takers_at_once_one_gets_it(requests: Requests, nats_server: NatsServer) -> None:
    """Two hundred times, on two connections."""
    shape = replace(new_shape(), max_values=1000)
    client = await nats.connect(nats_server.url)
    await race(bucket(requests, shape), bucket(Requests(client), shape), 200)
    await client.close()


async def test_of_takers_at_once_one_gets_it_in_a_cluster(cluster: Cluster) -> None:
    """With three replicas too, each taker at a server of its own."""
    shape = replace(new_shape(), max_values=1000, replicas=3)
    clients = [await nats.connect(url) for url in cluster.urls[:2]]
    one, two = (bucket(Requests(client), shape) for client in clients)
    await race(one, two, 50)
    for client in clients:
        await client.close()


async def test_a_full_bucket_refuses_and_keeps_what_it_has(requests: Requests) -> None:
    """At its bound, in values or in bytes, a new value is refused; what is there can be taken."""
    shape = replace(new_shape(), max_values=3)
    full = bucket(requests, shape)
    for key in "abc":
        await full.create(key, b"v")
    for _ in range(2):
        with pytest.raises(BucketFull):
            await full.create("d", b"v")
    assert [await full.take(key) for key in "abc"] == [b"v"] * 3
    narrow = bucket(requests, replace(new_shape(), max_bytes=1000))
    await narrow.create("a", b"v" * 600)
    with pytest.raises(BucketFull):
        await narrow.create("b", b"v" * 600)
    assert await narrow.take("a") == b"v" * 600


async def test_values_go_after_their_time(requests: Requests) -> None:
    """By NATS's own clock: no replica has to remember them, or agree on the time."""
    shape = replace(new_shape(), max_age=1)
    short = bucket(requests, shape)
    await short.create("a", b"v")

    async def is_empty() -> bool:
        return (await requests.info(shape))["state"]["messages"] == 0

    await eventually(is_empty, "expired", 10)
    assert await short.take("a") is None


async def test_a_bucket_gets_the_shape_of_the_settings(requests: Requests) -> None:
    """One that was made with other bounds is changed, before the first value, and keeps its own."""
    shape = new_shape()
    await bucket(requests, shape).create("a", b"v")
    later = replace(shape, max_age=30, max_values=7)
    newer = bucket(requests, later)
    await newer.create("b", b"w")
    config = (await requests.info(shape))["config"]
    assert (config["max_age"], config["max_msgs"]) == (30_000_000_000, 7)
    assert (config["storage"], config["discard"], config["num_replicas"]) == ("memory", "new", 1)
    assert not config["allow_direct"]
    assert await newer.take("a") == b"v"


async def test_a_bucket_that_is_deleted_is_made_anew(requests: Requests) -> None:
    """Its values are gone, new ones are stored."""
    shape = new_shape()
    lasting = bucket(requests, shape)
    await lasting.create("a", b"v")
    await requests.request(f"$JS.API.STREAM.DELETE.KV_{shape.name}", b"")
    assert await lasting.take("a") is None
    await lasting.create("b", b"w")
    assert await lasting.take("b") == b"w"


async def test_reads_never_go_to_a_replica(requests: Requests) -> None:
    """No request of a bucket is a Direct Get."""
    shape = new_shape()
    plain = bucket(requests, shape)
    await plain.create("a", b"v")
    await plain.take("a")
    assert not [subject for subject in requests.asked if ".DIRECT." in subject]
    assert f"$JS.API.STREAM.MSG.GET.KV_{shape.name}" in requests.asked


async def test_without_jetstream(
    plain_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Storing and taking say so at once, and storing is not tried again for a while."""
    requests = Requests(await nats.connect(plain_nats_server.url))
    away = bucket(requests, new_shape())
    with pytest.raises(BrokerUnavailable):
        await away.take("a")
    with pytest.raises(BrokerUnavailable):
        await away.create("a", b"v")
    asked = len(requests.asked)
    with pytest.raises(BrokerUnavailable):
        await away.create("a", b"v")
    assert len(requests.asked) == asked
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await requests.client.close()


async def test_who_answers_in_place_of_the_stream_stores_nothing(requests: Requests) -> None:
    """An answer that is no acknowledgement of this bucket's stream is none."""
    shape = new_shape()
    fooled = bucket(requests, shape)
    await fooled.create("a", b"v")
    await requests.request(f"$JS.API.STREAM.DELETE.KV_{shape.name}", b"")

    async def answer(message: Any) -> None:
        await message.respond(b'{"stream": "OTHER", "seq": 1}')

    await requests.client.subscribe(f"$KV.{shape.name}.>", cb=answer)
    await requests.client.flush()
    with pytest.raises(BrokerUnavailable):
        await fooled.create("b", b"v")


def test_no_two_prefixes_share_a_bucket() -> None:
    """A bucket's name has no dots, and each prefix comes to a name of its own."""
    prefixes = ["", "a", "a.b", "a_b", "a_-b", "a-b", "a..b", "a__b", "a_.b", "a._b", "a-.b"]
    names = [bucket_name(prefix, "bridge_tickets") for prefix in prefixes]
    assert names[:3] == ["bridge_tickets", "a_bridge_tickets", "a_-b_bridge_tickets"]
    assert len(set(names)) == len(names)
    assert not any("." in name for name in names)
