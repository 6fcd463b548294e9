"""``natsbridge token``: mint a token with the configured secret."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from natsbridge.bridge.cli.terminal import CommandError, say
from natsbridge.bridge.identity.grants import Rules
from natsbridge.bridge.identity.minting import mint
from natsbridge.bridge.settings import DEMO_SECRET, IdentitySettings
from natsbridge.schemas.errors import IdError, PatternError
from natsbridge.schemas.subjects import encode_id

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--user", required=True, metavar="ID", help="whose token it is")
    parser.add_argument("--role", metavar="ROLE", help="`admin` for the admin endpoints")
    parser.add_argument(
        "--grant", action="append", metavar="PATTERN", help="may subscribe to this (repeatable)"
    )
    parser.add_argument(
        "--deny", action="append", metavar="PATTERN", help="but not to this (repeatable)"
    )
    parser.add_argument("--ttl", default="1h", metavar="TIME", help="90s, 30m, 1h (default), 7d")
    parser.add_argument("--email", metavar="ADDRESS")
    parser.add_argument("--name", metavar="NAME")
    parser.add_argument("--demo", action="store_true", help="sign as `natsbridge dev` does")


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(
        user=options.user,
        role=options.role,
        grant=options.grant or [],
        deny=options.deny or [],
        ttl=options.ttl,
        email=options.email,
        name=options.name,
        demo=options.demo,
    )


def run(
    *,
    user: str,
    role: str | None,
    grant: list[str],
    deny: list[str],
    ttl: str,
    email: str | None,
    name: str | None,
    demo: bool,
) -> int:
    """Print one token."""
    if demo:
        settings = demo_identity()
    else:
        found = configured()
        if found is None:
            raise CommandError(
                "BRIDGE_JWT_SECRET is not set (--demo signs as `natsbridge dev` does)"
            )
        settings = found
    try:
        encode_id(user)
    except IdError as error:
        raise CommandError(f"--user: {error}") from None
    grants = subscribe_grants(grant, deny)
    extra = {"email": email, "name": name}
    say(mint(settings, user, ttl=seconds(ttl), role=role, grants=grants, extra=extra))
    return 0


def configured(environment: Mapping[str, str] = os.environ) -> IdentitySettings | None:
    """Return the settings of the secret that is configured, or None where there is none."""
    if not environment.get("BRIDGE_JWT_SECRET"):
        return None
    return IdentitySettings.from_environment(environment)


def demo_identity() -> IdentitySettings:
    """Return the settings that ``natsbridge dev`` signs with."""
    return IdentitySettings(jwt_secret=SecretStr(DEMO_SECRET))


def seconds(text: str) -> float:
    """Read a span of time: ``90s``, ``30m``, ``1h``, ``7d``, or seconds without a unit."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None or int(match[1]) == 0:
        raise CommandError(f"--ttl {text}: write 90s, 30m, 1h or 7d")
    return int(match[1]) * _UNITS[match[2] or "s"]


def subscribe_grants(grant: list[str], deny: list[str]) -> dict[str, Any] | None:
    """Return the claim ``grants`` for these patterns, or None to leave the defaults in force."""
    if not grant and not deny:
        return None
    if not grant:
        # An implied `>` would widen the token to the admin-only types, which defaults leave out.
        raise CommandError("--deny takes from what --grant gives: name that too (--grant '>')")
    try:
        Rules.parse(grant, deny, user="x")
    except PatternError as error:
        raise CommandError(f"--grant, --deny: {error}") from None
    return {"subscribe": {"allow": grant, "deny": deny}}
