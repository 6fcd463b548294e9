"""Between the bridges of one deployment: ask one replica, or all of them, over NATS.

``control.all`` goes to every replica, ``control.to.<replica>`` to one. Payloads are JSON objects
``{"from", "op", "args"}``, answers ``{"replica", "result"}``. Rare and small: nats-py's own way.
nats-py hands on one message of a subscription after the other, so what answers here never waits: an
operation is done at once, and its answer goes past nats-py's queue.

NATS's rights keep these subjects to bridges, but the server itself writes to any subject that a
service names as its reply. So what comes is bounded in size and number, taken only in its own form,
and counted where it has none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.connection import Connection
from natsbridge.bridge.telemetry.lines import Tally
from natsbridge.schemas.subjects import Root, Subjects

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """What a replica does for others."""

    do: Callable[[dict[str, Any]], Any]
    """Takes the arguments and returns a JSON value, at once; raises ValueError for bad ones."""
    is_result: Callable[[Any], bool] = lambda result: True
    """Whether another replica's result has the form that this operation's has."""


GATHER: Final = 0.25
"""Seconds in which the other replicas have to answer a question to all."""
MAX_ANSWERS: Final = 1_000
"""Replicas whose answers to one question are taken."""
MAX_ANSWER_BYTES: Final = 256 * 1024
"""Bytes of one answer; the longest tells of a connection and all its patterns."""
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""Bytes of answers, or of questions, that wait in nats-py to be read."""
REPORT: Final = 10.0
"""Seconds between two log lines about what has no form."""

_REPLICA: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Control:
    """This replica's ear, and its voice to the others."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        replica: str,
        *,
        max_question: int,
        clock: Callable[[], float],
    ) -> None:
        """``max_question`` is the most bytes of a question; ``clock`` gives seconds."""
        self._connection: Final = connection
        self._root: Final = subjects.root(Root.CONTROL)
        self._replica: Final = replica
        self._max_question: Final = max_question
        self._clock: Final = clock
        self._operations: Mapping[str, Operation] = {}
        self._listens_on: Client | None = None
        self.ignored: Final = Tally()
        """Questions and answers that were not taken, by reason."""
        self._told = 0
        self._told_at = -REPORT

    def offer(self, operations: Mapping[str, Operation]) -> None:
        """Name what this replica does when it is asked."""
        self._operations = operations

    async def listen(self) -> None:
        """Answer from now on; call it again when the connection is up again.

        nats-py keeps the subscriptions while it reconnects, but not when its client is another.
        """
        client = self._connection.client
        if client is self._listens_on:
            return
        for subject in (f"{self._root}.all", f"{self._root}.to.{self._replica}"):
            await client.subscribe(
                subject,
                cb=self._on_message,
                pending_msgs_limit=MAX_ANSWERS,
                pending_bytes_limit=MAX_WAITING_BYTES,
            )
        self._listens_on = client

    @property
    def is_alone(self) -> bool:
        """Whether other replicas, if there are any, can't be asked now."""
        return not self._connection.is_up

    async def ask_all(self, operation: str, args: dict[str, Any]) -> list[Any]:
        """Do it here and have every other replica do it; return the results, this one's first.

        A replica that does not answer in time does not count; without NATS it is this one alone.
        """
        results = [self._operations[operation].do(args)]
        if self._connection.is_up:
            try:
                results += (await self._gather(operation, args)).values()
            except (nats.errors.Error, OSError) as error:
                log.warning("the other replicas can't be asked: %s", error)
        return results

    async def ask(self, replica: str, operation: str, args: dict[str, Any]) -> Any:
        """Have one replica do it and return the result; raises :class:`BrokerUnavailable`."""
        answer = await self._connection.request(
            f"{self._root}.to.{replica}", self._question(operation, args)
        )
        found = self._answer(answer, operation)
        if found is None or "result" not in found:
            raise BrokerUnavailable("the replica can't do that")
        return found["result"]

    async def _gather(self, operation: str, args: dict[str, Any]) -> dict[str, Any]:
        client = self._connection.client
        inbox = client.new_inbox()
        answers = await client.subscribe(
            inbox, pending_msgs_limit=MAX_ANSWERS, pending_bytes_limit=MAX_WAITING_BYTES
        )
        results: dict[str, Any] = {}
        try:
            await client.publish(f"{self._root}.all", self._question(operation, args), reply=inbox)
            async with asyncio.timeout(GATHER):
                for _ in range(MAX_ANSWERS):
                    answer = (await answers.next_msg(timeout=GATHER)).data
                    found = self._answer(answer, operation)
                    if found is not None and "result" in found:
                        # One replica has one word, the first.
                        results.setdefault(found["replica"], found["result"])
        except (TimeoutError, nats.errors.TimeoutError):
            pass
        finally:
            await answers.unsubscribe()
        return results

    def _question(self, operation: str, args: dict[str, Any]) -> bytes:
        return json.dumps({"from": self._replica, "op": operation, "args": args}).encode()

    def _answer(self, data: bytes, operation: str) -> dict[str, Any] | None:
        found = _object(data) if len(data) <= MAX_ANSWER_BYTES else None
        if found is None or not _is_replica(found.get("replica")):
            self.ignored.add("malformed answer")
            return None
        if "result" in found and not self._operations[operation].is_result(found["result"]):
            self.ignored.add(f"malformed result of {operation}")
            return None
        return found

    async def _on_message(self, message: Msg) -> None:
        asked = _object(message.data) if len(message.data) <= self._max_question else None
        name = None if asked is None else asked.get("op")
        if asked is None or not _is_replica(asked.get("from")) or not isinstance(name, str):
            self.ignored.add("malformed question")
            return
        if asked["from"] == self._replica or not message.reply:
            return
        answer = nothing = json.dumps({"replica": self._replica}).encode()
        operation, args = self._operations.get(name), asked.get("args")
        if operation is not None and isinstance(args, dict):
            try:
                result = operation.do(args)
                answer = json.dumps({"replica": self._replica, "result": result}).encode()
            except (KeyError, TypeError, ValueError):
                self.ignored.add(f"bad arguments of {name}")
            except Exception:
                # Whoever asks is to hear that it can't be had, and not to wait for it in vain.
                log.exception("control: %s failed", name)
        else:
            self.ignored.add("unknown operation")
        if len(answer) > min(self._connection.client.max_payload, MAX_ANSWER_BYTES):
            self.ignored.add(f"too large an answer of {name}")
            answer = nothing
        self._connection.publish(message.reply, answer)

    def report(self) -> None:
        """Log how much was not taken since the last time, if anything; not for each message."""
        total = sum(self.ignored.values())
        if total > self._told and self._clock() >= self._told_at + REPORT:
            log.warning(
                "control: %d messages ignored since the last report, by reason in all: %s",
                total - self._told,
                dict(self.ignored),
            )
            self._told, self._told_at = total, self._clock()


def _is_replica(name: object) -> bool:
    return isinstance(name, str) and _REPLICA.fullmatch(name) is not None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
