"""The stream: how it must look, and what of an existing one would break delivery."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from nats.js.api import RePublish, StreamConfig

from bridge.broker.streams import choices, differences, wanted
from bridge.settings import StreamSettings
from schemas.subjects import Subjects

WANTED = wanted("EVENTS", Subjects("p"), StreamSettings())


def test_the_stream_stores_events_and_republishes_them_to_live() -> None:
    """Under the prefix, whole, and open for direct reads."""
    assert WANTED.name == "EVENTS"
    assert WANTED.subjects == ["p.events.>"]
    assert WANTED.republish == RePublish(src="p.events.>", dest="p.live.>")
    assert WANTED.allow_direct
    assert differences(WANTED, WANTED) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"subjects": ["p.events.user.>"]}, "subjects"),
        ({"subjects": None}, "subjects"),
        ({"republish": None}, "republish"),
        ({"republish": RePublish(src="p.events.>", dest="p.other.>")}, "p.other"),
        ({"republish": RePublish(src="p.events.all.>", dest="p.live.>")}, "p.events.all"),
        (
            {"republish": RePublish(src="p.events.>", dest="p.live.>", headers_only=True)},
            "whole messages",
        ),
        ({"allow_direct": False}, "allow_direct"),
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
        ({"max_bytes": 1}, "max_bytes is 1, not"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, not -1"),
        ({"num_replicas": 3}, "num_replicas is 3, not 1"),
    ],
)
def test_a_stream_that_is_not_as_the_settings_say_is_told_of(
    change: dict[str, Any], words: str
) -> None:
    """It breaks nothing, but whoever set it should know that it is not so."""
    assert choices(WANTED, WANTED) == []
    (told,) = choices(dataclasses.replace(WANTED, **change), WANTED)
    assert words in told


@pytest.mark.parametrize(
    "change", [{"max_age": 60.0}, {"max_bytes": 1}, {"description": "mine"}, {"num_replicas": 3}]
)
def test_what_an_owner_may_choose_is_no_difference(change: dict[str, Any]) -> None:
    """How long, how much and how safely is the owner's business."""
    assert differences(dataclasses.replace(WANTED, **change), WANTED) == []
