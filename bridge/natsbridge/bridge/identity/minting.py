"""Tokens made here: for ``natsbridge token``, ``natsbridge dev`` and tests, never for users."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from natsbridge.bridge.errors import StartError
from natsbridge.bridge.identity.keys import usable_algorithms
from natsbridge.bridge.settings import SYMMETRIC, IdentitySettings
from natsbridge.schemas.envelope import new_id


def mint(
    settings: IdentitySettings,
    user_id: str,
    *,
    role: str | None = None,
    grants: Mapping[str, Any] | None = None,
    ttl: float = 3600.0,
    extra: Mapping[str, Any] | None = None,
    private_key: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Return a token for development and tests that these settings accept for ``ttl`` seconds.

    Symmetric algorithms sign with the secret of the settings, the others with ``private_key``
    (PEM). ``extra`` claims replace those made here; one that is None leaves it out. Raises
    :class:`StartError` when there is no key to sign with.
    """
    now = int(clock())
    claims: dict[str, Any] = {
        "sub": user_id,
        "iat": now,
        "exp": now + ttl,
        "jti": new_id(),
        "role": role,
        "grants": grants,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience[0] if settings.jwt_audience else None,
        **(extra or {}),
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    algorithm, key = _signing_key(settings, private_key)
    return jwt.encode(claims, key, algorithm)


def _signing_key(settings: IdentitySettings, private_key: Path | None) -> tuple[str, Any]:
    if SYMMETRIC.intersection(settings.jwt_algorithms):
        if settings.jwt_secret is None:
            raise StartError("BRIDGE_JWT_SECRET is needed to sign a token")
        return settings.jwt_algorithms[0], settings.jwt_secret.get_secret_value()
    if private_key is None:
        raise StartError("a private key (PEM) is needed to sign a token")
    try:
        key: Any = load_pem_private_key(private_key.read_bytes(), None)
        algorithms = usable_algorithms(key.public_key(), settings.jwt_algorithms)
    except (OSError, ValueError, TypeError):
        raise StartError(f"{private_key} is no private key in PEM without a password") from None
    if not algorithms:
        raise StartError(f"{private_key} fits none of BRIDGE_JWT_ALGORITHMS")
    return algorithms[0], key
