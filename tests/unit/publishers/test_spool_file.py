"""The spool's file and its caps."""

from __future__ import annotations

import sqlite3
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natsbridge.publishers import OutgoingEvent, SpoolFailed, SpoolFull, SpoolLocked
from natsbridge.publishers.spool_file import Mark, SpoolFile, from_row, size_of, to_row
from natsbridge.publishers.spool_quota import Room

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EVENTS = st.builds(
    OutgoingEvent,
    type=TEXTS,
    id=TEXTS,
    user=st.none() | TEXTS,
    durable=st.just(True),
    subject=TEXTS,
    live_subject=TEXTS,
    payload=st.binary(max_size=200),
    headers=st.dictionaries(TEXTS, TEXTS, max_size=4),
)


def an_event(name: str, size: int = 10) -> OutgoingEvent:
    return OutgoingEvent("t.e", name, None, True, f"events.{name}", f"live.{name}", b"x" * size, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def file(path: Path) -> Iterator[SpoolFile]:
    file = SpoolFile(path)
    yield file
    file.close()


@settings(deadline=None)
@given(EVENTS, st.floats(0, 1e10))
def test_an_event_comes_back_as_it_was(event: OutgoingEvent, at: float) -> None:
    """What is sent from the spool is what was published, to the byte, whatever is in it."""
    with sqlite3.connect(":memory:") as database:
        cells = ", ".join("?" * 9)
        row = database.execute(f"SELECT 7, {cells}", to_row(event, at)).fetchone()
    database.close()
    kept = from_row(row)
    assert kept.event == event
    assert (kept.position, kept.spooled_at, kept.size) == (7, at, size_of(event))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 5)),
        st.tuples(st.just("done"), st.integers(1, 5)),
        st.tuples(st.just("refuse"), st.just(0)),
        st.tuples(st.just("put back"), st.integers(1, 3)),
        st.tuples(st.just("discard"), st.integers(1, 2)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_the_file_is_a_queue_over_any_life(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever is written, taken out, put aside, put back, and however often the file is opened
    anew: the order is that of writing, nothing is lost and nothing is there twice."""
    path = tmp_path_factory.mktemp("spool") / "spool.db"
    file = SpoolFile(path)
    waiting: deque[str] = deque()
    refused: list[str] = []
    names = iter(range(10**6))
    for step, count in steps:
        first = file.after(0, 1)
        match step:
            case "write":
                fresh = [f"e{next(names)}" for _ in range(count)]
                file.write([an_event(name) for name in fresh], file.mark, 1.0)
                waiting.extend(fresh)
            case "done":
                if rows := file.after(0, count):
                    file.write((), Mark(rows[-1].position, "EVENTS", 7), 1.0)
                    for _ in rows:
                        waiting.popleft()
            case "refuse" if first:
                position = first[0].position
                file.refuse(position, "because", Mark(position, "EVENTS", 7))
                refused.append(waiting.popleft())
            case "put back":
                positions = [each.position for each in file.refused(count)]
                assert file.put_back(positions) == len(positions)
                waiting.extend(refused[:count])
                del refused[:count]
            case "discard":
                positions = [each.position for each in file.refused(count)]
                assert file.discard(positions)[0] == len(positions)
                del refused[:count]
            case "reopen":
                mark = file.mark
                file.close()
                file = SpoolFile(path)
                assert file.mark == mark
        assert [each.event.id for each in file.after(0, 1000)] == list(waiting)
        assert [each.event.id for each in file.refused(1000)] == refused
        totals = file.totals()
        assert (totals.waiting, totals.refused) == (len(waiting), len(refused))
    file.close()


def test_positions_are_never_given_twice(file: SpoolFile) -> None:
    """A mark can't mean an event that came later, even when the file was empty in between."""
    file.write([an_event("a")], file.mark, 1.0)
    [first] = file.after(0, 10)
    file.write((), Mark(first.position), 1.0)
    file.write([an_event("b")], file.mark, 1.0)
    [second] = file.after(0, 10)
    assert second.position > first.position


def test_each_commit_is_flushed(file: SpoolFile) -> None:
    """WAL with FULL: what was returned for survives a power cut as far as the disk obeys."""
    run = file._database.execute
    assert run("PRAGMA journal_mode").fetchone() == ("wal",)
    assert run("PRAGMA synchronous").fetchone() == (2,)


def test_a_file_in_use_is_told_and_left_alone(path: Path, file: SpoolFile) -> None:
    """Two that empty one spool would mix up its order."""
    with pytest.raises(SpoolLocked, match="in use by another publisher"):
        SpoolFile(path)
    file.write([an_event("a")], file.mark, 1.0)
    assert file.totals().waiting == 1


def test_the_file_is_for_its_owner_alone(path: Path, file: SpoolFile) -> None:
    """Events may hold what is not for every user of the machine."""
    file.write([an_event("a")], file.mark, 1.0)
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each


def test_what_is_no_spool_is_not_touched(path: Path) -> None:
    """A wrong path is told, not written over."""
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(SpoolFailed, match="not a database"):
        SpoolFile(path)
    assert path.read_bytes() == b"my thesis" * 1000
    other = path.with_name("other.db")
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(SpoolFailed, match="not a spool of this version"):
        SpoolFile(other)
    with pytest.raises(SpoolFailed, match="nowhere"):
        SpoolFile(path.parent / "nowhere" / "spool.db")


def test_a_write_that_fails_leaves_nothing_behind(path: Path, file: SpoolFile) -> None:
    """All events of one call are kept or none, and the file goes on."""
    wrong = OutgoingEvent("t.e", "b", None, True, "s", "l", [], {})  # type: ignore[arg-type]
    with pytest.raises(SpoolFailed):
        file.write([an_event("a"), wrong], Mark(5), 1.0)
    assert file.mark == Mark()
    file.write([an_event("c")], file.mark, 1.0)
    assert [each.event.id for each in file.after(0, 9)] == ["c"]


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(300, 5000), st.lists(st.lists(st.integers(0, 500))))
def test_the_caps_hold_whatever_comes(
    max_events: int, max_bytes: int, calls: list[list[int]]
) -> None:
    """No call goes over a cap, one that is refused leaves no trace, and what is given back fits."""
    room = Room(max_events, max_bytes)
    held: list[tuple[int, int]] = []
    for number, sizes in enumerate(calls):
        events = [an_event("e", size) for size in sizes]
        before = room.events, room.bytes
        needed = sum(map(size_of, events))
        if before[0] + len(events) > max_events or before[1] + needed > max_bytes:
            with pytest.raises(SpoolFull) as caught:
                room.take(events)
            assert caught.value.events == events
            assert (room.events, room.bytes) == before
        else:
            assert room.take(events) == needed
            held.append((len(events), needed))
        assert room.events <= max_events
        assert room.bytes <= max_bytes
        if number % 3 == 2 and held:
            room.give(*held.pop())
    assert (room.events, room.bytes) == tuple(map(sum, zip((0, 0), *held, strict=True)))
