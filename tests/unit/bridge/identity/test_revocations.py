"""Revocations: which tokens they concern, and for how long they are kept."""

from __future__ import annotations

import pytest

from natsbridge.bridge.identity.revocations import Revocations
from tests.unit.bridge.identity.conftest import People

NOW = 1000.0


@pytest.mark.parametrize(
    ("issued_at", "revoked"), [(None, True), (0.0, True), (NOW, True), (NOW + 1, False)]
)
def test_tokens_issued_up_to_then_are_refused(
    people: People, issued_at: float | None, revoked: bool
) -> None:
    """A token is good when it is newer than the revocation; one that can't tell is not."""
    revocations = Revocations()
    identity = people.make("u.1", issued_at)
    assert not revocations.is_revoked(identity)
    revocations.revoke(identity.user, NOW)
    assert revocations.is_revoked(identity) is revoked
    assert not revocations.is_revoked(people.make("other"))


def test_a_late_message_takes_nothing_back(people: People) -> None:
    """An older revocation of the same user, arriving late, does not undo the newer one."""
    revocations = Revocations()
    identity = people.make("u.1", NOW - 5)
    revocations.revoke(identity.user, NOW)
    revocations.revoke(identity.user, NOW - 10)
    assert revocations.is_revoked(identity)
    assert len(revocations) == 1


def test_old_ones_are_forgotten(people: People) -> None:
    """A revocation goes after the maximal age, a repeated one that long after its repetition."""
    revocations = Revocations(max_age=60)
    revocations.revoke("a", NOW)
    revocations.revoke("b", NOW)
    revocations.revoke("a", NOW + 30)
    assert revocations.purge(NOW + 59) == 0
    assert revocations.purge(NOW + 60) == 1
    assert revocations.is_revoked(people.make("a", NOW + 30))
    assert not revocations.is_revoked(people.make("b", NOW))
    assert revocations.purge(NOW + 90) == 1


def test_the_memory_is_bounded(people: People) -> None:
    """At capacity the oldest makes room, which is told and counted."""
    revocations = Revocations(capacity=2)
    assert revocations.revoke("a", NOW)
    assert revocations.revoke("b", NOW + 1)
    assert revocations.revoke("a", NOW + 2)
    assert not revocations.revoke("c", NOW + 3)
    assert len(revocations) == 2
    assert revocations.forgotten == 1
    assert not revocations.is_revoked(people.make("b", NOW))
    assert revocations.is_revoked(people.make("a", NOW))
