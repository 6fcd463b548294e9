"""The stream: how it must look, and what of an existing one would break delivery."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from nats.js.api import RePublish, StreamConfig, StreamSource, SubjectTransform

from natsbridge.bridge.nats import shape
from natsbridge.bridge.nats.shape import choices
from natsbridge.bridge.settings import StreamSettings
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Subjects

SUBJECTS = Subjects("p")


def wanted(settings: StreamSettings | None = None) -> StreamConfig:
    """How the stream must look under the prefix ``p``."""
    return shape.wanted(
        "EVENTS",
        SUBJECTS,
        settings or StreamSettings(),
        catalogue=Catalogue.load(),
        max_message_size=65_536,
    )


def differences(found: StreamConfig, want: StreamConfig) -> list[str]:
    """What of a stream would break delivery."""
    return shape.differences(found, want, SUBJECTS)


WANTED = wanted()


def test_the_stream_stores_events_and_republishes_them_to_live() -> None:
    """Under the prefix, whole, and open for direct reads."""
    assert WANTED.name == "EVENTS"
    assert WANTED.subjects is not None
    assert "p.events.user.*.upload.completed.*" in WANTED.subjects
    assert "p.events.topic.review.updated.*" in WANTED.subjects
    assert "p.events.all.system.maintenance.*" in WANTED.subjects
    assert not any("upload.progress" in each for each in WANTED.subjects)
    assert WANTED.max_msg_size == 65_536 + shape.HEADERS
    assert WANTED.republish == RePublish(src="p.events.>", dest="p.live.stream.>")
    assert WANTED.allow_direct
    assert differences(WANTED, WANTED) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            {"subjects": ["p.events.user.>"]},
            "subjects are not those of event types: p.events.user.>",
        ),
        (
            {"subjects": ["p.events.>"]},
            "as version 0.1 made it (stop the bridges, then",
        ),
        ({"subjects": ["p.events.user.*.a.b.*", "p.events.all.a.b.c.*"]}, "p.events.all.a.b.c.*"),
        ({"subjects": ["events.user.*.a.b.*"]}, "events.user.*.a.b.*"),
        ({"sources": [StreamSource(name="OTHER")]}, "sources is set, not off"),
        ({"subjects": None}, "subjects"),
        ({"republish": None}, "republish"),
        ({"republish": RePublish(src="p.events.>", dest="p.other.>")}, "p.other"),
        ({"republish": RePublish(src="p.events.all.>", dest="p.live.stream.>")}, "p.events.all"),
        (
            {"republish": RePublish(src="p.events.>", dest="p.live.stream.>", headers_only=True)},
            "whole messages",
        ),
        (
            {"allow_direct": False},
            "allow_direct is off, not on (what is stored can't be read; `natsbridge stream apply`",
        ),
        ({"allow_direct": None}, "allow_direct is off, not on"),
        ({"retention": "workqueue"}, "retention is workqueue, not limits"),
        ({"retention": "interest"}, "retention is interest, not limits"),
        ({"mirror": StreamSource(name="OTHER")}, "mirror is set, not off"),
        (
            {"subject_transform": SubjectTransform(src="p.events.>", dest="p.other.>")},
            "subject_transform is set, not off",
        ),
        ({"sealed": True}, "sealed is on, not off (it takes no events any more; no update"),
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
    want = wanted(settings)
    assert (want.max_age, want.max_bytes, want.max_msgs_per_subject) == (60, 2 << 20, 7)
    assert want.num_replicas == 3
    assert WANTED.max_msgs_per_subject == -1


def test_duplicates_are_not_looked_for_longer_than_events_are_kept() -> None:
    """NATS refuses a window of duplicates that is longer than the stream's age."""
    short = wanted(StreamSettings(max_age=5))
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
        ({"max_msg_size": 512}, "max_msg_size is 512, not 69632 (larger events are refused"),
        ({"max_msg_size": -1}, "max_msg_size is -1, not 69632 (what is larger than clients take"),
        ({"discard": "new"}, "discard is new, not old (a full stream refuses new events)"),
        ({"storage": "memory"}, "storage is memory, not file"),
        ({"persist_mode": "async"}, "persist_mode is async, not off"),
        ({"duplicate_window": 5.0}, "duplicate_window is 5, not 120"),
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


def test_what_another_teams_bridge_needs_is_not_foreign() -> None:
    """Types that this catalogue does not have, and what bridges ask the stream at, may be there;
    what is lacking breaks nothing.
    """
    own = [*(WANTED.subjects or ()), "p.events.topic.invoice.draft.*", "p.events.probe"]
    assert differences(dataclasses.replace(WANTED, subjects=own), WANTED) == []
    assert differences(dataclasses.replace(WANTED, subjects=own[:1]), WANTED) == []
    assert shape.missing(own[:1], WANTED.subjects or ()) == (WANTED.subjects or [])[1:]


class TestRevision:
    """What ``natsbridge stream apply`` makes of a stream."""

    def revised(self, found: dict[str, Any], **settings: str) -> dict[str, Any]:
        """Return what changes, by name."""
        given = StreamSettings.from_environment(settings)
        config = shape.revised({**WANTED.as_dict(), **found}, wanted(given), SUBJECTS, given)
        return {
            name: value
            for name, value in config.items()
            if value != {**WANTED.as_dict(), **found}.get(name)
        }

    def test_a_stream_that_is_in_order_stays_as_it_is(self) -> None:
        """Also in what is not known here, and in what its owner chose."""
        assert self.revised({}) == {}
        assert self.revised({"max_age": 7, "unheard_of": {"a": 1}, "duplicate_window": 5}) == {}

    def test_the_subject_of_any_event_makes_way_for_the_types(self) -> None:
        """That of 0.1's stream; a type of another bridge stays."""
        other = "p.events.topic.invoice.draft.*"
        changed = self.revised({"subjects": ["p.events.>", other]})
        assert changed == {"subjects": sorted([*(WANTED.subjects or ()), other])}

    def test_what_delivery_rests_on_is_set(self) -> None:
        """Republishing, direct reads, acknowledgements, and the size of an event."""
        old = {"src": "p.events.>", "dest": "p.live.>"}
        found = {"republish": old, "allow_direct": False, "no_ack": True, "max_msg_size": -1}
        assert self.revised(found) == {
            "republish": {"src": "p.events.>", "dest": "p.live.stream.>"},
            "allow_direct": True,
            "no_ack": False,
            "max_msg_size": 65_536 + shape.HEADERS,
        }

    def test_what_its_owner_chose_changes_by_a_setting_that_is_given(self) -> None:
        """The defaults of the settings take nothing away from a stream that keeps more."""
        week = {"max_age": 7 * 86_400 * 10**9, "duplicate_window": 120 * 10**9}
        assert self.revised(week) == {}
        assert self.revised(week, BRIDGE_STREAM_MAX_AGE="60") == {
            "max_age": 60 * 10**9,
            "duplicate_window": 60 * 10**9,
        }
