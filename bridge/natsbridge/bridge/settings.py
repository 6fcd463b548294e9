"""Settings of the bridge: environment → frozen, nested, validated once, passed down in sections.

Each field's alias is the variable's name, its description the line in the README's table. Nothing
else in the bridge reads the environment.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from natsbridge.bridge.identity.origins import ANY_PORT, LOOPBACK_HOSTS, host_allowed
from natsbridge.schemas.bus import BusSettings, CommaSeparated, Settings, SettingsError
from natsbridge.schemas.errors import PatternError
from natsbridge.schemas.patterns import Pattern

DEMO_SECRET: Final = "demo-secret-for-local-use-only-0123456789"
"""What ``natsbridge dev`` signs with; ``natsbridge check`` and the start of ``natsbridge serve``
warn of it."""

LOOPBACK_ANY_PORT: Final = frozenset(host + ANY_PORT for host in LOOPBACK_HOSTS)

SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _json(value: object) -> object:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("is not valid JSON") from None
    return value


class ServerSettings(Settings):
    """Where the bridge listens and whom it lets knock."""

    host: str = Field("127.0.0.1", alias="BRIDGE_HOST", description="address to listen on")
    port: int = Field(
        8000, alias="BRIDGE_PORT", ge=0, le=65535, description="port to listen on, 0 for a free one"
    )
    internal_host: str = Field(
        "127.0.0.1",
        alias="BRIDGE_INTERNAL_HOST",
        description="address for what operators need, with `BRIDGE_INTERNAL_PORT`",
    )
    internal_port: int | None = Field(
        None,
        alias="BRIDGE_INTERNAL_PORT",
        ge=0,
        le=65535,
        description="port for admin endpoints, `/metrics` and `/docs`, which the public one then "
        "does not serve",
    )
    docs: bool = Field(
        False,
        alias="BRIDGE_DOCS",
        description="whether `/docs` and `/openapi.json` are served where there is no internal "
        "port; at that one they always are",
    )
    tls_cert: Path | None = Field(
        None, alias="BRIDGE_TLS_CERT", description="certificate chain (PEM): wss without a proxy"
    )
    tls_key: Path | None = Field(
        None, alias="BRIDGE_TLS_KEY", description="key of that certificate (PEM)"
    )
    allowed_origins: CommaSeparated = Field(
        (),
        alias="BRIDGE_ALLOWED_ORIGINS",
        description="browser origins that may connect, whole (`https://app.example.com`, "
        "`http://localhost:*` for any port of this machine); `*` for any; empty: only pages of the "
        "bridge's own host",
    )
    allowed_hosts: CommaSeparated = Field(
        (),
        alias="BRIDGE_ALLOWED_HOSTS",
        description="names that requests to the public port may have in `Host`, without a port; "
        "empty: any",
    )
    trusted_proxies: CommaSeparated = Field(
        (),
        alias="BRIDGE_TRUSTED_PROXIES",
        description="addresses or networks whose `X-Forwarded-For` counts",
    )
    token_in_path: bool = Field(
        True, alias="BRIDGE_TOKEN_IN_PATH", description="whether `/ws/{token}` is served"
    )
    handshake_timeout: float = Field(
        10.0,
        alias="BRIDGE_HANDSHAKE_TIMEOUT",
        gt=0,
        le=60,
        description="longest time for a request to arrive whole (seconds)",
    )
    max_pending_per_address: int = Field(
        512,
        alias="BRIDGE_MAX_PENDING_PER_ADDRESS",
        ge=1,
        description="connections of one address (IPv6: of one /64) that are no WebSockets, or "
        "nobody's yet; over it the oldest goes",
    )
    drain_seconds: float = Field(
        10.0,
        alias="BRIDGE_DRAIN_SECONDS",
        ge=0,
        le=20,
        description="time over which clients are sent away at the stop (seconds)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="BRIDGE_LOG_LEVEL", description="`debug`, `info`, `warning` or `error`"
    )
    log_format: Literal["text", "json"] = Field(
        "text", alias="BRIDGE_LOG_FORMAT", description="`text` or `json`, one line a record"
    )
    log_rate: int = Field(
        10,
        alias="BRIDGE_LOG_RATE",
        ge=1,
        le=100_000,
        description="log lines a second of one kind; what is beyond is summed up",
    )

    @field_validator("port", "internal_port", mode="before")
    @classmethod
    def _a_port(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "is what Kubernetes sets for a Service of that name: set it in the pod, "
                "or `enableServiceLinks: false`"
            )
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ipaddress.ip_network(value, strict=False)
            except ValueError:
                raise ValueError(f"{value!r} is no address or network") from None
        return values

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            scheme, _, rest = value.partition("://")
            if value != "*" and (scheme not in ("http", "https") or not rest or "/" in rest):
                raise ValueError(f"{value!r} is no origin (scheme://host[:port], without a path)")
            if value.endswith(ANY_PORT) and rest.lower() not in LOOPBACK_ANY_PORT:
                raise ValueError(f"{value!r}: any port is for names of this machine only")
        return tuple(value.lower() for value in values)

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(value.lower() for value in values)
        for name in names:
            if not host_allowed(name, (name,)):
                raise ValueError(f"{name!r} is no host name (without a port; IPv6 in brackets)")
        return names

    @model_validator(mode="after")
    def _internal(self) -> Self:
        if self.internal_port is None and "internal_host" in self.model_fields_set:
            raise ValueError("BRIDGE_INTERNAL_HOST does nothing without BRIDGE_INTERNAL_PORT")
        return self

    @model_validator(mode="after")
    def _tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("BRIDGE_TLS_CERT and BRIDGE_TLS_KEY go together")
        for name, path in (("BRIDGE_TLS_CERT", self.tls_cert), ("BRIDGE_TLS_KEY", self.tls_key)):
            if path is not None and not path.is_file():
                raise ValueError(f"{name} is no file")
        return self

    @property
    def proxy_networks(self) -> tuple[Network, ...]:
        """The trusted proxies as networks."""
        return tuple(ipaddress.ip_network(value, strict=False) for value in self.trusted_proxies)


class GrantRules(Settings):
    """Patterns that are allowed and denied; deny wins.

    Without ``allow`` the role's default counts, less what is denied; an empty one allows nothing.
    """

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    @field_validator("allow", "deny", mode="before")
    @classmethod
    def _patterns(cls, value: object) -> object:
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise ValueError("is a list of patterns")
        for each in value:
            try:
                Pattern.parse(each.replace("{user_id}", "x"))
            except PatternError as error:
                raise ValueError(f"{each!r}: {error}") from None
        return tuple(value)


class GrantsSetting(Settings):
    """Grants as a token's ``grants`` claim and the settings per role write them.

    A part that is not there leaves the default of that part in force. ``null`` is no way to leave
    one out: it may stand for a list that somebody failed to fill in.
    """

    subscribe: GrantRules | None = None
    command: GrantRules | None = None

    @field_validator("subscribe", "command", mode="before")
    @classmethod
    def _no_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("is null, not an object with allow or deny")
        return value


class IdentitySettings(Settings):
    """How tokens are checked, and what a token without ``grants`` may do."""

    jwt_secret: SecretStr | None = Field(
        None, alias="BRIDGE_JWT_SECRET", description="secret of HS256 tokens, 32 bytes or more"
    )
    jwt_previous_secret: SecretStr | None = Field(
        None,
        alias="BRIDGE_JWT_PREVIOUS_SECRET",
        description="secret that tokens may still be signed with while it is replaced",
    )
    jwt_public_key: Path | None = Field(
        None,
        alias="BRIDGE_JWT_PUBLIC_KEY",
        description="public key (PEM) of RS/ES/EdDSA tokens, and behind it the one before it",
    )
    jwks_url: str | None = Field(
        None, alias="BRIDGE_JWKS_URL", description="JWKS of the token issuer (`https://`)"
    )
    jwt_algorithms: CommaSeparated = Field(
        ("HS256",), alias="BRIDGE_JWT_ALGORITHMS", description="algorithms that are accepted"
    )
    jwt_issuer: str | None = Field(
        None, alias="BRIDGE_JWT_ISSUER", description="`iss` that a token must have"
    )
    jwt_audience: CommaSeparated = Field(
        (), alias="BRIDGE_JWT_AUDIENCE", description="`aud` values, one of which a token must have"
    )
    jwt_leeway: float = Field(
        5.0, alias="BRIDGE_JWT_LEEWAY", ge=0, le=30, description="clock skew allowed (seconds)"
    )
    grants: Annotated[dict[str, GrantsSetting], BeforeValidator(_json)] = Field(
        default_factory=dict,
        alias="BRIDGE_GRANTS",
        description="default grants per role as JSON, `default` for every other role",
    )
    auth_timeout: float = Field(
        5.0,
        alias="BRIDGE_AUTH_TIMEOUT",
        gt=0,
        le=60,
        description="time for a first message `authenticate` (seconds)",
    )
    ticket_ttl: float = Field(
        30.0, alias="BRIDGE_TICKET_TTL", ge=1, le=300, description="life of a ticket (seconds)"
    )
    max_tickets: int = Field(
        10_000,
        alias="BRIDGE_MAX_TICKETS",
        ge=1,
        le=1_000_000,
        description="tickets of all replicas that were issued within the life of one",
    )
    expiring_notice: float = Field(
        30.0,
        alias="BRIDGE_AUTH_EXPIRING_NOTICE",
        ge=0,
        le=3600,
        description="`auth.expiring` comes this long before `exp` (seconds)",
    )

    @field_validator("jwt_algorithms")
    @classmethod
    def _algorithms(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [value for value in values if value not in SYMMETRIC | ASYMMETRIC]
        if unknown or not values:
            raise ValueError(f"choose from {', '.join(sorted(SYMMETRIC | ASYMMETRIC))}")
        return values

    @field_validator("jwt_secret", "jwt_previous_secret")
    @classmethod
    def _length(cls, value: SecretStr | None) -> SecretStr | None:
        # RFC 7518 §3.2: a key at least as long as the hash output.
        if value is not None and len(value.get_secret_value().encode()) < 32:
            raise ValueError("needs 32 bytes or more (RFC 7518 §3.2)")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("is a URL, https:// outside of tests")
        return value

    @model_validator(mode="after")
    def _keys(self) -> Self:
        symmetric = SYMMETRIC.intersection(self.jwt_algorithms)
        asymmetric = ASYMMETRIC.intersection(self.jwt_algorithms)
        if symmetric and asymmetric:
            # One key must never serve as an HMAC secret and as a public key (RFC 8725 §3.1).
            raise ValueError("BRIDGE_JWT_ALGORITHMS: symmetric and asymmetric ones don't mix")
        if symmetric and not (self.jwt_public_key is None and self.jwks_url is None):
            # A secret that is there as well would serve, and all that the issuer signs be refused.
            raise ValueError(
                "BRIDGE_JWT_PUBLIC_KEY and BRIDGE_JWKS_URL do nothing with "
                f"BRIDGE_JWT_ALGORITHMS={','.join(self.jwt_algorithms)}: name those of the keys"
            )
        if symmetric and self.jwt_secret is None:
            raise ValueError("BRIDGE_JWT_SECRET is needed for " + ", ".join(sorted(symmetric)))
        if asymmetric and self.jwt_previous_secret is not None:
            raise ValueError(
                "BRIDGE_JWT_PREVIOUS_SECRET does nothing with "
                f"BRIDGE_JWT_ALGORITHMS={','.join(self.jwt_algorithms)}"
            )
        if asymmetric and self.jwt_public_key is None and self.jwks_url is None:
            raise ValueError("BRIDGE_JWT_PUBLIC_KEY or BRIDGE_JWKS_URL is needed")
        if self.jwt_public_key is not None and not self.jwt_public_key.is_file():
            raise ValueError("BRIDGE_JWT_PUBLIC_KEY is no file")
        return self


class LimitSettings(Settings):
    """The limits of the first version of the protocol, and what else is bounded. Counted per
    process unless it says otherwise.
    """

    max_connections: int = Field(
        1000, alias="BRIDGE_MAX_CONNECTIONS", ge=1, description="connections in all"
    )
    max_connections_per_user: int = Field(
        3,
        alias="BRIDGE_MAX_CONNECTIONS_PER_USER",
        ge=1,
        description="connections of one user; the oldest goes",
    )
    max_message_size: int = Field(
        64 * 1024,
        alias="BRIDGE_MAX_MESSAGE_SIZE",
        ge=4096,
        le=16 * 1024 * 1024,
        description="bytes of one message, both ways; four times that closes the connection",
    )
    rate_limit_messages: int = Field(
        100, alias="BRIDGE_RATE_LIMIT_MESSAGES", ge=1, description="client messages in the window"
    )
    rate_limit_window: float = Field(
        60.0, alias="BRIDGE_RATE_LIMIT_WINDOW", gt=0, le=3600, description="that window (seconds)"
    )
    heartbeat_interval: float = Field(
        30.0,
        alias="BRIDGE_HEARTBEAT_INTERVAL",
        ge=0.1,
        le=3600,
        description="time between the bridge's WebSocket pings (seconds)",
    )
    connection_timeout: float = Field(
        60.0,
        alias="BRIDGE_CONNECTION_TIMEOUT",
        ge=0.1,
        le=7200,
        description="a connection that shows no sign of life for this long is closed (seconds)",
    )
    max_subscriptions: int = Field(
        128, alias="BRIDGE_MAX_SUBSCRIPTIONS", ge=1, description="patterns of one connection"
    )
    max_interests: int = Field(
        1024,
        alias="BRIDGE_MAX_INTERESTS",
        ge=1,
        description="units (type and resource) that the patterns of one connection come to",
    )
    subscription_units: int = Field(
        8192,
        alias="BRIDGE_SUBSCRIPTION_UNITS",
        ge=1,
        description="units of all connections of one user, with those given back within the window "
        "of the rate",
    )
    replay_messages: int = Field(
        100_000,
        alias="BRIDGE_REPLAY_MESSAGES",
        ge=1000,
        description="stored events that are looked at for one user in the window of the rate; a "
        "replay over it waits",
    )
    max_errors: int = Field(
        20, alias="BRIDGE_MAX_ERRORS", ge=1, description="refused messages in a row"
    )
    max_commands: int = Field(
        10,
        alias="BRIDGE_MAX_COMMANDS",
        ge=1,
        description="commands of one connection that wait for a service at once",
    )
    queue_messages: int = Field(
        100,
        alias="BRIDGE_QUEUE_MESSAGES",
        ge=1,
        description="messages that wait for one connection that can't be written to now",
    )
    queue_bytes: int = Field(
        1024 * 1024, alias="BRIDGE_QUEUE_BYTES", ge=1024, description="bytes of those messages"
    )
    stall_timeout: float = Field(
        30.0,
        alias="BRIDGE_STALL_TIMEOUT",
        gt=0,
        le=3600,
        description="a connection that is behind and takes under 16 KiB in this time is closed "
        "(seconds)",
    )
    failed_handshakes: int = Field(
        60,
        alias="BRIDGE_FAILED_HANDSHAKES",
        ge=1,
        description="failed handshakes of one address in a minute before 429",
    )
    linger: float = Field(
        5.0,
        alias="BRIDGE_INTEREST_LINGER",
        ge=0,
        le=300,
        description="a NATS subscription outlives its last client by this (seconds)",
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.connection_timeout <= self.heartbeat_interval:
            raise ValueError(
                "BRIDGE_CONNECTION_TIMEOUT must be longer than BRIDGE_HEARTBEAT_INTERVAL"
            )
        return self


class StreamSettings(Settings):
    """How the stream is made where there is none; one that is there is checked, never changed."""

    create: bool = Field(
        True,
        alias="BRIDGE_STREAM_CREATE",
        description="whether the bridge makes a stream that is missing; else it says so",
    )
    max_age: float = Field(
        24 * 3600.0,
        alias="BRIDGE_STREAM_MAX_AGE",
        ge=1,
        le=10 * 365 * 24 * 3600,
        description="events are kept for this long (seconds)",
    )
    max_bytes: int = Field(
        1024**3,
        alias="BRIDGE_STREAM_MAX_BYTES",
        ge=1024 * 1024,
        description="bytes of events that are kept; the oldest go first",
    )
    max_per_subject: int = Field(
        0,
        alias="BRIDGE_STREAM_MAX_PER_SUBJECT",
        ge=0,
        description="events of one subject that are kept; 0: no bound but the others",
    )
    replicas: int = Field(
        1,
        alias="BRIDGE_STREAM_REPLICAS",
        ge=1,
        le=5,
        description="servers that store each event; 3 or 5 in a cluster",
    )


class BridgeSettings(Settings):
    """All of it. Each part of the bridge gets its section and nothing else."""

    bus: BusSettings
    server: ServerSettings
    identity: IdentitySettings
    limits: LimitSettings
    stream: StreamSettings = StreamSettings()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read and check every section; raises :class:`SettingsError` naming all that is wrong."""
        environment = os.environ if environment is None else environment
        sections, problems = read_sections(environment)
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(**sections)


def read_sections(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the sections that are valid, by name, and what is wrong with the others."""
    sections: dict[str, Any] = {}
    problems = []
    for name, section in SECTIONS.items():
        try:
            sections[name] = section.from_environment(environment)
        except SettingsError as error:
            problems.append(str(error))
    return sections, problems


SECTIONS: Final[dict[str, type[Settings]]] = {
    "bus": BusSettings,
    "server": ServerSettings,
    "identity": IdentitySettings,
    "limits": LimitSettings,
    "stream": StreamSettings,
}
