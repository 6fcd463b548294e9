"""Between the bridges of one deployment: ask one replica, or all of them, over NATS.

``control.all`` goes to every replica, ``control.to.<replica>`` to one. Payloads are JSON objects
``{"from", "op", "args"}``, answers ``{"replica", "result"}``. Rare and small: nats-py's own way.
nats-py hands on one message of a subscription after the other, so what answers here never waits: an
operation is done at once, and its answer goes past nats-py's queue.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bridge.broker.connection import Connection
from bridge.errors import BrokerUnavailable
from schemas.subjects import Root, Subjects

log = logging.getLogger(__name__)

Operation = Callable[[dict[str, Any]], Any]
"""Does what is asked, at once, and returns a JSON value; raises ValueError for bad arguments."""

GATHER: Final = 0.25
"""Seconds in which the other replicas have to answer a question to all."""
MAX_ANSWERS: Final = 1_000


class Control:
    """This replica's ear, and its voice to the others."""

    def __init__(self, connection: Connection, subjects: Subjects, replica: str) -> None:
        self._connection: Final = connection
        self._root: Final = subjects.root(Root.CONTROL)
        self._replica: Final = replica
        self._operations: Mapping[str, Operation] = {}
        self._listens_on: Client | None = None

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
            await client.subscribe(subject, cb=self._on_message)
        self._listens_on = client

    async def ask_all(self, operation: str, args: dict[str, Any]) -> list[Any]:
        """Do it here and have every other replica do it; return the results, this one's first.

        A replica that does not answer in time does not count; without NATS it is this one alone.
        """
        results = [self._operations[operation](args)]
        if self._connection.is_up:
            try:
                results += await self._gather(operation, args)
            except (nats.errors.Error, OSError) as error:
                log.warning("the other replicas can't be asked: %s", error)
        return results

    async def ask(self, replica: str, operation: str, args: dict[str, Any]) -> Any:
        """Have one replica do it and return the result; raises :class:`BrokerUnavailable`."""
        answer = await self._connection.request(
            f"{self._root}.to.{replica}", self._question(operation, args)
        )
        found = _object(answer)
        if found is None or "result" not in found:
            raise BrokerUnavailable("the replica can't do that")
        return found["result"]

    async def _gather(self, operation: str, args: dict[str, Any]) -> list[Any]:
        client = self._connection.client
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, pending_msgs_limit=MAX_ANSWERS)
        results: list[Any] = []
        try:
            await client.publish(f"{self._root}.all", self._question(operation, args), reply=inbox)
            async with asyncio.timeout(GATHER):
                while True:
                    found = _object((await answers.next_msg(timeout=GATHER)).data)
                    if found is not None and "result" in found:
                        results.append(found["result"])
        except (TimeoutError, nats.errors.TimeoutError):
            return results
        finally:
            await answers.unsubscribe()

    def _question(self, operation: str, args: dict[str, Any]) -> bytes:
        return json.dumps({"from": self._replica, "op": operation, "args": args}).encode()

    async def _on_message(self, message: Msg) -> None:
        asked = _object(message.data)
        if asked is None:
            log.warning("control: a message on %s is no question", message.subject)
            return
        operation = self._operations.get(str(asked.get("op")))
        args = asked.get("args")
        if asked.get("from") == self._replica or not message.reply:
            return
        answer = nothing = json.dumps({"replica": self._replica}).encode()
        if operation is not None and isinstance(args, dict):
            try:
                result = operation(args)
                answer = json.dumps({"replica": self._replica, "result": result}).encode()
            except (KeyError, TypeError, ValueError):
                log.warning("control: %s was asked with bad arguments", asked.get("op"))
            except Exception:
                # Whoever asks is to hear that it can't be had, and not to wait for it in vain.
                log.exception("control: %s failed", asked.get("op"))
        if len(answer) > self._connection.client.max_payload:
            log.warning("control: the answer of %s is too large for NATS", asked.get("op"))
            answer = nothing
        self._connection.publish(message.reply, answer)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
