"""Where each key of a session stands while stored events are read for it, and what is read."""

from __future__ import annotations

import pytest

from natsbridge.bridge.replay.positions import (
    DIRECT,
    MAX_COUNTED,
    MAX_SUBJECTS,
    Key,
    Positions,
    as_wanted,
)
from natsbridge.schemas.patterns import ANY
from natsbridge.schemas.subjects import Subjects

WIDE, NARROW, OTHER = ("review.updated", ANY), ("review.updated", "77"), ("review.created", ANY)
SUBJECT = "events.topic.review.updated"


def positions(*wanted: Key, reached: int = 100, direct: bool = True) -> Positions:
    """Return those of a session that has had everything of these up to a sequence."""
    return Positions(reached, wanted, subjects=Subjects(), user="1", direct=direct)


def topics(found: dict[str, int]) -> dict[str, int]:
    """The subjects of topics among these, and after which sequence they are read."""
    return {subject: after for subject, after in found.items() if ".topic." in subject}


class TestReading:
    """Which subjects are read, and after which sequence."""

    def test_a_key_is_read_from_where_it_was_put(self) -> None:
        """The others from where the session is."""
        each = positions(OTHER)
        each.know(frozenset({WIDE}))
        each.put({WIDE}, 30)
        assert each.to_read([WIDE, OTHER]) == {
            "events.user.1.>": 100,
            "events.all.>": 100,
            "events.topic.review.updated.*": 30,
            "events.topic.review.created.*": 100,
        }
        assert each.lowest == 30

    def test_what_was_written_is_not_read_again(self) -> None:
        """Everything is written in the stream's order: the last one counts for all."""
        each = positions(WIDE)
        each.put({DIRECT}, 10, 20)
        each.written = 40
        assert each.to_read([WIDE])["events.all.>"] == each.lowest == 40

    def test_a_key_whose_begin_is_not_known_is_not_read(self) -> None:
        """It is wanted already, and its order is still to be placed."""
        assert topics(positions().to_read([WIDE])) == {}

    def test_without_direct_events_its_user_is_read_as_far_back_as_its_keys(self) -> None:
        """And not at all where nothing is wanted."""
        each = positions(WIDE, direct=False)
        each.put({WIDE}, 30)
        assert each.to_read([WIDE])["events.user.1.>"] == 30
        assert each.to_read([]) == {}

    @pytest.mark.parametrize(
        ("types", "resources", "subjects"),
        [(1, MAX_SUBJECTS, MAX_SUBJECTS), (2, MAX_SUBJECTS, 2), (MAX_SUBJECTS + 1, 1, 1)],
    )
    def test_many_keys_are_few_subjects(self, types: int, resources: int, subjects: int) -> None:
        """Each of them, each of their types, or all topics; from the lowest that one stands at."""
        keys = [(f"a.b{name}", str(number)) for name in range(types) for number in range(resources)]
        each = positions(*keys)
        each.put(keys[:1], 30)
        found = topics(each.to_read(keys))
        assert len(found) == subjects
        assert min(found.values()) == 30


class TestLacks:
    """Which stored events a session is to have."""

    def test_up_to_where_its_key_stands_it_has_had_them(self) -> None:
        """A resource that stands elsewhere than all of its type counts by itself."""
        each = positions(NARROW)
        each.know(frozenset({WIDE}))
        each.put({WIDE}, 30)
        assert [each.lacks(WIDE, NARROW, at) for at in (100, 101)] == [False, True]
        assert [each.lacks(WIDE, (WIDE[0], "78"), at) for at in (30, 31)] == [False, True]
        assert topics(each.to_read([WIDE])) == {f"{SUBJECT}.*": 30}

    def test_what_is_not_wanted_or_not_known_does_not_come(self) -> None:
        """However late it is."""
        assert not positions(WIDE).lacks(None, NARROW, 1000)
        assert not positions().lacks(WIDE, NARROW, 1000)


