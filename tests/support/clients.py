"""What a client holds: a token, a WebSocket, and strict expectations of what comes next.

``Client.expect`` takes the next message and fails when it is another one: nothing is skipped.
That something does not come is shown by a later marker on the same path, see ``Client.until``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

import httpx
import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from natsbridge.schemas.codes import INVALID_TOKEN, CloseCode

SECRET: Final = "contract-tests-sign-with-this-secret-of-64-bytes-0123456789-0123456789"
DEADLINE: Final = 5.0
"""Longest wait for one message, in seconds."""

Message = dict[str, Any]
Way = Literal["header", "subprotocol", "ticket", "message", "path"]
WAYS: Final[tuple[Way, ...]] = ("header", "subprotocol", "ticket", "message", "path")

_numbers = itertools.count(1)


def new_user(name: str = "user") -> str:
    """Return a user id that no other test uses: limits are counted by user."""
    return f"{name}-{next(_numbers)}"


def mint(user: str, *, secret: str = SECRET, lifetime: float = 600, **claims: Any) -> str:
    """Return a token of this user; a claim that is None is left out."""
    payload: dict[str, Any] = {"sub": user, "exp": int(time.time() + lifetime), **claims}
    given = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(given, secret, algorithm="HS256")


def allow(*patterns: str, deny: Sequence[str] = ()) -> dict[str, Any]:
    """Return a ``grants`` claim for subscriptions."""
    return {"subscribe": {"allow": list(patterns), "deny": list(deny)}}


def http(url: str, token: str | None = None) -> httpx.AsyncClient:
    """Return an HTTP client of the bridge, authorised by this token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=10, trust_env=False)


async def ticket(url: str, token: str) -> str:
    """Exchange a token for a ticket."""
    async with http(url, token) as client:
        answer = await client.post("/ws/tickets")
    assert answer.status_code == 200, answer.text
    value = answer.json()["data"]["ticket"]
    assert isinstance(value, str)
    return value


class Client:
    """One WebSocket connection."""

    def __init__(self, socket: ClientConnection, user: str = "", token: str = "") -> None:
        self.socket = socket
        self.user = user
        self.token = token
        self.established: Message = {}

    @property
    def id(self) -> str:
        """The connection's id, once it is established."""
        value: str = self.established["data"]["connection_id"]
        return value

    async def send(self, kind: str, data: object = None, id: str | None = None) -> None:  # noqa: A002  # the name on the wire
        """Send a message, without the parts that are None."""
        message = {"type": kind, "data": data, "id": id}
        await self.send_raw(json.dumps({k: v for k, v in message.items() if v is not None}))

    async def send_raw(self, message: str | bytes) -> None:
        """Send a text or a binary message as it stands."""
        await self.socket.send(message)

    async def receive_text(self, deadline: float = DEADLINE) -> str:
        """Return the next message as text."""
        try:
            async with asyncio.timeout(deadline):
                text = await self.socket.recv()
        except TimeoutError:
            raise AssertionError(f"{self.user}: nothing came in {deadline} s") from None
        except ConnectionClosed:
            code, reason = self.socket.close_code, self.socket.close_reason
            raise AssertionError(f"{self.user}: closed with {code} {reason!r}") from None
        assert isinstance(text, str), "the bridge sends text"
        return text

    async def receive(self, deadline: float = DEADLINE) -> Message:
        """Return the next message."""
        message = json.loads(await self.receive_text(deadline))
        assert isinstance(message, dict)
        return message

    async def expect(self, kind: str, deadline: float = DEADLINE) -> Message:
        """Return the next message, which is of this type."""
        message = await self.receive(deadline)
        assert message["type"] == kind, message
        return message

    async def expect_error(
        self, code: str, reply_to: str | None = None, deadline: float = DEADLINE
    ) -> Message:
        """Return the next message, which is this error and answers that message."""
        message = await self.expect("error", deadline)
        assert message["data"]["code"] == code, message
        assert message["data"]["message"], message
        assert message.get("reply_to") == reply_to, message
        return message

    async def expect_event(self, event_id: str, deadline: float = DEADLINE) -> Message:
        """Return the next message, which is the event of this id."""
        message = await self.receive(deadline)
        assert message.get("id") == event_id, message
        return message

    async def expect_close(self, row: CloseCode, deadline: float = DEADLINE) -> None:
        """See that nothing more comes but this close code with its reason.

        Before 4500 one error comes that says why.
        """
        if row is INVALID_TOKEN:
            await self.expect("error", deadline)
        assert (*await self.closed(deadline),) == (row.code, row.name)

    async def closed(self, deadline: float = DEADLINE) -> tuple[int | None, str | None]:
        """Return code and reason of the close, before which no message comes."""
        messages = await self.until_closed(deadline)
        assert not messages, messages
        return self.socket.close_code, self.socket.close_reason

    async def until_closed(self, deadline: float = DEADLINE) -> list[Message]:
        """Return all messages that come before the connection is closed."""
        messages = await self.until_closed_or("", deadline)
        assert self.socket.close_code is not None
        return messages

    async def until_closed_or(self, kind: str, deadline: float = DEADLINE) -> list[Message]:
        """Return all messages up to the first of this type, or before the close."""
        messages: list[Message] = []
        try:
            async with asyncio.timeout(deadline):
                while not messages or messages[-1]["type"] != kind:
                    messages.append(json.loads(await self.socket.recv()))
        except ConnectionClosed:
            pass
        except TimeoutError:
            raise AssertionError(f"{self.user}: still open, after {messages}") from None
        return messages

    async def until(self, event_id: str, deadline: float = DEADLINE) -> list[Message]:
        """Return all messages that come before the one of this id, which comes too."""
        messages: list[Message] = []
        async with asyncio.timeout(deadline):
            while (message := await self.receive(deadline)).get("id") != event_id:
                messages.append(message)
        return messages

    async def ask(self, kind: str, data: object = None, deadline: float = DEADLINE) -> Message:
        """Send a message and return the next one that comes, which answers it."""
        message_id = f"m{next(_numbers)}"
        await self.send(kind, data, message_id)
        answer = await self.receive(deadline)
        assert answer.get("reply_to") == message_id, answer
        return answer

    async def ping(self) -> None:
        """See that the connection lives and that nothing else is on its way."""
        answer = await self.ask("ping", {"pingId": "p"})
        assert answer["type"] == "pong", answer
        assert answer["data"]["pingId"] == "p", answer

    async def subscribe(self, *events: str) -> Message:
        """Subscribe and return the acknowledgement's data; every pattern is accepted."""
        answer = await self.ask("subscribe", {"events": list(events)})
        assert answer["type"] == "subscription.acknowledged", answer
        data: Message = answer["data"]
        assert data["events"] == list(events), data
        assert data["invalid_events"] == [], data
        return data

    async def unsubscribe(self, *events: str) -> None:
        """Unsubscribe from patterns that are held."""
        answer = await self.ask("unsubscribe", {"events": list(events)})
        assert answer["type"] == "unsubscription.acknowledged", answer
        assert answer["data"]["events"] == list(events), answer

    async def refused(self, *events: str) -> Message:
        """Subscribe to patterns none of which is accepted; return the acknowledgement's data."""
        answer = await self.ask("subscribe", {"events": list(events)})
        assert answer["type"] == "subscription.acknowledged", answer
        data: Message = answer["data"]
        assert data["events"] == [], data
        assert data["invalid_events"] == list(events), data
        await self.expect_error("SUBSCRIPTION_FAILED", answer["reply_to"])
        return data


