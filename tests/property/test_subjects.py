"""Ids ↔ subject tokens, and subjects, for any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from natsbridge.schemas.errors import IdError, SubjectError
from natsbridge.schemas.subjects import (
    NO_RESOURCE,
    Address,
    Audience,
    Root,
    Subjects,
    decode_id,
    encode_id,
    is_token,
)

PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")

anything = st.text(
    st.one_of(st.sampled_from(".*> \t\r\n=-_/aZ0"), st.characters(exclude_categories=())),
    max_size=60,
)
"""Text with what is dangerous in a subject, and lone surrogates."""
near_tokens = st.lists(
    st.sampled_from(("a", "Z", "0", "_", "-", "=", "=2D", "=2E", "=2e", "=41", "=C3", "=A9", ".")),
    max_size=8,
).map("".join)
"""Tokens, and what almost is one."""
ids = anything.filter(lambda text: _encodable(text))
event_types = st.sampled_from(("upload.progress", "review.updated", "user.status_changed"))
prefixes = st.sampled_from(("", "staging", "eu.staging-1"))


def _encodable(text: str) -> bool:
    try:
        size = sum(1 if byte in PLAIN else 3 for byte in text.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= 128


def is_canonical(token: str) -> bool:
    """Whether this is what the contract's rule writes for some id, by the rule itself."""
    parts = re.findall(r"=[0-9A-F]{2}|.", token, re.DOTALL)
    raw = b""
    for part in parts:
        if len(part) == 3:
            raw += bytes.fromhex(part[1:])
            if raw[-1] in PLAIN and token != "=2D":
                return False
        elif part.isascii() and ord(part) in PLAIN:
            raw += part.encode()
        else:
            return False
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return bool(token) and token != NO_RESOURCE and len(token) <= 128


@given(anything)
@example("-")
@example("a" * 128)
@example("a" * 129)
@example("é" * 21)
@example("é" * 22)
@example("\ud800")
def test_any_text_round_trips_or_is_refused(text: str) -> None:
    """An id comes back from its token exactly, or it is empty, too long or no text: IdError."""
    if not _encodable(text):
        with pytest.raises(IdError):
            encode_id(text)
        return
    token = encode_id(text)
    assert decode_id(token) == text
    assert is_token(token)


@given(ids)
@example("-")
@example(".")
@example("a.*.>")
def test_no_token_can_leave_its_place_in_a_subject(text: str) -> None:
    """A token holds nothing but ``A-Z a-z 0-9 _ - =``, and is never the mark of no resource."""
    token = encode_id(text)
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,128}", token)
    assert token != NO_RESOURCE


@given(st.one_of(anything, near_tokens))
@example("=2D")
@example("-")
@example("")
@example("a=2D")
@example("=61")
@example("=C3=A9")
@example("=C3")
@example("é")
@example("a\n")
def test_decoding_refuses_what_encoding_never_returns(token: str) -> None:
    """Each id has one token and each token one id: any other spelling is an IdError."""
    if is_canonical(token):
        assert encode_id(decode_id(token)) == token
        assert is_token(token)
    else:
        with pytest.raises(IdError):
            decode_id(token)
        assert is_token(token) is (token == NO_RESOURCE)


@given(
    prefixes,
    st.sampled_from((Root.EVENTS, Root.SERVICE, Root.STREAM)),
    st.sampled_from(tuple(Audience)),
    event_types,
    st.none() | ids,
    ids,
)
def test_a_subject_is_read_as_it_was_built(
    prefix: str, root: Root, audience: Audience, event_type: str, resource: str | None, user: str
) -> None:
    """Any event's address comes back from its subject, under any prefix."""
    address = Address(
        audience,
        event_type,
        NO_RESOURCE if resource is None else encode_id(resource),
        encode_id(user) if audience is Audience.USER else "",
    )
    subjects = Subjects(prefix)
    subject = subjects.event(root, address)
    assert subjects.parse(subject) == address
    assert subject.split(".")[: len(prefix.split(".")) if prefix else 0] == (
        prefix.split(".") if prefix else []
    )


@given(prefixes, ids, ids)
def test_a_command_is_read_as_it_was_built(prefix: str, user: str, resource: str) -> None:
    """Command, user and resource come back from a command's subject, decoded."""
    subjects = Subjects(prefix)
    subject = subjects.command("upload.cancel", encode_id(user), encode_id(resource))
    assert subjects.parse_command(subject) == ("upload.cancel", user, resource)


@given(
    prefixes,
    st.lists(
        near_tokens | st.sampled_from(("live.service", "events", "user", "topic")), max_size=8
    ),
)
@example("", ["live.service", "user", "-", "upload", "progress", "1"])
@example("", ["live.stream", "user", "1", "upload", "progress", "-"])
@example("", ["live.service", "topic", "upload", "progress", "=2e"])
def test_reading_any_subject_gives_an_address_or_a_typed_error(
    prefix: str, tokens: list[str]
) -> None:
    """Whatever the tokens are, a subject is an event's, or a SubjectError; then it is rebuilt."""
    subject = ".".join(tokens)
    subjects = Subjects(prefix)
    try:
        address = subjects.parse(subject)
    except SubjectError:
        return
    assert is_token(address.resource)
    assert address.user == "" or decode_id(address.user)
    words = subject.removeprefix(prefix).lstrip(".").split(".")
    root = Root(words[0] if words[0] == Root.EVENTS else ".".join(words[:2]))
    assert subjects.event(root, address) == subject
