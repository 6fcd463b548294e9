"""What a replica does for others, and what it takes for no question of theirs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natsbridge.bridge.http.operations import operations

TEXT = json.dumps({"type": "notice", "data": {"text": "é"}}, ensure_ascii=False)


class Administration:
    """Writes down what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def broadcast(self, text: str) -> int:
        self.done.append(("broadcast", text))
        return 3

    def disconnect(self, user: str, revoke: bool) -> int:
        self.done.append(("disconnect", user, revoke))
        return 2

    def connection(self, connection_id: str) -> dict[str, Any] | None:
        self.done.append(("connection", connection_id))
        return None

    def close(self, connection_id: str) -> bool:
        self.done.append(("close", connection_id))
        return False


@pytest.mark.parametrize(
    ("name", "args", "done"),
    [
        ("broadcast", {"text": TEXT}, ("broadcast", TEXT)),
        ("disconnect", {"user": "a/b", "revoke": True}, ("disconnect", "a/b", True)),
        ("connection", {"id": "c1"}, ("connection", "c1")),
        ("close", {"id": "c1"}, ("close", "c1")),
        ("close", {"id": "c" * 129}, ("close", "")),  # which no connection has
    ],
)
def test_a_question_is_done(name: str, args: dict[str, Any], done: tuple[Any, ...]) -> None:
    """With its arguments as they came, and a result of the form that the asker expects."""
    administration = Administration()
    operation = operations(administration, 1000)[name]  # type: ignore[arg-type]  # a stand-in
    assert operation.is_result(operation.do(args))
    assert administration.done == [done]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("broadcast", {}),
        ("broadcast", {"text": {"type": "x"}}),
        ("broadcast", {"text": "x"}),
        ("broadcast", {"text": "[]"}),
        ("broadcast", {"text": '{"data": 1}'}),
        ("broadcast", {"text": '{"type": 1}'}),
        ("broadcast", {"text": '{"type": "\ud83d"}'}),
        ("broadcast", {"text": json.dumps({"type": "x", "data": "y" * 1000})}),
        ("disconnect", {"user": "a"}),
        ("disconnect", {"user": "a", "revoke": "false"}),
        ("disconnect", {"user": "a", "revoke": 1}),
        ("disconnect", {"user": "", "revoke": True}),
        ("disconnect", {"user": "a" * 129, "revoke": True}),
        ("disconnect", {"user": 7, "revoke": True}),
        ("connection", {}),
        ("connection", {"id": 7}),
        ("close", {"id": None}),
    ],
)
def test_a_malformed_question_does_nothing(name: str, args: dict[str, Any]) -> None:
    """It raises what the control subjects answer with "no result"."""
    administration = Administration()
    operation = operations(administration, 1000)[name]  # type: ignore[arg-type]  # a stand-in
    with pytest.raises((ValueError, KeyError)):
        operation.do(args)
    assert administration.done == []


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("broadcast", "3"),
        ("broadcast", -1),
        ("broadcast", True),
        ("broadcast", 2**40),
        ("disconnect", None),
        ("close", 1),
        ("connection", []),
    ],
)
def test_a_result_of_another_form_is_none(name: str, result: object) -> None:
    """An administrator's answer adds up what replicas tell: nothing else may get in."""
    assert not operations(Administration(), 1000)[name].is_result(result)  # type: ignore[arg-type]
