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
import random
import time
from dataclasses import dataclass
from typing import Any, Final

from nats.js.api import StreamConfig, StreamInfo

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.clock import ClockComparison
from natsbridge.bridge.nats.connection import Connection, Nobody
from natsbridge.bridge.nats.shape import choices, differences, missing, unknown_types
from natsbridge.schemas.subjects import Subjects

log = logging.getLogger(__name__)

MAX_DELETED: Final = 10_000
"""Deleted messages inside the stream that are looked through; with more, none is ruled out."""

NOT_FOUND: Final = 10059
"""nats-server's error code of a stream that does not exist."""

EXISTS: Final = "it is there already, and is another one"
NOT_ALLOWED: Final = "NATS does not allow this user to"

PATIENCE: Final = 2.0
"""Seconds that NATS has to show that it has handled a request, or refuses it."""
AWAY_AFTER: Final = 5.0
"""Seconds that a leader has to come back: an election, or a restart."""
REFUSED_FOR: Final = 300.0
"""Seconds until the stream is asked for again where this user may not make it. Each try is a
violation in the server's log, and permissions change seldom."""

ROUNDS: Final = 5
"""Times that subjects are added at one look before it is left to the next."""
PAUSE: Final = (0.1, 0.3)
"""Seconds, by chance, after which it is looked whether another bridge has written over what was
added: an update replaces the whole configuration, and has no compare-and-set. With a pause as long
as a write takes in a cluster none of six that added at once lost anything.
"""


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
        self, connection: Connection, subjects: Subjects, want: StreamConfig, *, create: bool
    ) -> None:
        """``want`` is how it must look; with ``create`` it is made where it is missing, and takes
        the subjects that it lacks.
        """
        assert want.name is not None
        self._connection: Final = connection
        self._name: Final = want.name
        self._subjects: Final = subjects
        self._create: Final = create
        self._want: Final = want
        self._types: Final = list(want.subjects or ())
        self._known_types: Final = frozenset(
            ".".join(subject.split(".")[-3:-1]) for subject in self._types
        )
        self._running: asyncio.Task[Head] | None = None
        self._next: asyncio.Task[Head] | None = None
        self._noted: list[str] = []
        self._checked: object = None
        self._identity = self._differs = ""
        self.is_replicated = False
        """Whether it is on more than one server, of which those that follow may be behind."""
        self.unknown_types: tuple[str, ...] = ()
        """Event types that it stores and this bridge's catalogue does not have."""
        self._refused_until = 0.0
        self._lacks: list[str] = []
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
        for _ in range(ROUNDS):
            if not await self._add_missing(answer):
                break
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311  # by chance, no secret
            answer = await self._info({})
        return self._read(answer)

    async def _add_missing(self, answer: dict[str, Any]) -> bool:
        """Have the stream take the types of this bridge that it lacks; whether it was told to.

        All else goes back as the server gave it, also what is not known here.
        """
        config = answer.get("config")
        if not isinstance(config, dict):
            return False
        found = config.get("subjects") or []
        lacks = missing(found, self._types)
        loop = asyncio.get_running_loop()
        if not lacks or not self._may_add(config):
            self._tell_lacks(lacks)
            return False
        if loop.time() < self._refused_until:
            return False
        written = json.dumps({**config, "subjects": sorted({*found, *lacks})}).encode()
        try:
            told = await self._request_change("UPDATE", written)
        except BrokerUnavailable as problem:
            told = str(problem)
        if told:
            self._refused_until = loop.time() + REFUSED_FOR
            self._tell_lacks(lacks, told)
            return False
        log.info("stream %s: takes %s too", self._name, ", ".join(lacks))
        return True

    def _may_add(self, config: dict[str, Any]) -> bool:
        if not self._create:
            return False
        try:
            found = StreamConfig.from_response(copy.deepcopy(config))
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        return not differences(found, self._want, self._subjects)

    def _tell_lacks(self, lacks: list[str], why: str = "") -> None:
        if lacks == self._lacks:
            return
        self._lacks = lacks
        if lacks:
            log.warning(
                "stream %s: it does not take %s, so that NATS refuses such events: "
                "`natsbridge stream apply` adds them%s",
                self._name,
                ", ".join(lacks),
                f" (adding them here did not work: {why})" if why else "",
            )

    async def _make(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._refused_until:
            told = await self._request_change("CREATE", json.dumps(self._want.as_dict()).encode())
            if told == EXISTS:
                return  # another bridge was faster; what this one's types need is added
            if not told:
                log.info("stream %s made", self._name)
                return
            if told != NOT_ALLOWED:
                raise BrokerUnavailable(f"it does not exist, and can't be made: {told}")
            self._refused_until = loop.time() + REFUSED_FOR
        raise BrokerUnavailable("it does not exist, and NATS does not allow this user to make it")

    async def _request_change(self, operation: str, payload: bytes) -> str:
        """Have JetStream make or change it; why not, in words, where it does not.

        NATS answers a request that it does not permit to the connection alone, so that whoever
        asked would wait until the time is up. It does so before the PONG of a PING behind it.
        """
        client, subject = self._connection.client, self._subject(operation)
        before = client.last_error
        asking = asyncio.get_running_loop().create_task(self._call(operation, payload))
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
                return NOT_ALLOWED
            error = (await asking).get("error")
        finally:
            asking.cancel()
        return "" if error is None else refusal(error)

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
        self._differs = "; ".join(differences(info.config, self._want, self._subjects))
        self.unknown_types = unknown_types(
            info.config.subjects or (), self._known_types, self._subjects
        )
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


def refusal(error: dict[str, Any]) -> str:
    """Return JetStream's words for why it does not make or change a stream, and what they mean."""
    told = str(error.get("description", "JetStream refuses"))
    match error.get("err_code"):
        case 10058:
            return EXISTS
        case 10065:
            return f"{told}: another stream takes some of its subjects (`nats stream ls -a`)"
        case 10052:
            return f"{told}: some of its subjects are in others of its own"
    return told


def _seen(task: asyncio.Task[Any]) -> None:
    # Whoever asked may have gone; asyncio would complain about an error that nobody reads.
    if not task.cancelled():
        task.exception()
