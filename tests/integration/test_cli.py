"""The commands against a real broker and a real bridge, as processes of their own."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.integration.test_dev import Program, Start, bridge, one_line
from tests.support.clients import mint as mint_token
from tests.support.nats_server import NatsServer
from tests.support.rights import CONFIGURATIONS, Guarded

ROOT = Path(__file__).parents[2]
SECRET = "integration-secret-0123456789-0123456789"


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(*command, **environment)``; ends with the test."""
    programs: list[Program] = []

    def begin(*command: str, **environment: str) -> Program:
        program = Program(list(command), environment)
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def settings(nats_server: NatsServer) -> dict[str, str]:
    """Settings of one deployment that shares the broker with others."""
    name = secrets.token_hex(6)
    return {
        "BRIDGE_NATS_URL": nats_server.url,
        "BRIDGE_JWT_SECRET": SECRET,
        "BRIDGE_STREAM": f"CLI-{name}",
        "BRIDGE_SUBJECT_PREFIX": f"cli.{name}",
        "BRIDGE_DRAIN_SECONDS": "0.1",
    }


def serve(start: Start, settings: dict[str, str], port: int = 0) -> tuple[Program, str]:
    """Start a bridge; return it and the URL of its WebSocket."""
    program = start(*bridge("serve", "--port", str(port)), **settings)
    base = program.wait_for(r"^bridge ready on http://(127\.0\.0\.1:\d+)$")[1]
    return program, f"ws://{base}/ws"


def python(source: str, name: str, tmp_path: Path) -> list[str]:
    """Return the command that runs this source as a script."""
    path = tmp_path / f"{name}.py"
    path.write_text(source)
    return [sys.executable, str(path)]


def snippet(page: str, marker: str) -> str:
    """Return the Python block of a page that follows this marker."""
    text = (ROOT / page).read_text()
    found = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found, (page, marker)
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_ready_and_stops_when_asked(
    number: int, start: Start, settings: dict[str, str]
) -> None:
    """Standard output has the ready line and nothing else; a stop ends with 0."""
    program, _ = serve(start, settings)
    assert program.end(number) == 0
    assert len(program.out) == 1
    assert "Traceback" not in program.told


def test_serve_on_a_taken_port_is_one_line(start: Start, settings: dict[str, str]) -> None:
    """A port that is taken ends with 2 and a line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(*bridge("serve", "--port", str(port)), **settings)
        assert program.wait() == 2
    assert str(port) in program.err[-1]
    assert program.err[-1].startswith("natsbridge: ")
    assert "Traceback" not in program.told


@pytest.mark.parametrize("name", ["BRIDGE_NATS_TLS_CA", "BRIDGE_NATS_CREDENTIALS"])
def test_serve_without_a_file_that_it_needs_is_one_line(
    start: Start, settings: dict[str, str], tmp_path: Path, name: str
) -> None:
    """It ends at once, and names the setting and the file."""
    missing = str(tmp_path / "missing")
    program = start(*bridge("serve", "--port", "0"), **{**settings, name: missing})
    assert program.wait() == 2
    assert f"natsbridge: {name}: {missing}: " in one_line(program)


def test_serve_without_nats_is_one_line(start: Start, settings: dict[str, str]) -> None:
    """A broker that does not answer ends with 2 and a plain line, within the time allowed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        away = {**settings, "BRIDGE_NATS_URL": url, "BRIDGE_NATS_TIMEOUT": "1"}
        program = start(*bridge("serve", "--port", "0"), **away)
        assert program.wait() == 2
    assert program.err[-1].startswith("natsbridge: ")
    assert "Traceback" not in program.told


