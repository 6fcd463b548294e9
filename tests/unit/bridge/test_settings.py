"""Settings: each by the name of its variable, and a wrong one by name, never by a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from natsbridge.bridge.settings import SECTIONS, BridgeSettings
from natsbridge.schemas.bus import BusSettings, Settings, SettingsError

SECRET = "canary-secret-of-more-than-32-bytes-0123456789"
BASE = {"BRIDGE_JWT_SECRET": SECRET}
ISSUE = (
    "BRIDGE_NATS_URL", "BRIDGE_HOST", "BRIDGE_PORT", "BRIDGE_JWT_SECRET", "BRIDGE_JWT_ALGORITHMS",
    "BRIDGE_JWKS_URL", "BRIDGE_JWT_ISSUER", "BRIDGE_JWT_AUDIENCE", "BRIDGE_MAX_CONNECTIONS",
    "BRIDGE_MAX_CONNECTIONS_PER_USER", "BRIDGE_MAX_MESSAGE_SIZE", "BRIDGE_RATE_LIMIT_MESSAGES",
    "BRIDGE_RATE_LIMIT_WINDOW", "BRIDGE_HEARTBEAT_INTERVAL", "BRIDGE_CONNECTION_TIMEOUT",
    "BRIDGE_MAX_SUBSCRIPTIONS", "BRIDGE_ALLOWED_ORIGINS", "BRIDGE_TRUSTED_PROXIES",
    "BRIDGE_TLS_CERT", "BRIDGE_TLS_KEY", "BRIDGE_TOKEN_IN_PATH", "BRIDGE_SUBJECT_PREFIX",
    "BRIDGE_CATALOGUE", "BRIDGE_LOG_LEVEL",
)  # fmt: skip
"""The names that are promised."""


def read(**variables: str) -> BridgeSettings:
    return BridgeSettings.from_environment({**BASE, **variables})


def value(settings: BridgeSettings, name: str) -> Any:
    """The value of the field whose variable this is."""
    for section, kind in SECTIONS.items():
        for field, info in kind.model_fields.items():
            if info.alias == name:
                return getattr(getattr(settings, section), field)
    raise AssertionError(f"no field for {name}")


def names() -> list[str]:
    fields = [info for kind in SECTIONS.values() for info in kind.model_fields.values()]
    return [str(info.alias) for info in fields]


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as refused:
        read(**variables)
    return str(refused.value)


def test_the_limits_of_the_first_version_are_the_defaults() -> None:
    """3 connections a user, 1,000 in all, 64 KiB, 100 messages in 60 s, 30 s and 60 s."""
    limits = read().limits
    assert limits.max_connections_per_user == 3
    assert limits.max_connections == 1000
    assert limits.max_message_size == 65_536
    assert (limits.rate_limit_messages, limits.rate_limit_window) == (100, 60)
    assert (limits.heartbeat_interval, limits.connection_timeout) == (30, 60)
    assert (limits.queue_messages, limits.queue_bytes) == (100, 1024 * 1024)
    assert limits.max_subscriptions == 128
    assert limits.failed_handshakes == 60
    assert limits.max_errors == 20
    assert limits.stall_timeout == 30
    assert read().identity.auth_timeout == 5
    assert read().identity.ticket_ttl == 30
    assert read().server.token_in_path


def test_a_stream_is_kept_for_a_day_and_a_gibibyte() -> None:
    """Without settings the bridge makes its stream, on one server, with no bound per subject."""
    stream = read().stream
    assert stream.create
    assert (stream.max_age, stream.max_bytes) == (24 * 3600, 1024**3)
    assert (stream.max_per_subject, stream.replicas) == (0, 1)


def test_every_promised_name_is_a_setting_and_every_setting_has_its_own() -> None:
    """Each field has a variable ``BRIDGE_…`` and words for the table; no name is used twice."""
    assert set(ISSUE) <= set(names())
    assert len(names()) == len(set(names()))
    for kind in SECTIONS.values():
        for field, info in kind.model_fields.items():
            assert info.alias, field
            assert info.alias.startswith("BRIDGE_"), field
            assert info.description, field


SAMPLES: dict[str, tuple[str, Any]] = {
    "BRIDGE_NATS_URL": ("nats://a:1, tls://b:2", ("nats://a:1", "tls://b:2")),
    "BRIDGE_NATS_CREDENTIALS": ("/a.creds", Path("/a.creds")),
    "BRIDGE_NATS_USER": ("me", "me"),
    "BRIDGE_NATS_TLS_CA": ("/ca.pem", Path("/ca.pem")),
    "BRIDGE_NATS_TIMEOUT": ("2.5", 2.5),
    "BRIDGE_NATS_INBOX_PREFIX": ("_INBOX_bridge", "_INBOX_bridge"),
    "BRIDGE_STREAM": ("OTHER_1", "OTHER_1"),
    "BRIDGE_SUBJECT_PREFIX": ("eu.staging", "eu.staging"),
    "BRIDGE_CATALOGUE": ("a.b,c", ("a.b", "c")),
    "BRIDGE_HOST": ("0.0.0.0", "0.0.0.0"),  # noqa: S104  # a value, nothing listens
    "BRIDGE_PORT": ("0", 0),
    "BRIDGE_ALLOWED_HOSTS": ("Localhost, [::1]", ("localhost", "[::1]")),
    "BRIDGE_ALLOWED_ORIGINS": (
        "https://App.example.com,http://b:8",
        ("https://app.example.com", "http://b:8"),
    ),
    "BRIDGE_TRUSTED_PROXIES": ("10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
    "BRIDGE_TOKEN_IN_PATH": ("false", False),
    "BRIDGE_HANDSHAKE_TIMEOUT": ("1", 1.0),
    "BRIDGE_MAX_PENDING_PER_ADDRESS": ("9", 9),
    "BRIDGE_DRAIN_SECONDS": ("0", 0.0),
    "BRIDGE_LOG_LEVEL": ("DEBUG", "debug"),
    "BRIDGE_LOG_FORMAT": ("JSON", "json"),
    "BRIDGE_LOG_RATE": ("7", 7),
    "BRIDGE_INTERNAL_PORT": ("0", 0),
    "BRIDGE_DOCS": ("true", True),
    "BRIDGE_JWT_ALGORITHMS": ("HS384, HS512", ("HS384", "HS512")),
    "BRIDGE_JWT_ISSUER": ("me", "me"),
    "BRIDGE_JWT_AUDIENCE": ("a,b", ("a", "b")),
    "BRIDGE_JWT_LEEWAY": ("30", 30.0),
    "BRIDGE_AUTH_TIMEOUT": ("1", 1.0),
    "BRIDGE_TICKET_TTL": ("10", 10.0),
    "BRIDGE_MAX_TICKETS": ("5", 5),
    "BRIDGE_AUTH_EXPIRING_NOTICE": ("0", 0.0),
    "BRIDGE_MAX_CONNECTIONS": ("7", 7),
    "BRIDGE_MAX_CONNECTIONS_PER_USER": ("7", 7),
    "BRIDGE_MAX_MESSAGE_SIZE": ("4096", 4096),
    "BRIDGE_RATE_LIMIT_MESSAGES": ("7", 7),
    "BRIDGE_RATE_LIMIT_WINDOW": ("0.5", 0.5),
    "BRIDGE_REPLAY_MESSAGES": ("5000", 5000),
    "BRIDGE_SUBSCRIPTION_UNITS": ("50", 50),
    "BRIDGE_HEARTBEAT_INTERVAL": ("0.5", 0.5),
    "BRIDGE_CONNECTION_TIMEOUT": ("31", 31.0),
    "BRIDGE_MAX_SUBSCRIPTIONS": ("7", 7),
    "BRIDGE_MAX_INTERESTS": ("7", 7),
    "BRIDGE_MAX_ERRORS": ("7", 7),
    "BRIDGE_MAX_COMMANDS": ("7", 7),
    "BRIDGE_QUEUE_MESSAGES": ("7", 7),
    "BRIDGE_QUEUE_BYTES": ("4096", 4096),
    "BRIDGE_STALL_TIMEOUT": ("7", 7.0),
    "BRIDGE_FAILED_HANDSHAKES": ("7", 7),
    "BRIDGE_INTEREST_LINGER": ("0", 0.0),
    "BRIDGE_STREAM_CREATE": ("false", False),
    "BRIDGE_STREAM_MAX_AGE": ("3600", 3600.0),
    "BRIDGE_STREAM_MAX_BYTES": ("1048576", 1024 * 1024),
    "BRIDGE_STREAM_MAX_PER_SUBJECT": ("7", 7),
    "BRIDGE_STREAM_REPLICAS": ("3", 3),
}


ELSEWHERE = {
    "BRIDGE_JWT_SECRET", "BRIDGE_JWT_PREVIOUS_SECRET", "BRIDGE_JWT_PUBLIC_KEY", "BRIDGE_JWKS_URL",
    "BRIDGE_GRANTS",
    "BRIDGE_TLS_CERT", "BRIDGE_TLS_KEY", "BRIDGE_NATS_PASSWORD", "BRIDGE_NATS_TOKEN",
    "BRIDGE_NATS_TLS_CERT", "BRIDGE_NATS_TLS_KEY", "BRIDGE_INTERNAL_HOST",
}  # fmt: skip
"""Settings that need another one, a file, or a reading of their own: see further down."""


def test_no_setting_is_left_out_here() -> None:
    """A new setting has its line above."""
    assert {*SAMPLES, *ELSEWHERE} == set(names())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_setting_is_read_from_its_variable(name: str) -> None:
    """The variable's text becomes the value."""
    text, expected = SAMPLES[name]
    assert value(read(**{name: text}), name) == expected


