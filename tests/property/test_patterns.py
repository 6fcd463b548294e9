"""Patterns against NATS's own matching, written out naively, and against brute force."""

from __future__ import annotations

import itertools
import re

from hypothesis import example, given
from hypothesis import strategies as st

from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.errors import PatternError
from natsbridge.schemas.patterns import Pattern

CATALOGUE = Catalogue.load()

Event = tuple[str, str, str]

UNIVERSE: list[Event] = list(itertools.product(("a", "b", "c"), ("x", "y", "z"), ("1", "-", "3")))
"""Every event there is; the last of each place stands for all that no pattern names."""

places = st.tuples(
    st.sampled_from(("a", "b", "*")),
    st.sampled_from(("x", "y", "*")),
    st.sampled_from(("1", "-", "*", ">")),
)
patterns = st.one_of(
    places.map(".".join),
    places.map(lambda each: ".".join(each[:2])),
    places.map(lambda each: f"{each[0]}.>"),
    st.sampled_from((">", "*", "a", "b")),
)
catalogue_patterns = st.one_of(
    st.tuples(
        st.sampled_from(("upload", "review", "user", "nowhere", "*")),
        st.sampled_from(("progress", "updated", "status_changed", "nothing", "*")),
        st.sampled_from(("77", "*", ">", None)),
    ).map(lambda each: ".".join(token for token in each if token)),
    st.sampled_from((">", "*", "upload", "review.>")),
)


def nats_matches(pattern: list[str], subject: list[str]) -> bool:
    """NATS's matching, token by token, as its documentation has it."""
    if not pattern or not subject:
        return not pattern and not subject
    if pattern[0] == ">":
        return pattern == [">"]
    return pattern[0] in ("*", subject[0]) and nats_matches(pattern[1:], subject[1:])


def covers(text: str, subject: list[str]) -> bool:
    """NATS's matching, but that one or two tokens cover all below them."""
    tokens = text.split(".")
    if len(tokens) < 3 and tokens[-1] != ">":
        tokens.append(">")
    return nats_matches(tokens, subject)


def language(pattern: Pattern) -> set[Event]:
    return {event for event in UNIVERSE if pattern.matches(f"{event[0]}.{event[1]}", event[2])}


@given(patterns)
def test_a_pattern_matches_what_nats_matches(text: str) -> None:
    """An event is covered exactly when NATS would deliver its subject to the pattern."""
    assert language(Pattern.parse(text)) == {
        event for event in UNIVERSE if covers(text, list(event))
    }


@given(patterns)
def test_a_pattern_survives_being_written_out(text: str) -> None:
    """The text of a parsed pattern is the same pattern, in three tokens."""
    pattern = Pattern.parse(text)
    assert Pattern.parse(str(pattern)) == pattern
    assert str(pattern).count(".") == 2


@given(patterns, patterns)
def test_containment_is_language_inclusion(one: str, two: str) -> None:
    """One pattern contains another exactly when it covers every event that the other covers."""
    outer, inner = Pattern.parse(one), Pattern.parse(two)
    assert outer.contains(inner) is (language(inner) <= language(outer))


@given(patterns, patterns)
def test_an_intersection_covers_what_both_cover(one: str, two: str) -> None:
    """The intersection's events are those of both; it is None exactly when there are none."""
    left, right = Pattern.parse(one), Pattern.parse(two)
    both = left.intersection(right)
    assert both == right.intersection(left)
    shared = language(left) & language(right)
    assert (set() if both is None else language(both)) == shared
    assert (both is None) is (not shared)


@given(catalogue_patterns)
def test_expansion_names_the_types_that_are_matched(text: str) -> None:
    """A pattern expands to the catalogue's types of which it matches some event, sorted."""
    resources = ("77", "some-other", "-")
    expected = [
        name
        for name in sorted(CATALOGUE.types)
        if any(covers(text, [*name.split("."), resource]) for resource in resources)
    ]
    assert list(CATALOGUE.expand(Pattern.parse(text))) == expected


NAME = re.compile(r"[a-z][a-z0-9_]{0,63}|\*")


@given(
    st.one_of(
        st.text(max_size=20),
        st.lists(
            st.sampled_from(("a", "up_load", "*", ">", "", "-", "1", "A", "=2E", "=2e", "a b")),
            max_size=5,
        ).map(".".join),
    )
)
@example("a.b.1.>")
@example("*.*.*.>")
@example("a.b.c.d")
@example(">.a")
@example("a.>.1")
@example("a.b.")
@example("a.b.1\n")
@example("")
@example("a." * 200)
def test_any_text_is_a_pattern_or_a_typed_error(text: str) -> None:
    """What is accepted is one to three tokens, each well formed, with ``>`` only as the last."""
    try:
        pattern = Pattern.parse(text)
    except PatternError:
        return
    tokens = text.split(".")
    assert 1 <= len(tokens) <= 3
    assert ">" not in tokens[:-1]
    for written in tokens[:2]:
        assert written == ">" or NAME.fullmatch(written)
    assert NAME.fullmatch(pattern.domain)
    assert NAME.fullmatch(pattern.action)