def test_publish_reaches_tail(start: Start, settings: dict[str, str]) -> None:
    """What ``natsbridge publish`` sends, by audience and by durability, is what ``natsbridge tail``
    shows;
    the stream's acknowledgement is told.
    """
    _, url = serve(start, settings)
    patterns = ("upload.*", "review.updated.a=2Eb", "system.>", "no.such")
    tail = start(*bridge("tail", *patterns, "--url", url, "--json", "--count", "4"), **settings)
    tail.wait_for("subscribed to")
    assert tail.wait_for("refused")[0]

    def publish(*arguments: str) -> list[str]:
        program = start(*bridge("publish", *arguments), **settings)
        assert program.wait() == 0, program.told
        return program.out

    prefix = re.escape(settings["BRIDGE_SUBJECT_PREFIX"])
    progress = '{"upload_id": "u1", "progress": 40, "speed": 3}'
    [sent] = publish("upload.progress", progress, "--user", "42")
    assert re.match(rf"sent to {prefix}\.live\.service\.user\.42\.upload\.progress\.u1 ", sent)
    review = '{"review_id": "a.b", "changes": {}}'
    [stored] = publish("review.updated", review, "--topic")
    assert re.fullmatch(
        rf"stored in CLI-\w+ as 1: {prefix}\.events\.topic\.review\.updated\.a=2Eb", stored
    )
    publish("review.updated", '{"review_id": "other", "changes": {}}', "--topic")
    several = publish("upload.completed", '{"upload_id": "u1", "result": {}}', "--user", "42", "7")
    assert [line.partition(":")[0].rpartition(" ")[2] for line in several] == ["3", "4"]
    publish("system.notification", '{"message": "hello"}', "--all")

    assert tail.wait() == 0, tail.told
    events = [json.loads(line) for line in tail.out]
    assert [each["type"] for each in events] == [
        "upload.progress",
        "review.updated",
        "upload.completed",
        "system.notification",
    ]
    assert events[0]["data"]["speed"] == 3
    assert events[1]["data"]["review_id"] == "a.b"
    assert any("refused no.such: UNKNOWN_EVENT" in line for line in tail.err)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["upload.progress", '{"upload_id": "u1", "progress": 101}', "--all"], "data.progress"),
        (["upload.progress", '{"progress": 1}', "--all"], "data.upload_id"),
        (["upload.progress", "{", "--all"], "JSON"),
        (["upload.progress", '{"upload_id": "u1", "progress": NaN}', "--all"], "JSON"),
        (["no.such", "{}", "--all"], "no.such"),
        (["review.deleted", '{"review_id": "r"}', "--user", "é" * 64], "user"),
    ],
)
def test_publish_refuses_before_it_sends(arguments: list[str], named: str, start: Start) -> None:
    """What the bridge would refuse is refused here, in one line, without a broker."""
    program = start(*bridge("publish", *arguments), BRIDGE_NATS_URL="nats://127.0.0.1:1")
    assert program.wait() == 2
    assert named in one_line(program)


def test_publish_without_stream_or_broker_is_one_line(
    start: Start, plain_nats_server: NatsServer
) -> None:
    """A durable event that nothing stores is told, and so is a broker that is away."""
    event = ("review.deleted", '{"review_id": "r"}', "--topic")
    program = start(*bridge("publish", *event), BRIDGE_NATS_URL=plain_nats_server.url)
    assert program.wait() == 1
    assert "no stream" in one_line(program)
    program = start(*bridge("publish", *event), BRIDGE_NATS_URL="nats://127.0.0.1:1")
    assert program.wait() == 1
    assert "connection refused" in one_line(program)


def test_token_grants_hold(start: Start, settings: dict[str, str]) -> None:
    """A token of ``natsbridge token`` is let in with what it was granted, and no more."""
    _, url = serve(start, settings)
    minting = start(
        *bridge("token", "--user", "7", "--grant", "review.*", "--deny", "review.deleted"),
        **settings,
    )
    assert minting.wait() == 0
    tail = start(
        *bridge("tail", "review.*", "upload.*", "--url", url),
        **settings,
        BRIDGE_TOKEN=minting.out[0],
    )
    tail.wait_for("as user 7$")
    assert tail.wait_for("subscribed to (.*)")[1] == "review.*: review.created, review.updated"
    tail.wait_for(re.escape("refused upload.*: NOT_PERMITTED"))
    assert tail.end(signal.SIGINT) == 130
    assert tail.out == []
    assert "Traceback" not in tail.told


def test_tail_with_a_bad_token_ends(start: Start, settings: dict[str, str]) -> None:
    """A refused token is a close code from which tail does not come back."""
    _, url = serve(start, settings)
    tail = start(*bridge("tail", "--url", url, "--token", "no.token.at-all"), **settings)
    assert tail.wait() == 1
    assert any("4500 INVALID_TOKEN" in line for line in tail.err)


def test_tail_survives_a_restart(start: Start, settings: dict[str, str]) -> None:
    """When the bridge is restarted, tail is sent away, says so, comes back and goes on."""
    first, url = serve(start, settings)
    tail = start(*bridge("tail", "review.*", "--url", url, "--count", "1"), **settings)
    tail.wait_for("subscribed to")
    assert first.end(signal.SIGTERM) == 0
    tail.wait_for("sends its clients away")
    tail.wait_for("closed by the bridge: 1001 GOING_AWAY")
    serve(start, settings, port=int(url.rpartition(":")[2].partition("/")[0]))
    tail.wait_for("subscribed to")
    publish = start(
        *bridge("publish", "review.deleted", '{"review_id": "r"}', "--topic"), **settings
    )
    assert publish.wait() == 0, publish.told
    assert tail.wait() == 0, tail.told
    assert len(tail.out) == 1


def test_tail_into_a_closed_pipe_is_quiet(start: Start, settings: dict[str, str]) -> None:
    """``natsbridge tail | head -1`` ends by itself, with one event and without a complaint."""
    _, url = serve(start, settings)
    tail = shlex.join(bridge("tail", "review.*", "--url", url))
    head = start("sh", "-c", f"{tail} | head -1", **settings)
    head.wait_for("subscribed to")
    event = bridge("publish", "review.deleted", '{"review_id": "r"}', "--topic")
    for _ in range(3):
        publish = start(*event, **settings)
        assert publish.wait() == 0, publish.told
    assert head.wait() == 0
    assert len(head.out) == 1
    assert all(line.startswith("- ") for line in head.err), head.told


