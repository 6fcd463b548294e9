"""``natsbridge check``: the settings as they take effect here, and what is unsafe about them.

It tells what ``natsbridge serve`` would say with the same environment. Secrets are never shown.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from natsbridge.bridge.cli.settings import settings, written
from natsbridge.bridge.cli.terminal import FAILED, USAGE, note, say
from natsbridge.bridge.errors import StartError
from natsbridge.bridge.identity.grants import GrantPolicy
from natsbridge.bridge.identity.keys import load_keys
from natsbridge.bridge.settings import (
    ASYMMETRIC,
    DEMO_SECRET,
    BridgeSettings,
    IdentitySettings,
    ServerSettings,
    read_sections,
)
from natsbridge.schemas.bus import BusSettings, Settings, SettingsError
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.errors import CatalogueError

OTHERS: Final = frozenset(
    {
        "BRIDGE_TOKEN",
        "BRIDGE_PUBLISH",
        "BRIDGE_IMAGE",
        "BRIDGE_PUBLISH_WITHOUT_STREAM",
        "BRIDGE_PUBLISH_DEADLINE",
        "BRIDGE_SPOOL",
        "BRIDGE_SPOOL_MAX_EVENTS",
        "BRIDGE_SPOOL_MAX_BYTES",
    }
)
"""What is named like a setting and read by others: `natsbridge tail`, the Compose file, the SDK."""

OF_KUBERNETES: Final = re.compile(
    r"BRIDGE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets in each pod for a Service whose name begins with ``bridge``."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--strict", action="store_true", help="end with 1 when there are warnings")


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(strict=options.strict)


def run(*, strict: bool, environment: Mapping[str, str] = os.environ) -> int:
    """Print the table, the problems and the warnings; return the exit code."""
    sections, problems = read_sections(environment)
    table(sections, environment)
    if not problems:
        problems = list(startable(BridgeSettings(**sections), environment))
    for problem in problems:
        note(f"invalid: {problem}")
    warnings = [*unsafe(sections), *strangers(environment)]
    for warning in warnings:
        note(f"warning: {warning}")
    if problems:
        return USAGE
    return FAILED if warnings and strict else 0


def table(sections: Mapping[str, Settings], environment: Mapping[str, str]) -> None:
    """Print name, value and origin of every setting whose section is valid."""
    rows = []
    for each in settings():
        if each.section in sections:
            value = shown(getattr(sections[each.section], each.field))
            rows.append((each.name, value, "environment" if environment.get(each.name) else ""))
    names = max((len(name) for name, _, _ in rows), default=0)
    values = min(44, max((len(value) for _, value, _ in rows), default=0))
    for name, value, origin in rows:
        say(f"{name:<{names}}  {value:<{values}}  {origin or 'default'}")


def shown(value: Any) -> str:
    """Return a value for people, without what is secret in it."""
    match value:
        case SecretStr():
            return "(set)"
        case _ if value in (None, (), {}):
            return "-"
        case tuple():
            return ",".join(without_password(str(each)) for each in value)
        case dict():
            plain = {
                key: each.model_dump(mode="json", exclude_none=True)
                if isinstance(each, BaseModel)
                else each
                for key, each in value.items()
            }
            return json.dumps(plain, separators=(",", ":"))
        case _:
            return without_password(written(value))


def without_password(text: str) -> str:
    """Return a URL without user and password; any other text as it is."""
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or "@" not in authority:
        return text
    return f"{scheme}://(set)@{authority.rpartition('@')[2]}{slash}{path}"


def startable(bridge: BridgeSettings, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield what would stop ``natsbridge serve`` although each setting is well-formed."""
    if not environment.get("BRIDGE_NATS_URL"):
        yield "BRIDGE_NATS_URL is not set, and natsbridge serve needs it"
    if missing := list(unreadable(bridge.bus)):
        yield from missing
    else:
        try:
            bridge.bus.connect_options()
        except SettingsError as error:
            yield str(error)
    try:
        catalogue = Catalogue.load(bridge.bus.catalogue)
    except CatalogueError as error:
        yield f"BRIDGE_CATALOGUE: {error}"
    else:
        try:
            GrantPolicy(bridge.identity.grants, catalogue)
        except StartError as error:
            yield str(error)
    try:
        load_keys(bridge.identity)
    except StartError as error:
        yield str(error)
    if bridge.server.tls_cert is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(bridge.server.tls_cert, bridge.server.tls_key)
        except (OSError, ssl.SSLError) as error:
            yield f"BRIDGE_TLS_CERT, BRIDGE_TLS_KEY: {error}"


