"""Cursors as texts: what is read, what is refused, what is written."""

from __future__ import annotations

import pytest

from natsbridge.schemas.cursors import MAX_CURSOR, Cursor
from natsbridge.schemas.errors import CursorError, SchemaError


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("5f-7", Cursor("5f", 7, 7)),
        ("5f-0", Cursor("5f", 0, 0)),
        ("5f-7-9", Cursor("5f", 7, 9)),
        ("0-18446744073709551615", Cursor("0", 2**64 - 1, 2**64 - 1)),
    ],
)
def test_a_cursor_is_read_and_written(text: str, cursor: Cursor) -> None:
    """Identity, position, and how far user and all events have come, where that is further."""
    assert Cursor.parse(text) == cursor
    assert str(cursor) == text


@pytest.mark.parametrize("text", ["5f-7-7", "5f-7-3", "5f-7-0"])
def test_direct_events_are_never_behind_the_position(text: str) -> None:
    """Everything up to the position has come, direct events among it."""
    assert Cursor.parse(text) == Cursor("5f", 7, 7)
    assert str(Cursor.parse(text)) == "5f-7"


def test_the_longest_cursor_fits() -> None:
    """Every identity and every pair of sequences that NATS can have, and not much more."""
    longest = f"{'f' * 16}-{'1' * 20}-{'9' * 20}"
    assert len(longest) <= MAX_CURSOR
    assert str(Cursor.parse(longest)) == longest


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "7", "5f", "5f-", "-7", "5f-7-", "5f-7-8-9", "5f--7", "5f-x", "5F-7", "5g-7",
        "5f- 7", " 5f-7", "5f-7 ", "5f-7\n", "5f-7\x00", "5f-+7", "5f--1", "5f-1e3", "5f-\u0667",
        "0x5f-7", f"{'f' * 17}-1", f"5f-{'1' * 21}", f"5f-1-{'1' * 21}", "5f-7" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """As an error of this package, whatever it is and however long."""
    with pytest.raises(CursorError) as refused:
        Cursor.parse(text)
    assert isinstance(refused.value, SchemaError)
    assert len(str(refused.value)) < 100
