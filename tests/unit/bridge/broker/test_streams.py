"""The stream: how it must look, and what of an existing one would break delivery."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from nats.js.api import RePublish, StreamConfig, StreamSource, SubjectTransform

from bridge.broker.streams import choices, differences, wanted
from bridge.settings import StreamSettings
from schemas.subjects import Subjects

WANTED = wanted("EVENTS", Subjects("p"), StreamSettings())


def test_the_stream_stores_events_and_republishes_them_to_live() -> None:
    """Under the prefix, whole, and open for direct reads."""
    assert WANTED.name == "EVENTS"
    assert WANTED.subjects == ["p.events.>"]
    assert WANTED.republish == RePublish(src="p.events.>", dest="p.live.stream.>")
    assert WANTED.allow_direct
    assert differences(WANTED, WANTED) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"subjects": ["p.events.user.>"]}, "subjects"),
        ({"subjects": None}, "subjects"),
        ({"republish": None}, "republish"),
        ({"republish": RePublish(src="p.events.>", dest="p.other.>")}, "p.other"),
        ({"republish": RePublish(src="p.events.all.>", dest="p.live.stream.>")}, "p.events.all"),
        (
            {"republish": RePublish(src="p.events.>", dest="p.live.stream.>", headers_only=True)},
            "whole messages",
        ),
        ({"allow_direct": False}, "allow_direct is off, not on (what is stored can't be read)"),
        ({"allow_direct": None}, "allow_direct is off, not on"),
        ({"retention": "workqueue"}, "retention is workqueue, not limits"),
        ({"retention": "interest"}, "retention is interest, not limits"),
        ({"mirror": StreamSource(name="OTHER")}, "mirror is set, not off"),
        (
            {"subject_transform": SubjectTransform(src="p.events.>", dest="p.other.>")},
            "subject_transform is set, not off",
        ),
        ({"sealed": True}, "sealed is on, not off (it takes no events any more)"),
        ({"no_ack": True}, "no_ack is on, not off"),
        ({"allow_msg_counter": True}, "allow_msg_counter is on, not off"),
    ],
)
def test_what_would_break_delivery_is_told(change: dict[str, Any], word: str) -> None:
    """Each difference that matters is one line that names it."""
    found: StreamConfig = dataclasses.replace(WANTED, **change)
    (told,) = differences(found, WANTED)
    assert word in told


def test_what_an_owner_chooses_is_in_the_settings() -> None:
    """Age, bytes, number a subject and replicas are taken from there; 0 a subject is no bound."""
    settings = StreamSettings(max_age=60, max_bytes=2 << 20, max_per_subject=7, replicas=3)
    want = wanted("EVENTS", Subjects("p"), settings)
    assert (want.max_age, want.max_bytes, want.max_msgs_per_subject) == (60, 2 << 20, 7)
    assert want.num_replicas == 3
    assert WANTED.max_msgs_per_subject == -1


def test_duplicates_are_not_looked_for_longer_than_events_are_kept() -> None:
    """NATS refuses a window of duplicates that is longer than the stream's age."""
    short = wanted("EVENTS", Subjects("p"), StreamSettings(max_age=5))
    assert short.duplicate_window == 5
    assert WANTED.duplicate_window == 120


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_age": 60.0}, "max_age is 60, not 86400"),
        ({"max_bytes": 1}, "max_bytes is 1, not 1073741824"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, not -1"),
        ({"num_replicas": 3}, "num_replicas is 3, not 1"),
        ({"max_msgs": 1000}, "max_msgs is 1000, not -1 (beyond it the oldest go)"),
        ({"max_msg_size": 512}, "max_msg_size is 512, not -1"),
        ({"discard": "new"}, "discard is new, not old (a full stream refuses new events)"),
        ({"storage": "memory"}, "storage is memory, not file"),
        ({"persist_mode": "async"}, "persist_mode is async, not off"),
        ({"duplicate_window": 5.0}, "duplicate_window is 5, not 120"),
        ({"sources": [StreamSource(name="OTHER")]}, "sources is set, not off"),
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is on, not off"),
    ],
)
def test_a_stream_that_is_not_as_the_settings_say_is_told_of(
    change: dict[str, Any], words: str
) -> None:
    """It breaks nothing, but whoever set it should know that it is not so, and what that costs."""
    assert choices(WANTED, WANTED) == []
    found = dataclasses.replace(WANTED, **change)
    (told,) = choices(found, WANTED)
    assert words in told
    assert differences(found, WANTED) == []


@pytest.mark.parametrize(
    "change",
    [
        {"description": "mine"},
        {"deny_delete": True, "deny_purge": True},
        {"compression": "s2"},
        {"duplicate_window": 3600.0},
        {"sources": [], "mirror_direct": False, "allow_direct": True, "no_ack": None},
    ],
)
def test_what_costs_nothing_is_not_told(change: dict[str, Any]) -> None:
    """What neither breaks nor weakens anything is the owner's business; what is off may be told in
    any way.
    """
    found = dataclasses.replace(WANTED, **change)
    assert differences(found, WANTED) == choices(found, WANTED) == []
