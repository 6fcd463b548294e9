"""The subjects of the contract, written out."""

from __future__ import annotations

import pytest

from natsbridge.schemas.errors import IdError, SubjectError
from natsbridge.schemas.subjects import (
    Address,
    Audience,
    Root,
    Subjects,
    decode_id,
    encode_id,
    is_event_type,
)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("42", "42"),
        ("a_b-C", "a_b-C"),
        ("-", "=2D"),
        ("--", "--"),
        ("a.b", "a=2Eb"),
        ("*", "=2A"),
        (">", "=3E"),
        ("a b\t", "a=20b=09"),
        ("=2D", "=3D2D"),
        ("é", "=C3=A9"),
        ("user@example.com", "user=40example=2Ecom"),
    ],
)
def test_an_id_is_written_as_the_contract_says(value: str, token: str) -> None:
    """Bytes outside ``A-Z a-z 0-9 _ -`` become ``=XX``; ``-`` alone too, as it means nothing."""
    assert encode_id(value) == token
    assert decode_id(token) == value


@pytest.mark.parametrize("value", ["", "a" * 129, "." * 43, "\ud800"])
def test_an_id_that_can_be_no_token_is_refused(value: str) -> None:
    """Empty, over 128 bytes encoded, or no text: an IdError, whose words don't hold the id."""
    with pytest.raises(IdError) as refused:
        encode_id(value)
    assert not value or value not in str(refused.value)


def test_the_bound_is_on_the_encoded_id() -> None:
    """128 plain characters fit, and so do 42 that are written with three bytes each."""
    assert len(encode_id("a" * 128)) == 128
    assert len(encode_id("." * 42)) == 126


@pytest.mark.parametrize(
    ("prefix", "root", "address", "subject"),
    [
        (
            "",
            Root.SERVICE,
            Address(Audience.USER, "upload.progress", "77", "42"),
            "live.service.user.42.upload.progress.77",
        ),
        (
            "staging",
            Root.EVENTS,
            Address(Audience.TOPIC, "review.updated", "77"),
            "staging.events.topic.review.updated.77",
        ),
        (
            "",
            Root.STREAM,
            Address(Audience.TOPIC, "review.updated", "77"),
            "live.stream.topic.review.updated.77",
        ),
        (
            "eu.staging",
            Root.SERVICE,
            Address(Audience.ALL, "system.notification"),
            "eu.staging.live.service.all.system.notification.-",
        ),
    ],
)
def test_an_event_has_one_subject(prefix: str, root: Root, address: Address, subject: str) -> None:
    """Root, audience, user, type and resource stand where the contract's table has them."""
    assert Subjects(prefix).event(root, address) == subject
    assert Subjects(prefix).parse(subject) == address


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "live",
        "live.service",
        "live.user.42.upload.progress.77",
        "live.bridge.user.42.upload.progress.77",
        "live.*.user.42.upload.progress.77",
        "services.user.42.upload.progress.77",
        "live.service.user.42.upload.progress",
        "live.service.user.42.upload.progress.77.more",
        "live.service.topic.upload.progress",
        "live.service.topic.upload.progress.",
        "live.service.topic..progress.77",
        "live.service.topic.Upload.progress.77",
        "live.service.topic.upload.progress.a=2e",
        "live.service.topic.upload.progress.*",
        "live.service.nobody.upload.progress.77",
        "commands.upload.cancel.42.77",
        "other.live.service.all.upload.progress.77",
        "live.service.user.-.upload.progress.77",
        "live.service.user.4=2.upload.progress.77",
    ],
)
def test_any_other_subject_is_refused(subject: str) -> None:
    """What is no event's subject, token by token, is a SubjectError."""
    with pytest.raises(SubjectError):
        Subjects().parse(subject)


def test_subjects_of_another_prefix_are_refused() -> None:
    """Deployments that share an account don't read each other's subjects."""
    for subject in (
        "live.service.all.a.b.-",
        "prod.live.service.all.a.b.-",
        "stagingx.live.service.all.a.b.-",
    ):
        with pytest.raises(SubjectError):
            Subjects("staging").parse(subject)
    with pytest.raises(SubjectError):
        Subjects("staging").parse_command("commands.upload.cancel.42.77")


@pytest.mark.parametrize("prefix", [".", "a.", ".a", "a..b", "a b", "*", ">", "a.>", "é", "a\n"])
def test_a_prefix_is_plain_tokens(prefix: str) -> None:
    """A prefix that could reach other subjects, or that is malformed, is a SubjectError."""
    with pytest.raises(SubjectError):
        Subjects(prefix)


def test_a_command_that_is_malformed_is_a_typed_error() -> None:
    """Too few tokens and tokens that are no ids are refused, each with its type."""
    with pytest.raises(SubjectError):
        Subjects().parse_command("commands.upload.cancel.42")
    with pytest.raises(IdError):
        Subjects().parse_command("commands.upload.cancel.42.=2e")


@pytest.mark.parametrize(
    ("prefix", "subject", "rejected"),
    [
        ("", "live.service.all.a.b.-", "rejected.service.all.a.b.-"),
        ("p", "p.live.stream.all.a.b.-", "p.rejected.stream.all.a.b.-"),
        ("p", "p.events.all.a.b.-", "p.rejected.stream.all.a.b.-"),
    ],
)
def test_what_is_rejected_keeps_its_subject(prefix: str, subject: str, rejected: str) -> None:
    """A refused event goes to what of its subject is below ``live``, inside the prefix: where a
    service may look for its own, whether it was stored or not.
    """
    assert Subjects(prefix).rejected(subject) == rejected


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("upload.progress", True),
        ("a.b_2", True),
        (f"{'a' * 64}.b", True),
        (f"{'a' * 65}.b", False),
        ("upload", False),
        ("upload.", False),
        (".progress", False),
        ("a.b.c", False),
        ("2a.b", False),
        ("a.*", False),
        ("a.b\n", False),
    ],
)
def test_an_event_type_is_two_names(name: str, good: bool) -> None:
    """``<domain>.<action>``: lower case, digits and underscores, a letter first, 64 at most."""
    assert is_event_type(name) is good
