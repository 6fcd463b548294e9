"""Cursors: what is written is read back as it was, and no text does harm."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.errors import CursorError

streams = st.integers(0, 2**63 - 1).map(lambda number: f"{number:x}")
sequences = st.integers(0, 2**64 - 1)


@given(streams, sequences, sequences)
def test_a_cursor_comes_back_as_it_was(stream: str, one: int, other: int) -> None:
    """For every identity and every two sequences, the lower of which is the position."""
    cursor = Cursor(stream, min(one, other), max(one, other))
    assert Cursor.parse(str(cursor)) == cursor


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-fA-F]*-?[0-9]*-?[0-9]*", fullmatch=True)))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """Nothing but the one error comes out, and what is read means the same once written."""
    with contextlib.suppress(CursorError):
        cursor = Cursor.parse(text)
        assert cursor.direct >= cursor.position >= 0
        assert Cursor.parse(str(cursor)) == cursor
