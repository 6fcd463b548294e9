"""Answers that are written from a template are what their models write."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.sessions.greeting import Greetings, announced, features
from natsbridge.bridge.settings import LimitSettings
from natsbridge.schemas.envelope import rfc3339
from natsbridge.schemas.replies import (
    ConnectionEstablished,
    EstablishedData,
    PreparedAcknowledgement,
    SubscriptionAcknowledged,
    SubscriptionData,
    acknowledged_data,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
maybe = st.none() | texts
LIMITS = LimitSettings()
GREETINGS = Greetings(LIMITS)


def fields_of(written: bytes) -> dict[str, Any]:
    """Return the fields in order, with what is made anew for each message."""
    message: dict[str, Any] = json.loads(written)
    return message


@given(texts, texts, st.integers(0, 2**33), maybe, st.none() | st.booleans(), st.booleans(), maybe)
def test_a_greeting_is_what_the_model_writes(
    connection: str,
    user: str,
    expires_at: int,
    cursor: str | None,
    replaying: bool | None,
    can_resume: bool,
    reply_to: str | None,
) -> None:
    """Byte for byte, whatever the values hold."""
    name = connection.encode().hex()
    written = GREETINGS.write(
        connection_id=name,
        user_id=user,
        expires_at=expires_at,
        cursor=cursor,
        replaying=replaying,
        can_resume=can_resume,
        reply_to=reply_to,
    )
    made = fields_of(written)
    model = ConnectionEstablished(
        timestamp=made["timestamp"],
        id=made["id"],
        reply_to=reply_to,
        data=EstablishedData(
            connection_id=name,
            user_id=user,
            server_time=made["data"]["server_time"],
            features=features(can_resume),
            limits=announced(LIMITS),
            expires_at=rfc3339(expires_at),
            cursor=cursor,
            resume=None if replaying is None else {"replaying": replaying},
        ),
    )
    assert written == model.to_bytes()


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4), maybe, maybe)
def test_an_acknowledgement_is_what_the_model_writes(
    events: list[str], effective: list[str], cursor: str | None, reply_to: str | None
) -> None:
    """Byte for byte, with and without a cursor and the client's own id."""
    prepared = PreparedAcknowledgement(events, acknowledged_data(events, effective), reply_to)
    prepared.data.cursor = cursor
    written = prepared.to_bytes()
    made = fields_of(written)
    data = SubscriptionData(
        events=events, invalid_events=[], effective=effective, reasons={}, cursor=cursor
    )
    model = SubscriptionAcknowledged(
        timestamp=made["timestamp"], id=made["id"], reply_to=reply_to, data=data
    )
    assert written == model.to_bytes()
