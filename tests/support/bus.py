"""A service of somebody else: raw envelopes on raw subjects, through nats-py alone.

``publish`` sends to ``live.service.…``, where one connection's messages keep their order; with
``root=Root.EVENTS`` an event goes through the stream and is acknowledged.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.envelope import new_id, timestamp
from natsbridge.schemas.subjects import (
    NO_RESOURCE,
    Address,
    Audience,
    Root,
    Subjects,
    decode_id,
    encode_id,
)
from tests.support.nats_server import settle

CATALOGUE: Final = Catalogue.load()

_EXTRA: Final[dict[str, dict[str, Any]]] = {
    "upload.progress": {"progress": 40},
    "upload.completed": {"result": {"size": 3}},
    "upload.error": {"error": "disk full"},
    "review.created": {"review": {"stars": 5}},
    "review.updated": {"changes": {"status": "open"}},
    "system.notification": {"message": "hello", "level": "info"},
    "system.maintenance": {"message": "soon", "status": "scheduled"},
    "file.processing": {"status": "processing"},
    "file.ready": {"status": "ready"},
    "user.status_changed": {"status": "away"},
}


class Place(Protocol):
    """Where a bridge finds its events."""

    nats_url: str
    subjects: Subjects


def topic(event_type: str, resource: str | None = None) -> Address:
    """The address of an event for whoever subscribed; ``resource`` is an id."""
    return Address(Audience.TOPIC, event_type, _token(resource))


def everyone(event_type: str, resource: str | None = None) -> Address:
    """The address of an event for every connection."""
    return Address(Audience.ALL, event_type, _token(resource))


def to_user(user: str, event_type: str, resource: str | None = None) -> Address:
    """The address of an event for one user's connections."""
    return Address(Audience.USER, event_type, _token(resource), encode_id(user))


def _token(resource: str | None) -> str:
    return NO_RESOURCE if resource is None else encode_id(resource)


def sample(address: Address) -> dict[str, Any]:
    """Return data that the type's model accepts, about the resource of this address."""
    data = dict(_EXTRA.get(address.event_type, {}))
    known = CATALOGUE.get(address.event_type)
    if known is not None and known.traits.resource is not None:
        token = address.resource
        data[known.traits.resource] = "1" if token == NO_RESOURCE else decode_id(token)
    return data


def envelope(address: Address, data: object = None, **fields: Any) -> dict[str, Any]:
    """Return an envelope that is in order, but for the fields given."""
    return {
        "type": address.event_type,
        "id": new_id(),
        "timestamp": timestamp(),
        "data": sample(address) if data is None else data,
        **fields,
    }


class Bus:
    """One NATS connection, in the subjects of one bridge."""

    connection: NatsClient

    def __init__(self, place: Place) -> None:
        self._url = place.nats_url
        self.subjects = place.subjects

    async def __aenter__(self) -> Self:
        self.connection = await nats.connect(self._url, allow_reconnect=False, connect_timeout=5)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.connection.close()

    async def settle(self) -> None:
        """Return when the server has all that was published and subscribed to before."""
        # nats-py writes the PING of a flush ahead of what still waits in its buffer, so that the
        # first PONG proves nothing. The buffer is sent meanwhile: the second one does.
        await self.connection.flush(5)
        await self.connection.flush(5)

    async def raw(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish bytes, and return when the server has them."""
        await self.connection.publish(subject, payload, headers=dict(headers) if headers else None)
        await settle(self.connection)

    async def store(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> int:
        """Publish bytes to the stream; return their sequence there once they are stored."""
        answer = await self.connection.request(
            subject, payload, timeout=5, headers=dict(headers) if headers else None
        )
        receipt = json.loads(answer.data)
        assert "error" not in receipt, receipt
        sequence: int = receipt["seq"]
        return sequence

    async def publish(
        self, address: Address, data: object = None, *, root: Root = Root.SERVICE, **fields: Any
    ) -> str:
        """Publish an event and return its id."""
        event = envelope(address, data, **fields)
        subject = self.subjects.event(root, address)
        payload = json.dumps(event).encode()
        if root is Root.EVENTS:
            await self.store(subject, payload)
        else:
            await self.raw(subject, payload)
        event_id: str = event["id"]
        return event_id

    async def marker(self, user: str, root: Root = Root.SERVICE) -> str:
        """Publish an event that every connection of this user gets, and return its id."""
        return await self.publish(to_user(user, "system.notification"), root=root)

    async def watch(self, subject: str) -> Subscription:
        """Subscribe, and return when the server knows of it."""
        subscription = await self.connection.subscribe(subject)
        await settle(self.connection)
        return subscription

    async def watch_rejected(self) -> Subscription:
        """Subscribe to all that bridges refuse."""
        return await self.watch(self.subjects.root(Root.REJECTED) + ".>")


async def protocol(url: str, data: bytes, login: Mapping[str, str] | None = None) -> None:
    """Send bytes to the broker as they stand, as no library would; return when it has read them.

    The broker may cut the connection for them. ``login`` is what ``CONNECT`` says of the user.
    """
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    claims = {"verbose": False, "headers": True, "no_responders": True, **(login or {})}
    try:
        writer.write(f"CONNECT {json.dumps(claims)}\r\n".encode())
        writer.write(data + b"PING\r\n")
        async with asyncio.timeout(5):
            while (line := await reader.readline()) and not line.startswith((b"PONG", b"-ERR")):
                pass
    except ConnectionError:
        pass
    finally:
        writer.close()


def with_header(subject: bytes, header: bytes, payload: bytes) -> bytes:
    """Return what publishes a payload behind these bytes as its header block."""
    sizes = b"%d %d" % (len(header), len(header) + len(payload))
    return b"HPUB " + subject + b" " + sizes + b"\r\n" + header + payload + b"\r\n"


async def next_message(subscription: Subscription, deadline: float = 5.0) -> Msg:
    """Return the next message; fail where none comes in time."""
    try:
        return await subscription.next_msg(timeout=deadline)
    except TimeoutError:
        raise AssertionError(f"nothing on {subscription.subject} in {deadline} s") from None
