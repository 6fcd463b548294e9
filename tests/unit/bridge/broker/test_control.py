"""How a replica answers the others; that it does over NATS is in the integration tests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from bridge.broker.control import Control
from schemas.subjects import Subjects
from tests.support.nats_client import run

Handle = Callable[[Msg], Coroutine[Any, Any, None]]


class ScriptedConnection:
    """A connection whose client takes subscriptions, and which writes down what is published."""

    def __init__(self) -> None:
        self.client = self
        self.max_payload = 1000
        self.heard: dict[str, Handle] = {}
        self.published: list[tuple[str, dict[str, Any]]] = []

    async def subscribe(self, subject: str, *, cb: Handle) -> None:
        """Stand in for nats-py's."""
        self.heard[subject] = cb

    def publish(self, subject: str, payload: bytes) -> None:
        """Stand in for the bridge's own, which never waits."""
        self.published.append((subject, json.loads(payload)))


def fail(args: dict[str, Any]) -> Any:
    """An operation with a fault."""
    raise RuntimeError("a fault")


@pytest.fixture
def connection() -> ScriptedConnection:
    """The connection of a replica ``me`` that offers some operations and listens."""
    connection = ScriptedConnection()
    control = Control(connection, Subjects(), "me")  # type: ignore[arg-type]  # a stand-in
    control.offer(
        {
            "double": lambda args: 2 * args["number"],
            "fail": fail,
            "odd": lambda args: {1, 2},  # no JSON
            "much": lambda args: "x" * 1000,
        }
    )
    run(control.listen())
    return connection


def ask(connection: ScriptedConnection, question: object, subject: str = "control.to.me") -> None:
    """Let a question come in from another replica; its handler may wait for nothing."""
    data = question if isinstance(question, bytes) else json.dumps(question).encode()
    run(connection.heard[subject](Msg(Client(), subject=subject, reply="back", data=data)))


@pytest.mark.parametrize("subject", ["control.all", "control.to.me"])
def test_a_question_is_answered_without_waiting(
    connection: ScriptedConnection, subject: str
) -> None:
    """nats-py hands on one question after the other: none may hold up the next."""
    ask(connection, {"from": "other", "op": "double", "args": {"number": 4}}, subject)
    assert connection.published == [("back", {"replica": "me", "result": 8})]


@pytest.mark.parametrize(
    ("operation", "args"),
    [("double", {}), ("double", None), ("fail", {}), ("odd", {}), ("unknown", {}), ({}, {})],
)
def test_what_can_not_be_done_is_answered_so(
    connection: ScriptedConnection, operation: object, args: object
) -> None:
    """Whoever asks hears at once that there is no result, and can ask the next question."""
    ask(connection, {"from": "other", "op": operation, "args": args})
    ask(connection, {"from": "other", "op": "double", "args": {"number": 1}})
    assert connection.published == [
        ("back", {"replica": "me"}),
        ("back", {"replica": "me", "result": 2}),
    ]


def test_an_operation_that_fails_is_logged(
    connection: ScriptedConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback, as a fault of the bridge's own."""
    ask(connection, {"from": "other", "op": "fail", "args": {}})
    (record,) = caplog.records
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)


@pytest.mark.parametrize("question", [b"", b"[]", {"from": "me", "op": "double", "args": {}}])
def test_what_is_no_question_of_another_is_not_answered(
    connection: ScriptedConnection, question: object
) -> None:
    """Nonsense, and what this replica asked everybody itself."""
    ask(connection, question)
    assert connection.published == []


def test_an_answer_that_does_not_fit_is_told(
    connection: ScriptedConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """NATS would not take it: whoever asks hears at once that there is none, and the log why."""
    ask(connection, {"from": "you", "op": "much", "args": {}})
    assert [answer for _, answer in connection.published] == [{"replica": "me"}]
    assert "much is too large" in caplog.text
