"""``natsbridge check``: what is in force, without secrets; what is invalid; what is unsafe."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from natsbridge.bridge.cli import check
from natsbridge.bridge.settings import DEMO_SECRET

SAFE = {
    "BRIDGE_NATS_URL": "nats://127.0.0.1:4222",
    "BRIDGE_JWT_SECRET": "canary-secret-0123456789-0123456789",
    "BRIDGE_TOKEN_IN_PATH": "false",
}


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def test_safe_settings_end_with_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that are safe give the table, no warning, and 0 even with --strict."""
    assert check.run(strict=True, environment=SAFE) == 0
    told = capsys.readouterr()
    assert told.err == ""
    table = rows(told.out)
    assert table["BRIDGE_TOKEN_IN_PATH"] == ["false", "environment"]
    assert table["BRIDGE_PORT"] == ["8000", "default"]
    assert table["BRIDGE_JWT_ISSUER"] == ["-", "default"]


def test_secrets_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Secrets, and user and password in a URL, are said to be set and no more."""
    environment = {
        **SAFE,
        "BRIDGE_NATS_URL": "nats://canary:canary@127.0.0.1:4222,nats://127.0.0.1:4223",
        "BRIDGE_NATS_PASSWORD": "canary-password",
        "BRIDGE_NATS_TOKEN": "canary-token",
    }
    assert check.run(strict=True, environment=environment) == 0
    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
    table = rows(told.out)
    assert table["BRIDGE_JWT_SECRET"] == ["(set)", "environment"]
    assert table["BRIDGE_NATS_PASSWORD"] == ["(set)", "environment"]
    assert table["BRIDGE_NATS_URL"][0] == "nats://(set)@127.0.0.1:4222,nats://127.0.0.1:4223"


def test_grants_are_shown_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that is JSON is shown as JSON."""
    grants = '{"default":{"subscribe":{"allow":["upload.*"],"deny":[]}}}'
    assert check.run(strict=True, environment={**SAFE, "BRIDGE_GRANTS": grants}) == 0
    assert grants in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"BRIDGE_PORT": "x"}, ["BRIDGE_PORT"]),
        ({"BRIDGE_PORT": "x", "BRIDGE_JWT_SECRET": "short"}, ["BRIDGE_PORT", "BRIDGE_JWT_SECRET"]),
        ({"BRIDGE_NATS_URL": ""}, ["BRIDGE_NATS_URL"]),
        ({"BRIDGE_CATALOGUE": "no_such_module"}, ["BRIDGE_CATALOGUE", "no_such_module"]),
        ({"BRIDGE_NATS_TLS_CA": "/no/such/file"}, ["BRIDGE_NATS_TLS"]),
        ({"BRIDGE_JWT_ALGORITHMS": "HS512"}, ["BRIDGE_JWT_SECRET", "HS512"]),
        (
            {"BRIDGE_GRANTS": '{"default":{"subscribe":{"allow":["upload.{user_id}"]}}}'},
            ["BRIDGE_GRANTS", "{user_id}"],
        ),
    ],
)
def test_invalid_settings_are_named(
    changes: dict[str, str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever would stop ``natsbridge serve`` is named, and ends with 2."""
    assert check.run(strict=False, environment={**SAFE, **changes}) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for name in named:
        assert name in told


def test_a_certificate_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there and holds no certificate is found before the start."""
    path = tmp_path / "cert.pem"
    path.write_text("no certificate")
    environment = {**SAFE, "BRIDGE_TLS_CERT": str(path), "BRIDGE_TLS_KEY": str(path)}
    assert check.run(strict=False, environment=environment) == 2
    assert "BRIDGE_TLS_CERT" in capsys.readouterr().err


def test_a_key_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a file that is there and holds no public key."""
    path = tmp_path / "key.pem"
    path.write_text("no key")
    environment = {
        "BRIDGE_NATS_URL": SAFE["BRIDGE_NATS_URL"],
        "BRIDGE_JWT_ALGORITHMS": "RS256",
        "BRIDGE_JWT_PUBLIC_KEY": str(path),
    }
    assert check.run(strict=False, environment=environment) == 2
    assert "BRIDGE_JWT_PUBLIC_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"BRIDGE_TOKEN_IN_PATH": "true"}, "BRIDGE_TOKEN_IN_PATH"),
        ({"BRIDGE_JWT_SECRET": DEMO_SECRET}, "demo secret"),
        ({"BRIDGE_ALLOWED_ORIGINS": "*"}, "BRIDGE_ALLOWED_ORIGINS"),
        ({"BRIDGE_HOST": "0.0.0.0"}, "without TLS"),  # noqa: S104  # what the warning is about
        ({"BRIDGE_TRUSTED_PROXIES": "0.0.0.0/0"}, "BRIDGE_TRUSTED_PROXIES"),
        (
            {
                "BRIDGE_JWT_ALGORITHMS": "RS256",
                "BRIDGE_JWKS_URL": "http://keys.example.com/jwks.json",
                "BRIDGE_JWT_ISSUER": "https://login.example.com",
                "BRIDGE_JWT_AUDIENCE": "events",
            },
            "BRIDGE_JWKS_URL",
        ),
        (
            {
                "BRIDGE_JWT_ALGORITHMS": "RS256",
                "BRIDGE_JWKS_URL": "https://keys.example.com/jwks.json",
                "BRIDGE_JWT_AUDIENCE": "events",
            },
            "BRIDGE_JWT_ISSUER",
        ),
        (
            {
                "BRIDGE_JWT_ALGORITHMS": "ES256",
                "BRIDGE_JWKS_URL": "https://keys.example.com/jwks.json",
                "BRIDGE_JWT_ISSUER": "https://login.example.com",
            },
            "BRIDGE_JWT_AUDIENCE",
        ),
        ({"BRIDGE_NATS_URL": "tls://nats.example.com:4222"}, "without credentials"),
        (
            {"BRIDGE_NATS_URL": "nats://nats.example.com:4222", "BRIDGE_NATS_TOKEN": "t"},
            "without TLS",
        ),
        ({"BRIDGE_RATELIMIT": "5"}, "BRIDGE_RATELIMIT is no setting"),
    ],
)
def test_each_unsafe_setting_is_warned_of(
    changes: dict[str, str], warned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One unsafe setting gives one warning that names it: 0, and 1 with --strict."""
    environment = {**SAFE, **changes}
    assert check.run(strict=False, environment=environment) == 0
    told = capsys.readouterr().err
    assert told.startswith("warning: ")
    assert told.count("\n") == 1
    assert warned in told
    assert check.run(strict=True, environment=environment) == 1


def test_what_others_read_is_no_stranger(capsys: pytest.CaptureFixture[str]) -> None:
    """Variables of the SDK, of ``natsbridge tail`` and of the Compose file are no mistakes."""
    environment = {**SAFE, "BRIDGE_TOKEN": "t", "BRIDGE_PUBLISH": "0.0.0.0:80"}
    environment |= {"BRIDGE_PUBLISH_WITHOUT_STREAM": "live", "BRIDGE_IMAGE": "i"}
    assert check.run(strict=True, environment=environment) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["BRIDGE_NATS_CREDENTIALS", "BRIDGE_NATS_TLS_CA"])
def test_a_file_that_is_missing_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file on the way to NATS that is not there is invalid, by its variable and its path."""
    assert check.run(strict=False, environment={**SAFE, name: "/missing/file"}) == 2
    told = capsys.readouterr().err
    assert f"invalid: {name}: /missing/file: no such file or directory" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("BRIDGE_MAX_CONECTIONS", "BRIDGE_MAX_CONNECTIONS"),
        ("BRIDGE_LOGLEVEL", "BRIDGE_LOG_LEVEL"),
        ("BRIDGE_XYZ", None),
    ],
)
def test_a_stranger_is_told_with_the_nearest_name(name: str, near: str | None) -> None:
    """A mistyped variable is told with the one that was meant, if that can be guessed."""
    [told] = check.strangers({name: "1"})
    assert told == f"{name} is no setting of the bridge" + (f"; is it {near}?" if near else "")


@pytest.mark.parametrize(
    "name",
    [
        "BRIDGE_SERVICE_HOST", "BRIDGE_SERVICE_PORT", "BRIDGE_SERVICE_PORT_HTTP",
        "BRIDGE_PORT_8000_TCP", "BRIDGE_PORT_8000_TCP_ADDR", "BRIDGE_INTERNAL_SERVICE_HOST",
        "BRIDGE_INTERNAL_PORT_9000_TCP_PROTO",
    ],
)  # fmt: skip
def test_what_kubernetes_sets_is_no_stranger(name: str) -> None:
    """A Service named bridge puts variables into every pod; nobody can mend those."""
    assert not list(check.strangers({name: "x"}))


def test_the_settings_of_the_sdk_are_no_strangers() -> None:
    """What the SDK reads may be in the environment that both share."""
    settings = importlib.import_module("natsbridge.publishers.settings").PublisherSettings
    assert not list(
        check.strangers(
            dict.fromkeys((field.alias for field in settings.model_fields.values()), "x")
        )
    )