class TestInherit:
    """What is wanted changes while stored events are read."""

    def test_a_resource_goes_on_where_all_of_its_type_were(self) -> None:
        """It is nothing new, and what the client is still to get of it is read."""
        each = positions(WIDE)
        each.put({WIDE}, 30)
        each.written = 40
        assert each.inherit(frozenset({NARROW}), frozenset({WIDE})) == frozenset()
        assert topics(each.to_read([NARROW])) == {f"{SUBJECT}.77": 40}

    def test_a_resource_keeps_where_it_is_when_all_of_its_type_are_wanted(self) -> None:
        """All of the type is new, and begins where its order says."""
        each = positions(NARROW)
        each.put({NARROW}, 30)
        assert each.inherit(frozenset({WIDE}), frozenset({NARROW})) == {WIDE}
        assert topics(each.to_read([WIDE])) == {f"{SUBJECT}.77": 30}

    def test_a_resource_that_was_ahead_of_its_type_stays_ahead(self) -> None:
        """All of the type was wanted for a while, and is still being read from further back."""
        each = positions(NARROW)
        each.inherit(frozenset({WIDE}), frozenset({NARROW}))
        each.know(frozenset({WIDE}))
        each.put({WIDE}, 30)
        assert each.inherit(frozenset({NARROW}), frozenset({WIDE})) == frozenset()
        assert topics(each.to_read([NARROW])) == {f"{SUBJECT}.77": 100}

    def test_what_was_written_counts_for_what_comes_later(self) -> None:
        """Whatever is not behind begins there, and whoever gives up has had it."""
        each = positions(WIDE)
        each.written = 140
        each.inherit(frozenset({WIDE, OTHER}), frozenset({WIDE}))
        assert (each.reached, each.after(OTHER)) == (140, 140)

    def test_what_is_wanted_again_is_new(self) -> None:
        """Also where it was known all along: NATS had not confirmed it, and it was given back."""
        each = positions(WIDE)
        assert each.inherit(frozenset({WIDE}), frozenset()) == {WIDE}
        assert topics(each.to_read([WIDE])) == {}
        assert each.know(frozenset({WIDE})) == {WIDE}

    def test_what_is_not_wanted_any_more_is_forgotten(self) -> None:
        """And does not hold the others back."""
        each = positions(WIDE, OTHER)
        each.put({WIDE}, 30)
        assert each.inherit(frozenset({OTHER}), frozenset({WIDE, OTHER})) == frozenset()
        assert each.lowest == 100

    def test_all_keys_are_where_a_pass_ended(self) -> None:
        """All of a type, and a resource of it, which goes on from there by itself."""
        each = positions(NARROW)
        each.know(frozenset({WIDE}))
        each.put({WIDE}, 30)
        each.reach(200)
        assert topics(each.to_read([WIDE])) == {f"{SUBJECT}.*": 200}
        assert each.inherit(frozenset({NARROW}), frozenset({WIDE})) == frozenset()
        assert each.lacks(NARROW, NARROW, 201)


def test_all_that_a_key_brings_is_counted() -> None:
    """Without direct events also what is for its user and for everybody."""
    assert positions().to_count({NARROW: ()}) == ([f"{SUBJECT}.77"], [])
    counted, off = positions(direct=False).to_count({NARROW: ()})
    assert {*counted} == {
        f"{SUBJECT}.77",
        "events.user.1.review.updated.77",
        "events.all.review.updated.77",
    }
    assert off == []


def test_what_is_left_out_of_a_type_is_counted_off() -> None:
    """As long as it is not so much that the stream had to be asked for ever."""
    assert positions().to_count({WIDE: {"77"}}) == ([f"{SUBJECT}.*"], [f"{SUBJECT}.77"])
    many = {str(number) for number in range(MAX_COUNTED + 1)}
    assert positions().to_count({WIDE: many}) == ([f"{SUBJECT}.*"], [])
    single: dict[Key, tuple[str, ...]] = {("review.updated", each): () for each in many}
    assert positions().to_count(single) == ([f"{SUBJECT}.*"], [])


def test_keys_are_taken_as_they_are_wanted_now() -> None:
    """All of a type may have become single resources, and what is given back is left out."""
    keys = frozenset({DIRECT, WIDE, OTHER})
    assert as_wanted(keys, [NARROW]) == {DIRECT, NARROW}
    assert as_wanted(frozenset({NARROW}), [WIDE]) == {NARROW}