def test_check_tells_of_the_same_environment(start: Start, settings: dict[str, str]) -> None:
    """``natsbridge check`` accepts what ``natsbridge serve`` starts with, and shows no secret."""
    program = start(*bridge("check"), **settings)
    assert program.wait() == 0
    assert SECRET not in program.told
    assert any(line.split()[:2] == ["BRIDGE_JWT_SECRET", "(set)"] for line in program.out)


def test_publisher_of_the_readme_runs(
    start: Start, own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """The ten lines of the README, with this broker's address, publish what they say."""
    settings = {"BRIDGE_NATS_URL": own_nats_server.url, "BRIDGE_JWT_SECRET": SECRET}
    _, url = serve(start, settings)
    tail = start(*bridge("tail", "upload.*", "--url", url, "--count", "2"), **settings)
    tail.wait_for("subscribed to")
    source = snippet("README.md", "publisher")
    assert "nats://127.0.0.1:4222" in source
    source = source.replace("nats://127.0.0.1:4222", own_nats_server.url)
    publisher = start(*python(source, "publisher", tmp_path), PYTHONPATH=str(ROOT))
    assert publisher.wait() == 0, publisher.told
    assert publisher.out == ["1"]
    assert tail.wait() == 0, tail.told
    assert [line.split()[1:3] for line in tail.out] == [
        ["upload.progress", "upload-7"],
        ["upload.completed", "upload-7"],
    ]


def test_event_types_of_the_docs_run(
    start: Start, settings: dict[str, str], tmp_path: Path
) -> None:
    """The module and the service of docs/extending.md work as they stand, next to each other."""
    page = "docs/extending.md"
    (tmp_path / "shop_events.py").write_text(snippet(page, "catalogue"))
    settings |= {"BRIDGE_CATALOGUE": "shop_events", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    _, url = serve(start, settings)
    tail = start(*bridge("tail", ">", "--url", url, "--count", "3"), **settings)
    tail.wait_for("subscribed to .*invoice.paid.*stock.level")
    publisher = start(*python(snippet(page, "publisher"), "shop", tmp_path), **settings)
    assert publisher.wait() == 0, publisher.told
    data = '{"invoice_id": "i2", "amount_cents": 990}'
    publish = start(*bridge("publish", "invoice.paid", data, "--user", "42"), **settings)
    assert publish.wait() == 0, publish.told
    refused = start(*bridge("publish", "stock.level", "{}", "--user", "42"), **settings)
    assert refused.wait() == 2
    assert "audience" in one_line(refused)
    assert tail.wait() == 0, tail.told
    assert sorted(tuple(line.split()[1:3]) for line in tail.out) == [
        ("invoice.paid", "i1"),
        ("invoice.paid", "i2"),
        ("stock.level", "a1"),
    ]


def resumes(url: str) -> bool:
    """Whether a client that comes back with its cursor is sent what it missed."""
    headers = {"Authorization": f"Bearer {mint_token('u', secret=SECRET)}"}
    address = url.replace("http", "ws", 1) + "/ws"
    with connect(address, additional_headers=headers, proxy=None) as socket:
        cursor = json.loads(socket.recv(5))["data"]["cursor"]
    with connect(f"{address}?cursor={cursor}", additional_headers=headers, proxy=None) as socket:
        while (message := json.loads(socket.recv(10)))["type"] != "resume.completed":
            pass
    recovered: bool = message["data"]["recovered"]
    return recovered


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_documented_rights_suffice_behind_a_prefix(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """With the configurations of ``deploy/``, for the prefix as docs/operations.md says, bridge and
    sample service start by their settings alone, and the server refuses them nothing: events,
    the stream, a resume.
    """
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"<!-- prefix -->\n```sh\n(.*?)\n```", text, re.DOTALL)
    assert found
    command = found[1].replace("deploy/nats-accounts.conf", str(CONFIGURATIONS[kind]))
    prefixed = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    config = tmp_path / "nats.conf"
    config.write_bytes(prefixed)
    guarded = Guarded(kind, tmp_path / "nats", config)
    try:
        own = {"BRIDGE_SUBJECT_PREFIX": "staging", "BRIDGE_JWT_SECRET": SECRET}
        program, url = serve(start, guarded.login("bridge").settings | own)
        sample = start(
            *(sys.executable, "-m", "natsbridge.publishers.samples.upload"),
            **guarded.login("upload-service").settings,
            BRIDGE_SUBJECT_PREFIX="staging",
            SAMPLE_INTERVAL="0.02",
        )
        tail = start(*bridge("tail", "upload.*", "--url", url, "--count", "60"), **own)
        assert tail.wait() == 0, tail.told
        assert any("upload.progress" in line for line in tail.out)
        assert any("upload.completed" in line for line in tail.out)
        assert resumes(url)
        assert program.end(signal.SIGTERM) == 0
        assert sample.end(signal.SIGTERM) == 0
        assert not guarded.violations
        assert "Violation" not in program.told + sample.told
        assert "live only" not in program.told
    finally:
        guarded.server.close()
