"""Key-value buckets in JetStream that the bridges of one deployment share.

The layout is NATS's own (ADR-8), so the ``nats kv`` command reads them. Everything here is a raw
request. Reads go to the stream's leader (``STREAM.MSG.GET``): Direct Get, which nats-py's buckets
use, may be answered by a replica that is behind, and a value that is taken once must not come from
one. A value is taken by writing a delete marker over the very revision that was read, so of any
number of takers one wins.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from natsbridge.bridge.errors import BrokerUnavailable, BucketFull
from natsbridge.bridge.nats.connection import Nobody
from natsbridge.bridge.settings import BridgeSettings

log = logging.getLogger(__name__)

RETRY: Final = 5.0
"""Seconds without another try after one that failed: each may wait for its whole time."""

# nats-server's error codes (server/errors.json).
STREAM_NOT_FOUND: Final = 10059
NO_MESSAGE: Final = 10037
EXISTS_OTHERWISE: Final = 10058
STORE_FAILED: Final = 10077
"""The stream does not store it: its bounds are reached, as ``discard: new`` has it."""
RESOURCES: Final = frozenset({10023, 10028, 10047})
LOST: Final = frozenset({10071, 10164})
"""Another revision is the last one: somebody else was faster."""

TICKET_BYTES: Final = 1024
"""For each ticket that may wait: an identity takes about 600 bytes, one with long grants more."""

OPERATION: Final = "KV-Operation"
REVISION: Final = "Nats-Expected-Last-Subject-Sequence"


class Requests(Protocol):
    """The connection to NATS, as far as it is needed here."""

    def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> Awaitable[bytes]:
        """Ask and return the answer; raises :class:`Nobody` or :class:`BrokerUnavailable`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a bucket is to be: every value goes after ``max_age`` seconds."""

    name: str
    max_age: float
    max_values: int
    max_bytes: int
    replicas: int = 1
    in_memory: bool = True

    def config(self) -> dict[str, Any]:
        """Return the configuration of the stream behind it."""
        age = int(self.max_age * 1_000_000_000)
        return {
            "name": f"KV_{self.name}",
            "subjects": [f"$KV.{self.name}.>"],
            "retention": "limits",
            "storage": "memory" if self.in_memory else "file",
            "num_replicas": self.replicas,
            "max_age": age,
            "max_msgs": self.max_values,
            "max_msgs_per_subject": 1,
            "max_bytes": self.max_bytes,
            "discard": "new",  # what is there was promised to somebody
            "duplicate_window": min(age, 120_000_000_000),
            "deny_delete": True,
            "allow_direct": False,
        }


def bucket_name(prefix: str, name: str) -> str:
    """Return the name of a bucket under a subject prefix: no two prefixes come to the same one.

    A bucket's name has no dots: ``_`` of the prefix becomes ``__``, and ``.`` becomes ``_-``.
    """
    return f"{prefix.replace('_', '__').replace('.', '_-')}_{name}" if prefix else name


def tickets_shape(settings: BridgeSettings) -> Shape:
    """Return the bucket that the tickets of all replicas wait in."""
    identity = settings.identity
    return Shape(
        name=bucket_name(settings.bus.prefix, "bridge_tickets"),
        max_age=identity.ticket_ttl,
        max_values=identity.max_tickets,
        max_bytes=max(1000, identity.max_tickets) * TICKET_BYTES,
        replicas=settings.stream.replicas,
    )


class Bucket:
    """One bucket, made, or given its shape, when a value is first stored.

    All methods raise :class:`BrokerUnavailable`.
    """

    def __init__(self, requests: Requests, shape: Shape, clock: Callable[[], float]) -> None:
        self._requests: Final = requests
        self._shape: Final = shape
        self._clock: Final = clock
        self._stream: Final = f"KV_{shape.name}"
        self._making: asyncio.Task[None] | None = None
        self._shaped = False
        self._tries_again_at = 0.0
        self._problem = ""

    def on_up(self) -> None:
        """NATS is there again, maybe with other rights: what failed may work now."""
        self._shaped = False
        self._tries_again_at = 0.0

    async def create(self, key: str, value: bytes) -> None:
        """Store the value of a new key; raises :class:`BucketFull` when there is no room."""
        if self._clock() < self._tries_again_at:
            raise BrokerUnavailable(self._problem)
        try:
            if not self._shaped:
                self._shaped = True
                # Without the right to, it may have been made by hand: the write shows it.
                with contextlib.suppress(BrokerUnavailable):
                    await self.make()
            try:
                answer = await self._write(key, value, 0)
            except Nobody:  # there is no such stream any more, or no JetStream
                await self.make()
                answer = await self._write(key, value, 0)
            if answer:
                code = answer.get("err_code")
                if code == STORE_FAILED or code in RESOURCES:
                    raise BucketFull(_words(answer))
                raise BrokerUnavailable(_words(answer))
        except BrokerUnavailable as problem:
            self._tries_again_at = self._clock() + RETRY
            self._tell(str(problem))
            raise
        self._tell("")

    async def take(self, key: str) -> bytes | None:
        """Return the value of this key and delete it; None where there is none (any more)."""
        payload = json.dumps({"last_by_subj": self._subject(key)}).encode()
        answer = await self._call("MSG.GET", payload)
        error = answer.get("error")
        if error is not None:
            if error.get("err_code") in (NO_MESSAGE, STREAM_NOT_FOUND):
                return None
            raise BrokerUnavailable(_words(error))
        try:
            message = answer["message"]
            sequence = int(message["seq"])
            value = base64.b64decode(message.get("data") or "", validate=True)
            headers = base64.b64decode(message.get("hdrs") or "", validate=True)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BrokerUnavailable("JetStream's answer can't be read") from None
        if f"\r\n{OPERATION}:".encode() in headers:  # a marker: it was taken
            return None
        lost = await self._write(key, b"", sequence, {OPERATION: "DEL"})
        if not lost:
            return value
        if lost.get("err_code") in LOST:
            return None
        raise BrokerUnavailable(_words(lost))

    async def make(self) -> None:
        """Make the bucket, or give one that is there the shape that is wanted; one at a time."""
        if self._making is None or self._making.done():
            self._making = asyncio.get_running_loop().create_task(self._make())
            self._making.add_done_callback(_seen)
        await asyncio.shield(self._making)

    async def _make(self) -> None:
        want = self._shape.config()
        answer = await self._call("CREATE", json.dumps(want).encode())
        if answer.get("error", {}).get("err_code") == EXISTS_OTHERWISE:
            answer = await self._call("INFO", b"")
            # Fields that are unknown here stay as they are: an update sets all.
            changed = {**answer.get("config", {}), **want}
            answer = await self._call("UPDATE", json.dumps(changed).encode())
        if "error" in answer:
            raise BrokerUnavailable(_words(answer["error"]))

    async def _write(
        self, key: str, value: bytes, revision: int, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """Write over this revision of a key, 0 for none; return the error, None when it is done."""
        answer = _read(
            await self._requests.request(
                self._subject(key), value, {**(headers or {}), REVISION: str(revision)}
            )
        )
        error = answer.get("error")
        if error is None and answer.get("stream") != self._stream:
            raise BrokerUnavailable(f"something else than {self._stream} answers")
        return error if isinstance(error, dict) else None

    async def _call(self, operation: str, payload: bytes) -> dict[str, Any]:
        try:
            return _read(
                await self._requests.request(f"$JS.API.STREAM.{operation}.{self._stream}", payload)
            )
        except Nobody:
            raise BrokerUnavailable("JetStream is not there") from None

    def _subject(self, key: str) -> str:
        return f"$KV.{self._shape.name}.{key}"

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("bucket %s can't be used: %s", self._shape.name, problem)
        elif self._problem and not problem:
            log.info("bucket %s can be used", self._shape.name)
        self._problem = problem


def _read(answer: bytes) -> dict[str, Any]:
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("error", {}), dict):
        raise BrokerUnavailable("JetStream's answer can't be read")
    return found


def _words(error: dict[str, Any]) -> str:
    return str(error.get("description", "JetStream refuses"))


def _seen(task: asyncio.Task[None]) -> None:
    # Whoever asked may have gone; asyncio would complain about an error that nobody reads.
    if not task.cancelled():
        task.exception()
