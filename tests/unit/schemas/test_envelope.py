"""The envelope's parts: ids that sort by time, times, the cursor."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest

from natsbridge.schemas import envelope
from natsbridge.schemas.envelope import new_id, schema_header, splice_cursor, timestamp


def test_an_id_is_a_uuid_of_version_7() -> None:
    """Version and variant bits are as RFC 9562 has them, and the text is the canonical one."""
    for _ in range(100):
        text = new_id()
        value = UUID(text)
        assert (value.int >> 76) & 0xF == 7
        assert (value.int >> 62) & 0b11 == 0b10
        assert str(value) == text


def test_an_id_holds_the_time_in_milliseconds() -> None:
    """The first 48 bits are the Unix time in milliseconds."""
    before = time.time_ns() // 1_000_000
    taken = UUID(new_id()).int >> 80
    after = time.time_ns() // 1_000_000
    # Ids made within one millisecond may run ahead of the clock by one for each 2,048 of them.
    assert before - 1 <= taken <= after + 10


def test_ids_sort_in_the_order_of_making() -> None:
    """Each id is greater than all before it, within a millisecond too."""
    made = [new_id() for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_go_on_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back, or stands still, neither repeats nor disorders ids."""
    now = time.time_ns()
    monkeypatch.setattr(envelope, "_last_milliseconds", 0)
    monkeypatch.setattr(envelope, "_sequence", 0)
    made = []
    for nanoseconds in (now, now - 60_000_000_000, *([now] * 5_000)):
        monkeypatch.setattr(time, "time_ns", lambda value=nanoseconds: value)
        made.append(new_id())
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_a_timestamp_is_rfc3339_in_utc() -> None:
    """The present, with microseconds and ``Z``."""
    before = datetime.now(UTC)
    text = timestamp()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert before <= datetime.fromisoformat(text) <= datetime.now(UTC)


@pytest.mark.parametrize("after", [b"", b"\n", b" \r\n\t "])
def test_the_cursor_goes_before_the_closing_brace(after: bytes) -> None:
    """White space behind the object is dropped; the bytes before it stay as they are."""
    assert splice_cursor(b'{ "a": {"b": 1} }' + after, b"5f-9") == (
        b'{ "a": {"b": 1} ,"cursor":"5f-9"}'
    )


def test_the_schema_header_names_type_and_version() -> None:
    """``Bridge-Schema`` is ``<type>@<version>``."""
    assert schema_header("upload.progress", 2) == "upload.progress@2"