@pytest.mark.parametrize("name", [each for each in names() if each != "BRIDGE_JWT_SECRET"])
def test_an_empty_variable_is_none(name: str) -> None:
    """Compose files write variables that are not set as empty ones: the default holds."""
    assert value(read(**{name: ""}), name) == value(read(), name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BRIDGE_NATS_URL", "localhost:4222"),
        ("BRIDGE_NATS_URL", "http://a"),
        ("BRIDGE_NATS_URL", ","),
        ("BRIDGE_NATS_TIMEOUT", "0"),
        ("BRIDGE_NATS_TIMEOUT", "nan"),
        ("BRIDGE_NATS_TLS_CERT", "/only/one.pem"),
        ("BRIDGE_STREAM", "a.b"),
        ("BRIDGE_SUBJECT_PREFIX", "a.>"),
        ("BRIDGE_SUBJECT_PREFIX", "a b"),
        ("BRIDGE_PORT", "70000"),
        ("BRIDGE_PORT", "http"),
        ("BRIDGE_TLS_CERT", "/only/one.pem"),
        ("BRIDGE_ALLOWED_ORIGINS", "app.example.com"),
        ("BRIDGE_ALLOWED_ORIGINS", "https://app.example.com:*"),
        ("BRIDGE_ALLOWED_HOSTS", "localhost:8000"),
        ("BRIDGE_ALLOWED_HOSTS", "http://localhost"),
        ("BRIDGE_ALLOWED_HOSTS", "::1"),
        ("BRIDGE_ALLOWED_ORIGINS", "https://app.example.com/path"),
        ("BRIDGE_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("BRIDGE_TRUSTED_PROXIES", "proxy"),
        ("BRIDGE_TOKEN_IN_PATH", "perhaps"),
        ("BRIDGE_DRAIN_SECONDS", "21"),
        ("BRIDGE_LOG_LEVEL", "loud"),
        ("BRIDGE_LOG_FORMAT", "xml"),
        ("BRIDGE_JWT_SECRET", "short"),
        ("BRIDGE_JWT_PREVIOUS_SECRET", "short"),
        ("BRIDGE_JWT_ALGORITHMS", "none"),
        ("BRIDGE_JWT_ALGORITHMS", "HS256,NONE"),
        ("BRIDGE_JWT_ALGORITHMS", "HS256,RS256"),
        ("BRIDGE_JWT_PUBLIC_KEY", "/no/such/file.pem"),
        ("BRIDGE_JWKS_URL", "keys.json"),
        ("BRIDGE_JWT_LEEWAY", "31"),
        ("BRIDGE_GRANTS", "{"),
        ("BRIDGE_GRANTS", '{"default":{"subscribe":{"allow":["a..b"]}}}'),
        ("BRIDGE_GRANTS", '{"default":{"subscribe":{"allow":"upload"}}}'),
        ("BRIDGE_GRANTS", '{"default":{"look":{}}}'),
        ("BRIDGE_TICKET_TTL", "0"),
        ("BRIDGE_MAX_CONNECTIONS", "0"),
        ("BRIDGE_MAX_CONNECTIONS", "many"),
        ("BRIDGE_MAX_CONNECTIONS", "1.5"),
        ("BRIDGE_MAX_MESSAGE_SIZE", "4095"),
        ("BRIDGE_RATE_LIMIT_WINDOW", "0"),
        ("BRIDGE_RATE_LIMIT_WINDOW", "inf"),
        ("BRIDGE_HEARTBEAT_INTERVAL", "60"),
        ("BRIDGE_CONNECTION_TIMEOUT", "30"),
        ("BRIDGE_QUEUE_BYTES", "10"),
        ("BRIDGE_STREAM_CREATE", "perhaps"),
        ("BRIDGE_STREAM_MAX_AGE", "0"),
        ("BRIDGE_STREAM_MAX_AGE", "inf"),
        ("BRIDGE_STREAM_MAX_BYTES", "1000"),
        ("BRIDGE_STREAM_MAX_PER_SUBJECT", "-1"),
        ("BRIDGE_STREAM_REPLICAS", "0"),
        ("BRIDGE_STREAM_REPLICAS", "6"),
    ],
)
def test_a_wrong_setting_is_named(name: str, text: str) -> None:
    """The message names the variable, and does not show any secret."""
    told = refusal(**{name: text})
    assert name in told
    assert SECRET not in told


