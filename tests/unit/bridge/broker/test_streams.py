"""The stream: how it must look, and what of an existing one would break delivery."""

from __future__ import annotations

import dataclasses

import pytest
from nats.js.api import RePublish, StreamConfig

from bridge.broker.streams import differences, wanted
from schemas.subjects import Subjects

WANTED = wanted("EVENTS", Subjects("p"))


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
def test_what_would_break_delivery_is_told(change: dict[str, object], word: str) -> None:
    """Each difference that matters is one line that names it."""
    found: StreamConfig = dataclasses.replace(WANTED, **change)
    (told,) = differences(found, WANTED)
    assert word in told


@pytest.mark.parametrize(
    "change", [{"max_age": 60.0}, {"max_bytes": 1}, {"description": "mine"}, {"num_replicas": 3}]
)
def test_what_an_owner_may_choose_is_no_difference(change: dict[str, object]) -> None:
    """How long, how much and how safely is the owner's business."""
    assert differences(dataclasses.replace(WANTED, **change), WANTED) == []
