"""What the bridge itself says, as JSON."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from natsbridge.schemas.codes import ErrorCode, GapReason, PatternReason, ResumeReason
from natsbridge.schemas.replies import (
    ConnectionEstablished,
    EstablishedData,
    Gap,
    GapData,
    Limits,
    Missing,
    Pong,
    PongData,
    Reply,
    ResumeCompleted,
    ResumeData,
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


def test_established_has_all_of_its_fields() -> None:
    """Those of the first version of the protocol, and what was added to them."""
    limits = Limits(
        max_message_size=65536,
        rate_limit_messages=100,
        rate_limit_window=60,
        heartbeat_interval=30,
        connection_timeout=60,
        max_subscriptions=128,
        subscription_units=8192,
        replay_messages=100_000,
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
    """A client may read ``events`` and ``invalid_events`` without looking for them."""
    data = SubscriptionData(
        events=[], invalid_events=["x"], effective=[], reasons={"x": PatternReason.UNKNOWN_EVENT}
    )
    assert json.loads(SubscriptionAcknowledged(data=data).to_bytes())["data"] == {
        "events": [],
        "invalid_events": ["x"],
        "effective": [],
        "reasons": {"x": "UNKNOWN_EVENT"},
    }


def test_an_acknowledgement_tells_cursor_and_paces_where_there_are_some() -> None:
    """``policy`` says what is kept and what is not, each type by name."""
    data = SubscriptionData(
        events=[],
        invalid_events=[],
        effective=[],
        reasons={},
        cursor="5f-7",
        policy={"applied": {"upload.progress": {"max_rate": 5.0, "keep": "latest"}}, "refused": {}},
    )
    told = json.loads(SubscriptionAcknowledged(data=data, reply_to="m").to_bytes())
    assert told["reply_to"] == "m"
    assert told["data"]["cursor"] == "5f-7"
    assert told["data"]["policy"] == data.policy


def test_a_pace_that_was_taken_back_is_told_as_null() -> None:
    """``applied`` names the type all the same: the client learns that its null was taken."""
    data = SubscriptionData(
        events=[],
        invalid_events=[],
        effective=[],
        reasons={},
        policy={"applied": {"upload.progress": None}, "refused": {}},
    )
    told = json.loads(SubscriptionAcknowledged(data=data).to_bytes())
    assert told["data"]["policy"] == {"applied": {"upload.progress": None}, "refused": {}}


def test_a_gap_keeps_its_range_even_where_it_is_null() -> None:
    """``from`` and ``to`` are always there; ``dropped`` and ``reply_to`` only with a value."""
    gap = Gap(data=GapData(from_="5f-1", reason=GapReason.RETENTION, recoverable=False))
    told = json.loads(gap.to_bytes())
    assert told["type"] == "gap"
    assert told["data"] == {
        "from": "5f-1",
        "to": None,
        "reason": "RETENTION",
        "recoverable": False,
    }
    assert "reply_to" not in told
    dropped = GapData(reason=GapReason.SLOW_CONSUMER, recoverable=False, dropped={"a.b": 2})
    assert json.loads(Gap(data=dropped).to_bytes())["data"] == {
        "from": None,
        "to": None,
        "reason": "SLOW_CONSUMER",
        "recoverable": False,
        "dropped": {"a.b": 2},
    }


def test_the_end_of_a_replay_leaves_out_what_there_is_none_of() -> None:
    """Reason, missing range, cursor and ``reply_to`` are there only where they say something."""
    plain = json.loads(ResumeCompleted(data=ResumeData(recovered=True, replayed=0)).to_bytes())
    assert set(plain) == {"type", "id", "timestamp", "data"}
    assert plain["type"] == "resume.completed"
    assert plain["data"] == {"recovered": True, "replayed": 0}
    data = ResumeData(
        recovered=False,
        replayed=3,
        cursor="5f-9",
        reason=ResumeReason.CURSOR_TOO_OLD,
        missing=Missing(from_="5f-1", to="5f-4"),
    )
    told = json.loads(ResumeCompleted(data=data, reply_to="m").to_bytes())
    assert told["reply_to"] == "m"
    assert told["data"] == {
        "recovered": False,
        "replayed": 3,
        "cursor": "5f-9",
        "reason": "CURSOR_TOO_OLD",
        "missing": {"from": "5f-1", "to": "5f-4"},
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
