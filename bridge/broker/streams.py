"""The stream behind durable events: made or checked, its identity, and how far it reaches.

The stream stores ``events.…`` and republishes each stored message to ``live.stream.…`` with its
sequence in the headers (NATS ADR-28). Without it the bridge still delivers what comes in on
``live.service.…``, but events then have no cursor, and nothing can be resumed.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from nats.js.api import RePublish, RetentionPolicy, StorageType, StreamConfig, StreamInfo

from bridge.broker.clock import ClockComparison
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

PATIENCE: Final = 2.0
"""Seconds that NATS has to show that it has handled a request, or refuses it."""
AWAY_AFTER: Final = 5.0
"""Seconds that a leader has to come back: an election, or a restart."""
REFUSED_FOR: Final = 300.0
"""Seconds until the stream is asked for again where this user may not make it. Each try is a
violation in the server's log, and permissions change seldom."""

BREAKING: Final = {
    "allow_direct": "what is stored can't be read",
    "retention": "events do not stay for those who come back",
    "mirror": "it takes no events itself",
    "subject_transform": "events are stored under other subjects",
    "sealed": "it takes no events any more",
    "no_ack": "publishers do not hear that an event is stored",
    "allow_msg_counter": "it takes counters only",
}
"""What has to be as it is wanted, and what is broken where it is not."""

CHOSEN: Final = {
    "max_age": "",
    "max_bytes": "",
    "max_msgs_per_subject": "",
    "num_replicas": "",
    "max_msgs": "beyond it the oldest go",
    "max_msg_size": "larger events are refused",
    "discard": "a full stream refuses new events",
    "storage": "a restart of NATS loses what is stored",
    "persist_mode": "a crash of NATS loses events that it has acknowledged",
    "duplicate_window": "an event that is sent again later comes twice",
    "sources": "it also takes what other streams have",
    "allow_rollup_hdrs": "who publishes can delete what is stored",
}
"""What whoever made the stream may choose, and what that costs where it is not in the settings."""