def test_all_wrong_settings_are_told_at_once() -> None:
    """Whoever mends them need not start once for each, across sections too."""
    told = refusal(BRIDGE_PORT="x", BRIDGE_MAX_ERRORS="x", BRIDGE_STREAM="a b")
    assert all(name in told for name in ("BRIDGE_PORT", "BRIDGE_MAX_ERRORS", "BRIDGE_STREAM"))
    assert "\n" not in told


def test_the_previous_secret_is_one_too() -> None:
    """It is read beside the secret, and shown nowhere."""
    chosen = read(BRIDGE_JWT_PREVIOUS_SECRET="previous-" + SECRET)
    assert chosen.identity.jwt_previous_secret is not None
    assert "previous-" not in repr(chosen)


def test_a_key_is_needed() -> None:
    """Symmetric algorithms need the secret, asymmetric ones a key or where to fetch it."""
    with pytest.raises(SettingsError, match="BRIDGE_JWT_SECRET is needed"):
        BridgeSettings.from_environment({})
    with pytest.raises(SettingsError, match="BRIDGE_JWKS_URL is needed"):
        BridgeSettings.from_environment({"BRIDGE_JWT_ALGORITHMS": "RS256"})
    found = BridgeSettings.from_environment(
        {"BRIDGE_JWT_ALGORITHMS": "RS256", "BRIDGE_JWKS_URL": "https://a/keys"}
    )
    assert found.identity.jwt_secret is None


