"""NATS accounts that are proven by signed JWTs (NATS ADR-14): a server's configuration, and the
credentials file of one user.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import nkeys

UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
CREDENTIALS = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


def operated(folder: Path) -> tuple[Path, Path]:
    """Return the configuration of a server that trusts an operator, and a user's credentials."""
    (_, operator), (_, account), (seed, user) = (
        _key(kind)
        for kind in (
            nkeys.PREFIX_BYTE_OPERATOR,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_USER,
        )
    )
    limits = UNLIMITED | {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    config, credentials = folder / "operated.conf", folder / "user.creds"
    config.write_text(
        f"operator: {_signed(operator, operator, 'operator')}\n"
        "resolver: MEMORY\n"
        "resolver_preload: {\n"
        f"  {_name(account)}: {_signed(operator, account, 'account', limits=limits)}\n"
        "}\n"
    )
    token = _signed(account, user, "user", pub={}, sub={}, **UNLIMITED)
    credentials.write_text(CREDENTIALS.format(jwt=token, seed=seed.decode()))
    return config, credentials


def _key(kind: int) -> tuple[bytes, nkeys.KeyPair]:
    seed = nkeys.encode_seed(os.urandom(32), kind)
    return seed, nkeys.from_seed(bytearray(seed))


def _name(key: nkeys.KeyPair) -> str:
    return str(key.public_key.decode())


def _signed(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: object) -> str:
    body = {
        "jti": os.urandom(16).hex(),
        "iat": int(time.time()),
        "iss": _name(issuer),
        "name": kind,
        "sub": _name(subject),
        "nats": {"type": kind, "version": 2, **claims},
    }
    parts = [_encoded(json.dumps(part).encode()) for part in (HEADER, body)]
    return ".".join((*parts, _encoded(issuer.sign(".".join(parts).encode()))))


HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