def unsafe(sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each valid setting that is unsafe outside of a trial."""
    if "server" in sections:
        yield from unsafe_server(sections["server"])
    if "identity" in sections:
        yield from unsafe_identity(sections["identity"])
    if "bus" in sections:
        yield from unsafe_bus(sections["bus"])


def unsafe_server(server: ServerSettings) -> Iterator[str]:
    """What is unsafe about how clients come in."""
    if server.token_in_path:
        yield "BRIDGE_TOKEN_IN_PATH is true: proxies log paths, and with them the tokens"
    if "*" in server.allowed_origins:
        yield "BRIDGE_ALLOWED_ORIGINS is *: any web page may connect for a user it has a token of"
    if server.tls_cert is None and not is_loopback(server.host):
        yield (
            f"BRIDGE_HOST {server.host} is reached from outside without TLS: set BRIDGE_TLS_CERT, "
            "or let only a proxy that ends TLS reach it"
        )
    apart = server.internal_port is not None and not is_loopback(server.internal_host)
    if apart and server.tls_cert is None:
        yield (
            f"BRIDGE_INTERNAL_HOST {server.internal_host} is reached without TLS: let only your "
            "own network reach it"
        )
    for network in server.proxy_networks:
        if network.prefixlen == 0:
            yield f"BRIDGE_TRUSTED_PROXIES {network}: any client may claim any address"


def unsafe_identity(identity: IdentitySettings) -> Iterator[str]:
    """What is unsafe about how tokens are checked."""
    for name, secret in (
        ("BRIDGE_JWT_SECRET", identity.jwt_secret),
        ("BRIDGE_JWT_PREVIOUS_SECRET", identity.jwt_previous_secret),
    ):
        if secret is not None and secret.get_secret_value() == DEMO_SECRET:
            yield f"{name} is the demo secret: anybody can sign tokens with it"
    if identity.jwks_url is not None and identity.jwks_url.startswith("http://"):
        yield "BRIDGE_JWKS_URL is http: whoever is on the way can put in keys"
    if ASYMMETRIC.intersection(identity.jwt_algorithms):
        if identity.jwt_issuer is None:
            yield "BRIDGE_JWT_ISSUER is not set: tokens of any issuer with these keys are taken"
        if not identity.jwt_audience:
            yield "BRIDGE_JWT_AUDIENCE is not set: tokens made for other services are taken"


def unsafe_bus(bus: BusSettings) -> Iterator[str]:
    """What is unsafe about the way to NATS."""
    identified = bus.credentials or bus.user or bus.token or bus.tls_cert
    for url in bus.url:
        parts = urlsplit(url)
        if is_loopback(parts.hostname or ""):
            continue
        name = without_password(url)
        if not identified and parts.username is None:
            yield f"BRIDGE_NATS_URL {name} is reached without credentials"
        if parts.scheme != "tls" and not bus.tls_ca and not bus.tls_cert:
            yield f"BRIDGE_NATS_URL {name} is reached without TLS"


def unreadable(bus: BusSettings) -> Iterator[str]:
    """Yield what is wrong with each file that the way to NATS needs and that can't be read."""
    for name in ("credentials", "tls_ca", "tls_cert", "tls_key"):
        path: Path | None = getattr(bus, name)
        if path is not None:
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                variable = BusSettings.model_fields[name].alias
                yield f"{variable}: {path}: {(error.strerror or str(error)).lower()}"


def strangers(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like a setting and is none."""
    known = OTHERS.union(each.name for each in settings())
    for name in sorted(environment):
        if not name.startswith("BRIDGE_") or name in known or OF_KUBERNETES.fullmatch(name):
            continue
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        yield f"{name} is no setting of the bridge" + (f"; is it {near[0]}?" if near else "")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