@pytest.mark.parametrize("name", ["BRIDGE_JWKS_URL", "BRIDGE_JWT_PUBLIC_KEY"])
@pytest.mark.parametrize("secret", [SECRET, ""])
def test_public_keys_do_not_go_with_algorithms_of_secrets(name: str, secret: str) -> None:
    """They are not passed over, secret or not: what the issuer signs would all be refused."""
    given = {"BRIDGE_JWT_SECRET": secret} if secret else {}
    with pytest.raises(SettingsError, match=f"{name}.*do nothing.*BRIDGE_JWT_ALGORITHMS"):
        BridgeSettings.from_environment({**given, name: "https://a/keys"})


def test_a_previous_secret_does_not_go_with_public_keys() -> None:
    """Tokens that were signed with it would be refused."""
    told = refusal(
        BRIDGE_JWT_ALGORITHMS="RS256",
        BRIDGE_JWKS_URL="https://a/keys",
        BRIDGE_JWT_PREVIOUS_SECRET="previous-" + SECRET,
    )
    assert "BRIDGE_JWT_PREVIOUS_SECRET does nothing" in told
    assert SECRET not in told


def test_grants_are_read_as_a_claim_writes_them() -> None:
    """JSON by role; a part that is not there stays open to the default."""
    text = json.dumps({"guest": {"subscribe": {"allow": ["review.updated.{user_id}"]}}})
    guest = read(BRIDGE_GRANTS=text).identity.grants["guest"]
    assert guest.subscribe is not None
    assert guest.subscribe.allow == ("review.updated.{user_id}",)
    assert guest.command is None