def wanted(name: str, subjects: Subjects, settings: StreamSettings) -> StreamConfig:
    """Return how the stream must look; what an owner may choose is as in the settings."""
    events, live = subjects.root(Root.EVENTS), subjects.root(Root.STREAM)
    return StreamConfig(
        name=name,
        subjects=[f"{events}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=settings.max_age,
        max_bytes=settings.max_bytes,
        max_msgs=-1,
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
    return told + _unlike(BREAKING, found, want)


def choices(found: StreamConfig, want: StreamConfig) -> list[str]:
    """Tell what else of an existing stream is not as the bridge would make it: it breaks nothing,
    but keeps events shorter, less safely, or longer.
    """
    names = dict(CHOSEN)
    if found.duplicate_window > want.duplicate_window:
        del names["duplicate_window"]
    return _unlike(names, found, want)


def _unlike(names: Mapping[str, str], found: StreamConfig, want: StreamConfig) -> list[str]:
    told = []
    for name, effect in names.items():
        mine, theirs = getattr(want, name), getattr(found, name)
        if mine != theirs and (mine or theirs):  # what is off may be left out, false or empty
            words = f"{name} is {_shown(theirs)}, not {_shown(mine)}"
            told.append(f"{words} ({effect})" if effect else words)
    return told


def _shown(value: object) -> str:
    match value:
        case None | False | []:
            return "off"
        case True:
            return "on"
        case Enum():
            return str(value.value)
        case str():
            return value
        case int() | float():
            return f"{value:.15g}"
    return "set"


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
        self._checked: object = None
        self._identity = self._differs = ""
        self.is_replicated = False
        """Whether it is on more than one server, of which those that follow may be behind."""
        self._refused_until = 0.0
        self._holes: tuple[tuple[str, int, int], list[int]] | None = None
        self.head: Head | None = None
        """What was seen last; None before the stream was seen."""
        self._away_since = -math.inf
        self.clock: Final = ClockComparison()
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
        self._refused_until = 0.0  # the next one may have another user

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
        loop = asyncio.get_running_loop()
        if loop.time() >= self._refused_until:
            if await self._request_new():
                log.info("stream %s made", self._name)
                return
            self._refused_until = loop.time() + REFUSED_FOR
        raise BrokerUnavailable("it does not exist, and NATS does not allow this user to make it")

    async def _request_new(self) -> bool:
        """Let JetStream make it; False where this user may not ask for that.

        NATS answers a request that it does not permit to the connection alone, so that whoever
        asked would wait until the time is up. It does so before the PONG of a PING behind it.
        """
        client, subject = self._connection.client, self._subject("CREATE")
        before = client.last_error
        payload = json.dumps(self._want.as_dict()).encode()
        asking = asyncio.get_running_loop().create_task(self._call("CREATE", payload))
        asking.add_done_callback(_seen)
        try:
            await asyncio.sleep(0)  # nats-py has it now
            written = False
            while not written:
                # A PING overtakes what nats-py has not written yet.
                written = not client.pending_data_size
                await self._connection.round_trip(PATIENCE)
            last = client.last_error
            if last is not before and f'"{subject}"'.lower() in str(last).lower():
                return False
            error = (await asking).get("error")
        finally:
            asking.cancel()
        if error is not None:
            told = error.get("description", "JetStream refuses")
            raise BrokerUnavailable(f"it does not exist, and can't be made: {told}")
        return True

    async def _info(self, request: dict[str, Any]) -> dict[str, Any]:
        asked_at = time.time()
        answer = await self._call("INFO", json.dumps(request).encode() if request else b"")
        self.clock.seen(answer.get("ts"), asked_at, time.time())
        return answer

    def _subject(self, operation: str) -> str:
        return f"$JS.API.STREAM.{operation}.{self._name}"

    async def _call(self, operation: str, payload: bytes) -> dict[str, Any]:
        try:
            answer = await self._connection.request(self._subject(operation), payload)
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
            state, seen = answer["state"], (answer["config"], answer.get("created"))
            if seen != self._checked:
                # What changes from look to look is the state. Checking the rest costs ten times as
                # much, and nats-py changes what it reads.
                kept = copy.deepcopy(seen)
                self._check(StreamInfo.from_response(answer))
                self._checked = kept
            head = Head(
                identity=self._identity,
                first=int(state["first_seq"]),
                last=int(state["last_seq"]),
                deleted=int(state.get("num_deleted") or 0),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BrokerUnavailable("JetStream's answer can't be read") from None
        self._set(self._differs)
        return head

    def _check(self, info: StreamInfo) -> None:
        created = info.created
        self._identity = "" if created is None else f"{int(created.timestamp() * 1_000_000):x}"
        self._differs = "; ".join(differences(info.config, self._want))
        self.is_replicated = (info.config.num_replicas or 1) > 1
        noted = choices(info.config, self._want)
        if noted != self._noted:
            self._noted = noted
            if noted:
                log.warning(
                    "stream %s is not as the settings say, and is left as it is: %s",
                    self._name,
                    "; ".join(noted),
                )

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

    @property
    def is_away(self) -> bool:
        """Whether it has had a problem for so long that nobody is to wait for its end."""
        return bool(self.problem) and time.monotonic() - self._away_since > AWAY_AFTER

    def _set(self, problem: str) -> None:
        if not self.problem:
            self._away_since = time.monotonic()
        if problem and problem != self.problem:
            log.warning("stream %s: %s; delivery is live only", self._name, problem)
        elif not problem and self.problem:
            log.info("stream %s: events can be resumed", self._name)
        self.problem = problem


def _seen(task: asyncio.Task[Any]) -> None:
    # Whoever asked may have gone; asyncio would complain about an error that nobody reads.
    if not task.cancelled():
        task.exception()
