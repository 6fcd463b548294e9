"""How a replica answers the others; that it does over NATS is in the integration tests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats.control import MAX_ANSWER_BYTES, Control, Operation
from natsbridge.schemas.subjects import Subjects
from tests.support.nats_client import run

Handle = Callable[[Msg], Coroutine[Any, Any, None]]


class ScriptedConnection:
    """A connection whose client takes subscriptions, and which writes down what is published."""

    def __init__(self) -> None:
        self.client = self
        self.max_payload = 1000
        self.heard: dict[str, Handle] = {}
        self.limits: list[tuple[int, int]] = []
        self.published: list[tuple[str, dict[str, Any]]] = []

    async def subscribe(
        self, subject: str, *, cb: Handle, pending_msgs_limit: int, pending_bytes_limit: int
    ) -> None:
        """Stand in for nats-py's."""
        self.heard[subject] = cb
        self.limits.append((pending_msgs_limit, pending_bytes_limit))

    def publish(self, subject: str, payload: bytes) -> None:
        """Stand in for the bridge's own, which never waits."""
        self.published.append((subject, json.loads(payload)))


def fail(args: dict[str, Any]) -> Any:
    """An operation with a fault."""
    raise RuntimeError("a fault")


def replica(connection: ScriptedConnection, clock: Callable[[], float] = lambda: 0.0) -> Control:
    """A replica ``me`` that offers some operations and listens."""
    control = Control(
        connection,  # type: ignore[arg-type]  # a stand-in
        Subjects(),
        "me",
        max_question=2000,
        clock=clock,
    )
    control.offer(
        {
            "double": Operation(
                lambda args: 2 * args["number"], lambda result: isinstance(result, int)
            ),
            "fail": Operation(fail),
            "odd": Operation(lambda args: {1, 2}),  # no JSON
            "much": Operation(lambda args: "x" * 1000),
        }
    )
    run(control.listen())
    return control


@pytest.fixture
def connection() -> ScriptedConnection:
    """The connection of a replica."""
    connection = ScriptedConnection()
    replica(connection)
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
    [("double", {}), ("double", None), ("fail", {}), ("odd", {}), ("unknown", {})],
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


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"[]",
        b"[" * 2000,
        b'{"stream":"EVENTS","seq":7}',  # an acknowledgement whose publisher named this its reply
        b'{"from": "other", "op": "double", "args": {"number": 1}, "more": "%b"}' % (b"x" * 2000),
        {"from": "other", "op": {}, "args": {}},
        {"from": "a.b", "op": "double", "args": {"number": 1}},
        {"from": 7, "op": "double", "args": {"number": 1}},
        {"op": "double", "args": {"number": 1}},
    ],
)
def test_what_is_no_question_is_counted_and_not_answered(question: object) -> None:
    """What has no form, comes from nobody, or is larger than any question."""
    connection = ScriptedConnection()
    control = replica(connection)
    ask(connection, question)
    assert connection.published == []
    assert control.ignored == {"malformed question": 1}


def test_an_own_question_to_all_is_not_answered(connection: ScriptedConnection) -> None:
    """The replica has done it already."""
    ask(connection, {"from": "me", "op": "double", "args": {"number": 1}})
    assert connection.published == []


def test_an_answer_that_does_not_fit_is_not_sent() -> None:
    """NATS would not take it: whoever asks hears at once that there is none, and it is counted."""
    connection = ScriptedConnection()
    control = replica(connection)
    ask(connection, {"from": "you", "op": "much", "args": {}})
    assert [answer for _, answer in connection.published] == [{"replica": "me"}]
    assert control.ignored == {"too large an answer of much": 1}


def test_what_waits_to_be_answered_is_bounded(connection: ScriptedConnection) -> None:
    """nats-py keeps no more than that, of messages and of bytes, for either subject."""
    assert connection.limits == [(1_000, 8 * 1024 * 1024)] * 2


def test_a_flood_is_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """However much comes that has no form, the log has its number and no more."""
    now = 0.0
    connection = ScriptedConnection()
    control = replica(connection, lambda: now)
    for second in range(25):
        now = float(second)
        for _ in range(100):
            ask(connection, b"nonsense")
        control.report()
    assert len(caplog.records) == 3
    assert "1000 messages ignored" in caplog.text
    assert control.ignored == {"malformed question": 2500}


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense",
        b'{"stream":"EVENTS","seq":7}',
        b'{"replica": "a.b", "result": 4}',
        b'{"replica": "other", "result": "4"}',
        b'{"replica": "other", "result": 4, "more": "%b"}' % (b"x" * MAX_ANSWER_BYTES),
        b'{"replica": "other"}',
    ],
)
def test_an_answer_of_another_form_is_none(answer: bytes) -> None:
    """What is no result of this operation, or larger than any, does not count."""

    class Answering(ScriptedConnection):
        async def request(self, subject: str, payload: bytes) -> bytes:
            """Stand in for the bridge's own."""
            return answer

    control = replica(Answering())
    with pytest.raises(BrokerUnavailable):
        run(control.ask("other", "double", {"number": 2}))