def test_files_of_tls_are_looked_for(tmp_path: Path) -> None:
    """Certificate and key go together, and both must be there."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text("x")
    told = refusal(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key))
    assert "BRIDGE_TLS_KEY is no file" in told
    key.write_text("x")
    assert read(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key)).server.tls_key == key


SECRETS = {
    "BRIDGE_JWT_SECRET": SECRET,
    "BRIDGE_NATS_PASSWORD": "canary-password",
    "BRIDGE_NATS_TOKEN": "canary-token",
    "BRIDGE_NATS_URL": "nats://me:canary-in-url@127.0.0.1:4222",
}


def test_secrets_do_not_show() -> None:
    """Not when settings are printed, whole or by section, nor in any error about them."""
    settings = BridgeSettings.from_environment(SECRETS)
    shown = [repr(settings), str(settings)]
    shown += [
        text
        for section in SECTIONS
        for text in (repr(getattr(settings, section)), str(getattr(settings, section)))
    ]
    with pytest.raises(SettingsError) as refused:
        BridgeSettings.from_environment(
            {**SECRETS, "BRIDGE_PORT": "x", "BRIDGE_JWT_SECRET": "canary"}
        )
    shown.append(str(refused.value))
    with pytest.raises(SettingsError) as refused:
        BridgeSettings.from_environment({**SECRETS, "BRIDGE_NATS_URL": "canary://canary"})
    shown.append(str(refused.value))
    assert not [text for text in shown if "canary" in text]


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_are_frozen(section: str) -> None:
    """What was read at the start holds until the end."""
    found: Settings = getattr(read(), section)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(found, next(iter(type(found).model_fields)), "x")


def test_unknown_fields_are_refused() -> None:
    """A section made by hand can't have what it has not."""
    with pytest.raises(ValidationError):
        BusSettings(no_such_setting=1)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, the variables of the process are read."""
    monkeypatch.setenv("BRIDGE_JWT_SECRET", SECRET)
    monkeypatch.setenv("BRIDGE_PORT", "1234")
    assert BridgeSettings.from_environment().server.port == 1234


def test_nats_py_gets_what_it_needs() -> None:
    """Servers, identity and TLS as nats-py's ``connect`` takes them."""
    assert BusSettings().connect_options() == {
        "servers": ["nats://127.0.0.1:4222"],
        "inbox_prefix": "_INBOX",
    }
    given = BusSettings.from_environment({**SECRETS, "BRIDGE_NATS_USER": "me"}).connect_options()
    assert given["user"] == "me"
    assert given["password"] == "canary-password"
    assert given["token"] == "canary-token"
    assert "tls" not in given
    assert "tls" in BusSettings(url=("tls://a:1",)).connect_options()


@pytest.mark.parametrize("kind", ["missing", "empty", "a folder"])
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (("tls_ca",), "BRIDGE_NATS_TLS_CA"),
        (("tls_cert", "tls_key"), "BRIDGE_NATS_TLS_CERT"),
        (("credentials",), "BRIDGE_NATS_CREDENTIALS"),
    ],
)
def test_a_file_that_can_not_be_used_is_a_settings_error(
    tmp_path: Path, kind: str, fields: tuple[str, ...], names: str
) -> None:
    """Not a bare error of ssl or NATS at some later moment: it names the variable and the file."""
    path = tmp_path / "file"
    if kind == "empty":
        path.write_text("nothing of the kind")
    elif kind == "a folder":
        path.mkdir()
    settings = BusSettings.model_validate(dict.fromkeys(fields, path))
    with pytest.raises(SettingsError, match=f"{names}.*{path}"):
        settings.connect_options()


def test_the_internal_host_needs_a_port() -> None:
    """A host without a port would be ignored: that is told; with one it is taken."""
    assert "BRIDGE_INTERNAL_PORT" in refusal(BRIDGE_INTERNAL_HOST="::1")
    server = read(BRIDGE_INTERNAL_HOST="::1", BRIDGE_INTERNAL_PORT="9000").server
    assert (server.internal_host, server.internal_port) == ("::1", 9000)
