"""What the bridge itself says, as JSON."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from schemas.codes import ErrorCode, PatternReason
from schemas.replies import (
    ConnectionEstablished,
    EstablishedData,
    Limits,
    Pong,
    PongData,
    Reply,
    SubscriptionAcknowledged,
    SubscriptionData,
    error,
)


def test_a_reply_has_the_fields_of_every_message() -> None:
    """Type, id, timestamp and data; ``reply_to`` only where there is something to answer."""
    told = json.loads(Pong(data=PongData(pingId="p")).to_bytes())
    assert set(told) == {"type", "id", "timestamp", "data"}
    assert UUID(told["id"]).version == 7
    assert set(told["data"]) == {"timestamp", "pingId"}
    answer = json.loads(Pong(data=PongData(pingId="p"), reply_to="m1").to_bytes())
    assert answer["reply_to"] == "m1"


@pytest.mark.parametrize("ping_id", ["x", "é", 7, None])
def test_a_pong_carries_what_the_ping_had(ping_id: str | int | None) -> None:
    """``pingId`` comes back as it was, and is there as null when there was none."""
    assert json.loads(Pong(data=PongData(pingId=ping_id)).to_bytes())["data"]["pingId"] == ping_id


def test_established_has_all_of_the_seeds_fields() -> None:
    """The seed's fields and limits, and what the contract adds to them."""
    limits = Limits(
        max_message_size=65536,
        rate_limit_messages=100,
        rate_limit_window=60,
        heartbeat_interval=30,
        connection_timeout=60,
        max_subscriptions=128,
    )
    data = EstablishedData(
        connection_id="c", user_id="u", features=["patterns"], limits=limits, expires_at="never"
    )
    told = json.loads(ConnectionEstablished(data=data).to_bytes())["data"]
    assert set(told) == {
        "connection_id", "user_id", "server_time", "features", "limits", "expires_at", "cursor",
        "resume",
    }  # fmt: skip
    assert set(told["limits"]) == set(Limits.model_fields)


def test_an_acknowledgement_keeps_its_empty_lists() -> None:
    """A client of the seed reads ``events`` and ``invalid_events`` without looking for them."""
    data = SubscriptionData(
        events=[], invalid_events=["x"], effective=[], reasons={"x": PatternReason.UNKNOWN_EVENT}
    )
    assert json.loads(SubscriptionAcknowledged(data=data).to_bytes())["data"] == {
        "events": [],
        "invalid_events": ["x"],
        "effective": [],
        "reasons": {"x": "UNKNOWN_EVENT"},
    }


def test_an_error_leaves_out_what_it_has_not() -> None:
    """``reset_time``, ``details`` and ``reply_to`` are there only when they are set."""
    plain = json.loads(error(ErrorCode.INTERNAL_ERROR, "words").to_bytes())
    assert plain["data"] == {"code": "INTERNAL_ERROR", "message": "words"}
    assert "reply_to" not in plain
    limited = error(
        ErrorCode.RATE_LIMIT_EXCEEDED, "words", reply_to="m", reset_time=1.5, details={"a": 1}
    )
    told = json.loads(limited.to_bytes())
    assert told["reply_to"] == "m"
    assert told["data"]["reset_time"] == 1.5
    assert told["data"]["details"] == {"a": 1}


def test_each_reply_has_a_type_of_its_own() -> None:
    """No two replies share a type, and each type is its class's only one."""
    kinds = [each.model_fields["type"].default for each in Reply.__subclasses__()]
    assert len(kinds) == len(set(kinds))
    assert None not in kinds
