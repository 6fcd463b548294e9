"""A clock that stands still, and identities to work with."""

from __future__ import annotations

import pytest

from natsbridge.bridge.identity.grants import GrantPolicy
from natsbridge.bridge.identity.tokens import Identity
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import encode_id


class Clock:
    """A time in seconds that moves when the test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return Catalogue.load()


@pytest.fixture(scope="session")
def policy(catalogue: Catalogue) -> GrantPolicy:
    return GrantPolicy({}, catalogue)


class People:
    """Makes identities."""

    def __init__(self, policy: GrantPolicy) -> None:
        self._policy = policy

    def make(
        self, user_id: str = "u.1", issued_at: float | None = None, claim: object = None
    ) -> Identity:
        user = encode_id(user_id)
        default = self._policy.default("user", user)
        return Identity(
            user_id=user_id,
            user=user,
            role="user",
            admin=False,
            email="someone@example.com",
            name=None,
            expires_at=2e9,
            issued_at=issued_at,
            token_id="t",
            grants=default if claim is None else self._policy.claimed(claim, "user", user),
        )


@pytest.fixture
def people(policy: GrantPolicy) -> People:
    return People(policy)
