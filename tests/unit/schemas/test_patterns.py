"""Patterns: how each form is read, and which are malformed."""

from __future__ import annotations

import pytest

from natsbridge.schemas.errors import PatternError
from natsbridge.schemas.patterns import Pattern


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (">", "*.*.*"),
        ("*", "*.*.*"),
        ("upload", "upload.*.*"),
        ("upload.>", "upload.*.*"),
        ("upload.*", "upload.*.*"),
        ("*.updated", "*.updated.*"),
        ("review.updated", "review.updated.*"),
        ("review.updated.>", "review.updated.*"),
        ("review.updated.77", "review.updated.77"),
        ("review.*.77", "review.*.77"),
        ("*.*.=2D", "*.*.=2D"),
        ("system.notification.-", "system.notification.-"),
    ],
)
def test_one_or_two_tokens_cover_every_resource(text: str, written: str) -> None:
    """Each form of the contract comes to three places, ``*`` where nothing is said."""
    assert str(Pattern.parse(text)) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..1",
        "a.b.",
        "a.b.1.2",
        "a.b.1.>",
        "a.b.1.*",
        "*.*.*.>",
        ">.a",
        "a.>.1",
        ">>",
        "a*",
        "a.b*",
        "a.b.1*",
        "A.b",
        "a.b.=2e",
        "a.b.a b",
        " a.b",
        "a.b\n",
        "a.b.é",
        "a.b." + "x" * 129,
        "a" * 65,
        "a.b." + "x" * 400,
    ],
)
def test_a_malformed_pattern_is_a_typed_error(text: str) -> None:
    """``>`` not at the end or for no token, a fourth token, names and ids that can't be."""
    with pytest.raises(PatternError):
        Pattern.parse(text)


def test_the_longest_resource_fits() -> None:
    """A pattern of the longest names and the longest resource is no longer than is allowed."""
    pattern = Pattern.parse(f"{'a' * 64}.{'b' * 64}.{'x' * 128}")
    assert pattern.matches(f"{'a' * 64}.{'b' * 64}", "x" * 128)


def test_containment_is_stricter_than_matching() -> None:
    """What an allow-list covers in part is not inside it: ``upload.*`` is not in one of its own."""
    assert Pattern.parse(">").contains(Pattern.parse("upload.*"))
    assert Pattern.parse("upload.*").contains(Pattern.parse("upload.progress.7"))
    assert not Pattern.parse("upload.progress").contains(Pattern.parse("upload.*"))
    assert not Pattern.parse("review.updated.77").contains(Pattern.parse("review.updated"))
