"""Orders: where they begin in the stream, and what is told in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from natsbridge.bridge.limits.budget import Budget
from natsbridge.bridge.replay.positions import DIRECT, Key, Positions
from natsbridge.bridge.replay.reads import Reads
from natsbridge.bridge.replay.request import Order, place
from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.subjects import Subjects
from tests.support.scripted_stream import ScriptedStream

DIRECTLY = frozenset({DIRECT})


def begin(
    order: Order,
    stream: ScriptedStream,
    reached: int = 8,
    meanwhile: Callable[[], None] = lambda: None,
) -> Positions:
    """Find where the order of a session begins that has had everything up to a sequence."""
    wanted: tuple[Key, ...] = ()
    positions = Positions(reached, wanted, subjects=Subjects(), user="1", direct=True)
    reads = Reads(stream, Budget(10_000, 60, time.monotonic))  # type: ignore[arg-type]
    env: Any = SimpleNamespace(stream=stream, reads=reads)

    async def find() -> None:
        head = await stream.look()
        meanwhile()
        await place(order, positions, env, "1", head, {})

    asyncio.run(find())
    return positions


@pytest.fixture
def stream() -> ScriptedStream:
    """Ten events, of which retention took the first five."""
    stream = ScriptedStream("5f")
    for _ in range(10):
        stream.store("events.user.1.upload.completed.7", b"{}")
    stream.lose(5)
    return stream


@pytest.mark.parametrize(
    ("cursor", "reason", "missing"),
    [
        (Cursor("5f", 5, 5), None, None),
        (Cursor("5f", 3, 7), None, None),
        (Cursor("5f", 3, 3), "CURSOR_TOO_OLD", (3, 5)),
        (Cursor("60", 7, 7), "STREAM_REPLACED", None),
        (Cursor("5f", 7, 11), "CURSOR_AHEAD", None),
    ],
)
def test_a_cursor_is_a_place_or_the_reason_is_told(
    stream: ScriptedStream, cursor: Cursor, reason: str | None, missing: tuple[int, int] | None
) -> None:
    """What begins goes on behind the cursor, else where the session is."""
    order = Order(DIRECTLY, cursor)
    positions = begin(order, stream)
    assert (order.reason, order.missing) == (reason, missing)
    assert positions.after(DIRECT) == (cursor.direct if order.is_begun else 8)


def test_what_makes_up_for_a_slow_client_begins_where_it_is(stream: ScriptedStream) -> None:
    """What is gone before that it has had."""
    order = Order()
    begin(order, stream)
    assert order.reason is None


def test_what_is_stored_since_the_look_is_not_among_the_last() -> None:
    """It comes live: the last three are those up to the look, and none of them is left out."""
    stream = ScriptedStream("5f")

    def store(count: int) -> None:
        for _ in range(count):
            stream.store("events.topic.review.updated.7", b"{}")

    store(10)
    reviews = ("review.updated", "*")
    order = Order(frozenset({reviews}), last=3)
    positions = begin(order, stream, meanwhile=partial(store, 4))
    assert positions.after(reviews) + order.skip == 10 - 3


def test_an_order_begins_anew_in_another_stream(stream: ScriptedStream) -> None:
    """What was found out about the one before says nothing of it."""
    order = Order(DIRECTLY, Cursor("5f", 3, 3))
    begin(order, stream)
    stream.replace("60")
    begin(order, stream)
    assert (order.reason, order.missing) == ("STREAM_REPLACED", None)


def test_what_could_not_be_read_is_not_told_in_part() -> None:
    """Not even what is known to be gone: all of it is."""
    order = Order(DIRECTLY, Cursor("5f", 3, 3), reply_to="m")
    order.miss(3, 5)
    order.fail()
    answer = order.answer(None, str)
    assert (answer.data.recovered, answer.data.reason) == (False, "UNAVAILABLE")
    assert (answer.data.missing, answer.reply_to) == (None, "m")
