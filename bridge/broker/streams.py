"""The stream behind durable events: made or checked, its identity, and how far it reaches.

The stream stores ``events.…`` and republishes each stored message to ``live.…`` with its sequence
in the headers (NATS ADR-28). Without it the bridge still delivers what comes in on ``live.…``, but
events then have no cursor, and nothing can be resumed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
import nats.js.errors
from nats.js.api import RePublish, RetentionPolicy, StorageType, StreamConfig, StreamInfo

from bridge.broker.connection import Connection, Nobody
from bridge.errors import BrokerUnavailable
from bridge.settings import StreamSettings
from schemas.subjects import Root, Subjects

log = logging.getLogger(__name__)

DUPLICATE_WINDOW: Final = 120.0
"""Seconds within which a second message with one ``Nats-Msg-Id`` is a duplicate."""
MAX_DELETED: Final = 10_000
"""Deleted messages inside the stream that are looked through; with more, none is ruled out."""

NOT_FOUND: Final = 10059
"""nats-server's error code of a stream that does not exist."""


def wanted(name: str, subjects: Subjects, settings: StreamSettings) -> StreamConfig:
    """Return how the stream must look; what an owner may choose is as in the settings."""
    events, live = subjects.root(Root.EVENTS), subjects.root(Root.LIVE)
    return StreamConfig(
        name=name,
        subjects=[f"{events}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=settings.max_age,
        max_bytes=settings.max_bytes,
        max_msgs_per_subject=settings.max_per_subject or -1,
        num_replicas=settings.replicas,
        duplicate_window=min(DUPLICATE_WINDOW, settings.max_age),
        allow_direct=True,
        republish=RePublish(src=f"{events}.>", dest=f"{live}.>"),
    )


def differences(found: StreamConfig, want: StreamConfig) -> list[str]:
    """Tell what of an existing stream would break delivery; empty when nothing would."""
    told = []
    if set(found.subjects or ()) != set(want.subjects or ()):
        told.append(f"subjects are {found.subjects}, not {want.subjects}")
    republish = found.republish
    if republish is None or republish.headers_only:
        told.append("it does not republish whole messages")
    elif want.republish is not None and (republish.src, republish.dest) != (
        want.republish.src,
        want.republish.dest,
    ):
        told.append(f"it republishes {republish.src} to {republish.dest}")
    if not found.allow_direct:
        told.append("allow_direct is off")
    return told


def choices(found: StreamConfig, want: StreamConfig) -> list[str]:
    """Tell in what an existing stream differs from the settings without breaking delivery."""
    told = []
    for name in ("max_age", "max_bytes", "max_msgs_per_subject", "num_replicas"):
        mine, theirs = getattr(want, name), getattr(found, name)
        if mine != theirs:
            told.append(f"{name} is {theirs:g}, not {mine:g}")
    return told


@dataclass(frozen=True, slots=True)
class Head:
    """How far the stream reached when it was asked. ``first`` is past ``last`` while it is empty.

    ``identity`` is its creation time in microseconds, hexadecimal.
    """

    identity: str
    first: int
    last: int
    deleted: int


class Stream:
    """The stream of one deployment, as the bridge found it."""

    def __init__(
        self, connection: Connection, name: str, subjects: Subjects, settings: StreamSettings
    ) -> None:
        self._connection: Final = connection
        self._name: Final = name
        self._create: Final = settings.create
        self._want: Final = wanted(name, subjects, settings)
        self._running: asyncio.Task[Head] | None = None
        self._next: asyncio.Task[Head] | None = None
        self._noted: list[str] = []
        self._holes: tuple[tuple[str, int, int], list[int]] | None = None
        self.head: Head | None = None
        """What was seen last; None before the stream was seen."""
        self.problem = "not looked for yet"
        """Why there is no stream to rely on, in words; empty when there is."""

    async def look(self) -> Head:
        """Return how far the stream reaches now: asked after this call, together with others.

        Makes a stream that is missing, where that is allowed. Raises :class:`BrokerUnavailable`.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._look_behind(self._running))
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    def on_down(self) -> None:
        """The connection is gone: nobody is to wait for an answer that can't come any more."""
        self._running = self._next = None

    async def _look_behind(self, running: asyncio.Task[Head] | None) -> Head:
        if running is not None:
            await asyncio.wait({running})
        task = asyncio.current_task()
        if self._next is task:
            self._running, self._next = self._next, None
        try:
            head = await self._ask()
        except BrokerUnavailable as problem:
            self._set(str(problem))
            raise
        self.head = head
        return head

    async def _ask(self) -> Head:
        answer = await self._info({})
        error = answer.get("error")
        if error is not None and error.get("err_code") == NOT_FOUND:
            if not self._create:
                raise BrokerUnavailable("it does not exist, and BRIDGE_STREAM_CREATE is false")
            await self._make()
            answer = await self._info({})
            error = answer.get("error")
        if error is not None:
            raise BrokerUnavailable(str(error.get("description", "JetStream refuses")))
        return self._read(answer)

    async def _make(self) -> None:
        try:
            await self._connection.jetstream.add_stream(self._want)
        except (nats.js.errors.Error, nats.errors.Error, OSError) as error:
            raise BrokerUnavailable(str(error) or type(error).__name__) from None
        log.info("stream %s made", self._name)

    async def _info(self, request: dict[str, Any]) -> dict[str, Any]:
        payload = json.dumps(request).encode() if request else b""
        try:
            answer = await self._connection.request(f"$JS.API.STREAM.INFO.{self._name}", payload)
        except Nobody:
            raise BrokerUnavailable("JetStream is not there") from None
        except BrokerUnavailable as problem:
            raise BrokerUnavailable(f"JetStream does not answer: {problem}") from None
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BrokerUnavailable("JetStream's answer can't be read")
        return found

    def _read(self, answer: dict[str, Any]) -> Head:
        try:
            info = StreamInfo.from_response(answer)
            state, created = info.state, info.created
            head = Head(
                identity="" if created is None else f"{int(created.timestamp() * 1_000_000):x}",
                first=state.first_seq,
                last=state.last_seq,
                deleted=state.num_deleted or 0,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BrokerUnavailable("JetStream's answer can't be read") from None
        self._set("; ".join(differences(info.config, self._want)))
        noted = choices(info.config, self._want)
        if noted != self._noted:
            self._noted = noted
            if noted:
                log.warning(
                    "stream %s is not as the settings say, and is left as it is: %s",
                    self._name,
                    "; ".join(noted),
                )
        return head

    async def thinned(self, after: int, upto: int) -> bool:
        """Whether messages inside this range may have been deleted, before the oldest that is left.

        Raises :class:`BrokerUnavailable`.
        """
        head = self.head
        if head is None or not head.deleted:
            return False
        if head.deleted > MAX_DELETED:
            return True
        seen = (head.identity, head.first, head.deleted)
        if self._holes is None or self._holes[0] != seen:
            state = (await self._info({"deleted_details": True})).get("state", {})
            self._holes = (seen, list(state.get("deleted") or ()))
        return any(after < sequence <= upto for sequence in self._holes[1])

    def _set(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("stream %s: %s; delivery is live only", self._name, problem)
        elif not problem and self.problem:
            log.info("stream %s: events can be resumed", self._name)
        self.problem = problem


def _seen(task: asyncio.Task[Head]) -> None:
    # Whoever asked may have gone; asyncio would complain about an error that nobody reads.
    if not task.cancelled():
        task.exception()