class Clients:
    """Connections to one bridge, closed together at the end of the block."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sockets: list[ClientConnection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(socket.close() for socket in self._sockets))

    async def open(
        self,
        path: str = "/ws",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        compression: str | None = None,
    ) -> Client:
        """Upgrade; raises ``InvalidStatus`` where that is refused."""
        url = self._url.replace("http", "ws", 1) + path
        if query:
            url += "?" + urlencode(query)
        socket = await connect(
            url,
            additional_headers=dict(headers or {}),
            origin=origin,  # type: ignore[arg-type]  # NewTypes of str
            subprotocols=subprotocols,  # type: ignore[arg-type]
            compression=compression,
            proxy=None,
            ping_interval=None,
            close_timeout=2,
            max_size=None,
            max_queue=None,
        )
        self._sockets.append(socket)
        return Client(socket)

    async def connect(
        self, token: str, way: Way = "path", *, query: Mapping[str, str] | None = None
    ) -> Client:
        """Bring a token in one of the five ways; what the bridge answers is left to be read."""
        query = dict(query or {})
        match way:
            case "header":
                headers = {"Authorization": f"Bearer {token}"}
                client = await self.open(query=query, headers=headers)
            case "subprotocol":
                offer = ["bridge.v1", f"bearer.{token}"]
                client = await self.open(query=query, subprotocols=offer)
            case "ticket":
                query["ticket"] = await ticket(self._url, token)
                client = await self.open(query=query)
            case "message":
                client = await self.open(query=query)
                await client.send("authenticate", {"token": token})
            case "path":
                client = await self.open(f"/ws/{token}", query=query)
        client.token = token
        return client

    async def join(
        self,
        user: str | None = None,
        *,
        token: str | None = None,
        way: Way = "path",
        query: Mapping[str, str] | None = None,
        **claims: Any,
    ) -> Client:
        """Connect and read ``connection.established``; a user of its own when none is named."""
        user = new_user() if user is None else user
        client = await self.connect(token or mint(user, **claims), way, query=query)
        client.user = user
        client.established = await client.expect("connection.established")
        assert client.established["data"]["user_id"] == user, client.established
        return client

    async def rejected(self, path: str = "/ws", **options: Any) -> Response:
        """Return the HTTP answer to an upgrade that is refused."""
        try:
            client = await self.open(path, **options)
        except InvalidStatus as refusal:
            return refusal.response
        raise AssertionError(f"the upgrade was accepted: {client.socket.response}")
