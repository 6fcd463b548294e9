"""``natsbridge tail`` against a scripted bridge: what it shows, when it comes back, when it
ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from natsbridge.bridge.cli import tail
from natsbridge.bridge.cli.terminal import CommandError
from natsbridge.bridge.settings import DEMO_SECRET
from natsbridge.schemas.catalogue import Catalogue

Script = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine, no waiting between two tries."""
    for name in list(os.environ):
        if name.startswith(("BRIDGE_", "NO_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(tail.random, "uniform", lambda low, high: 0.0)


@asynccontextmanager
async def scripted(*scripts: Script, refuse: list[int] | None = None) -> AsyncIterator[str]:
    """Serve one script a connection, after a status for each in ``refuse``; give the URL."""
    waiting = list(scripts)
    refusals = list(refuse or [])

    def check(connection: ServerConnection, request: Request) -> Response | None:
        if refusals:
            response = connection.respond(refusals.pop(0), "")
            response.headers["Retry-After"] = "0"
            return response
        return None

    async def handle(connection: ServerConnection) -> None:
        await waiting.pop(0)(connection)

    async with serve(handle, "127.0.0.1", 0, process_request=check) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
    assert waiting == []


def client(
    url: str,
    patterns: list[str] | None = None,
    *,
    count: int | None = None,
    renews: bool = True,
    raw: bool = False,
) -> tail.Tail:
    view = tail.View(Catalogue.load(), raw, colour=False)
    return tail.Tail(
        url, patterns or [], token=lambda: "a-token", renews=renews, view=view, count=count
    )


async def say(connection: ServerConnection, kind: str, data: dict[str, Any]) -> None:
    await connection.send(json.dumps({"type": kind, "id": "1", "timestamp": TIME, "data": data}))


TIME = "2026-01-08T10:30:00.123456Z"


async def established(connection: ServerConnection) -> None:
    await say(connection, "connection.established", {"user_id": "42"})


def closing(code: int, reason: str = "") -> Script:
    async def script(connection: ServerConnection) -> None:
        await established(connection)
        await connection.close(code, reason)

    return script


async def one_event(connection: ServerConnection) -> None:
    await established(connection)
    await say(connection, "upload.progress", {"upload_id": "u1", "progress": 40})
    await connection.wait_closed()


async def test_events_go_to_stdout_and_the_rest_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line an event: time, type, resource, the rest of its data; notes go to stderr."""

    async def script(connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.headers["Authorization"] == "Bearer a-token"
        await established(connection)
        wish = json.loads(await connection.recv())
        assert wish["data"] == {"events": ["upload.*", "no.such"]}
        acknowledged = {
            "events": ["upload.*"],
            "invalid_events": ["no.such"],
            "effective": ["upload.error", "upload.progress"],
            "reasons": {"no.such": "UNKNOWN_EVENT"},
        }
        await say(connection, "subscription.acknowledged", acknowledged)
        await say(connection, "error", {"code": "INTERNAL_ERROR", "message": "sorry"})
        data = {"upload_id": "u1", "progress": 40, "timestamp": TIME}
        await say(connection, "upload.progress", data)
        await say(connection, "shop.opened", {"door": "é"})
        await connection.wait_closed()

    async with scripted(script) as url:
        assert await client(url, ["upload.*", "no.such"], count=2).run() == 0
    told = capsys.readouterr()
    first, second = told.out.splitlines()
    assert first.split() == [tail.clock(TIME), "upload.progress", "u1", '{"progress":40}']
    assert second.split() == [tail.clock(TIME), "shop.opened", "-", '{"door":"é"}']
    assert "connected to ws://127.0.0.1:" in told.err
    assert "as user 42" in told.err
    assert "subscribed to upload.*: upload.error, upload.progress" in told.err
    assert "refused no.such: UNKNOWN_EVENT" in told.err
    assert "error INTERNAL_ERROR: sorry" in told.err
    assert "\x1b" not in told.out + told.err


async def test_it_comes_back_with_its_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """The last cursor goes into the address and into the subscription, so that nothing is missed;
    without one to begin with there is none.
    """
    subscribed = []

    async def hear(connection: ServerConnection, **data: Any) -> str:
        assert connection.request is not None
        await say(connection, "connection.established", {"user_id": "42", **data})
        subscribed.append(json.loads(await connection.recv())["data"])
        return connection.request.path

    async def first(connection: ServerConnection) -> None:
        assert await hear(connection, cursor="s-1", resume=None) == "/ws"
        event = {"type": "review.created", "id": "1", "timestamp": TIME, "cursor": "s-2"}
        await connection.send(json.dumps({**event, "data": {"cursor": "not this"}}))
        await connection.close(1001)

    async def second(connection: ServerConnection) -> None:
        path = await hear(connection, cursor="s-2", resume={"replaying": True})
        assert path == "/ws?cursor=s-2"
        await say(connection, "resume.completed", {"recovered": True, "replayed": 3})
        await say(connection, "upload.progress", {"upload_id": "u1", "progress": 40})
        await connection.wait_closed()

    async with scripted(first, second) as url:
        assert await client(url, ["review.*"], count=2).run() == 0
    assert subscribed == [{"events": ["review.*"]}, {"events": ["review.*"], "cursor": "s-2"}]
    assert "3 stored events came" in capsys.readouterr().err


async def test_json_is_one_event_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` gives each event as it came, and on one line however its publisher wrote it."""
    event = {"type": "upload.progress", "id": "1", "timestamp": TIME, "data": {"progress": 40}}

    async def script(connection: ServerConnection) -> None:
        await established(connection)
        await connection.send(json.dumps(event))
        await connection.send(json.dumps(event, indent=2))
        await connection.wait_closed()

    async with scripted(script) as url:
        assert await client(url, count=2, raw=True).run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == json.dumps(event)
    assert [json.loads(line) for line in lines] == [event, event]


@pytest.mark.parametrize("code", [1001, 1011, 1013, 4000, 4001, 4002, 4003])
async def test_comes_back_below_4500(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A close code below 4500 is told, and the client connects again."""
    async with scripted(closing(code, "WHY"), one_event) as url:
        assert await client(url, count=1).run() == 0
    told = capsys.readouterr().err
    assert f"closed by the bridge: {code} WHY" in told
    assert "connecting again in" in told


async def test_comes_back_after_a_broken_connection(capsys: pytest.CaptureFixture[str]) -> None:
    """A connection that breaks without a close frame is one to come back from."""

    async def breaks(connection: ServerConnection) -> None:
        await established(connection)
        connection.transport.abort()

    async with scripted(breaks, one_event) as url:
        assert await client(url, count=1).run() == 0
    assert "the connection broke" in capsys.readouterr().err


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4504])
async def test_stays_away_from_4500_on(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A close code from 4500 on is told, and ends with 1."""
    async with scripted(closing(code)) as url:
        assert await client(url).run() == 1
    assert f"closed by the bridge: {code} {tail.CLOSE_CODES[code].name}" in capsys.readouterr().err


async def test_a_given_token_that_expired_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    """With a token that was given there is no other to come back with."""
    async with scripted(closing(4001)) as url:
        assert await client(url, renews=False).run() == 1
    assert "get a new token" in capsys.readouterr().err


async def test_drain_says_when_to_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    """After ``connection.draining`` the bridge's own time is waited for, not a random one."""

    async def draining(connection: ServerConnection) -> None:
        await established(connection)
        await say(connection, "connection.draining", {"reconnect_after_ms": 100})
        await connection.close(1001, "GOING_AWAY")

    async with scripted(draining, closing(4003), one_event) as url:
        assert await client(url, count=1).run() == 0
    told = capsys.readouterr().err.splitlines()
    waits = [line for line in told if "connecting again" in line]
    assert waits == ["- connecting again in 0.1 s", "- connecting again in 0.0 s"]


async def test_a_full_bridge_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    """503 and 429 before the upgrade free up; they are told and tried again."""
    async with scripted(one_event, refuse=[503, 429]) as url:
        assert await client(url, count=1).run() == 0
    told = capsys.readouterr().err
    assert "HTTP 503" in told
    assert "HTTP 429" in told


async def test_a_refused_origin_or_path_ends_it() -> None:
    """Another refusal before the upgrade would be the same again: it ends with 1."""
    async with scripted(refuse=[403]) as url:
        with pytest.raises(CommandError, match="HTTP 403") as ended:
            await client(url).run()
    assert ended.value.code == 1


async def test_nobody_there_is_one_line() -> None:
    """Where nothing listens, the first try ends it: a wrong address is the likely cause."""
    async with scripted() as url:
        pass
    with pytest.raises(CommandError, match=r"no bridge answers at ws://127\.0\.0\.1:") as ended:
        await client(url).run()
    assert ended.value.code == 1


async def test_what_is_no_bridge_is_told() -> None:
    """A server that sends other things is told apart from a bridge, without a traceback."""

    async def other(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    async with scripted(other) as url:
        with pytest.raises(CommandError, match="no message of a bridge"):
            await client(url).run()


def test_back_off_is_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is anywhere between zero and a bound that doubles up to its longest."""
    bounds: list[tuple[float, float]] = []
    waits = iter([None] * 9)

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    async def lost(_: object) -> int | None:
        return next(waits, 0)

    monkeypatch.setattr(tail.random, "uniform", uniform)
    monkeypatch.setattr(tail.Tail, "_connection", lost)
    assert tail.asyncio.run(client("ws://127.0.0.1/ws").run()) == 0
    assert bounds == [(0, high) for high in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)]


def test_patterns_turn_the_rest_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With patterns only they are shown; without, what comes unasked for."""
    seen: list[str] = []

    async def stop(self: tail.Tail) -> int:
        seen.append(self._url)
        return 0

    monkeypatch.setattr(tail.Tail, "run", stop)
    options: dict[str, Any] = {
        "token": None,
        "user": "42",
        "count": None,
        "raw": False,
        "colour": True,
    }
    tail.run([], url="ws://h/ws", **options)
    tail.run(["upload.*"], url="ws://h/ws", **options)
    tail.run(["upload.*"], url="ws://h/ws?x=1", **options)
    assert seen == ["ws://h/ws", "ws://h/ws?direct=off", "ws://h/ws?x=1&direct=off"]
    with pytest.raises(CommandError, match="--url"):
        tail.run([], url="http://h/ws", **options)


def test_token_in_order_of_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--token``, then BRIDGE_TOKEN, then one of the configured secret, then the demo's."""
    tokens: list[str] = []

    async def stop(self: tail.Tail) -> int:
        tokens.append(self._token())
        return 0

    monkeypatch.setattr(tail.Tail, "run", stop)

    def take(given: str | None) -> str:
        tail.run([], url="ws://h/ws", token=given, user="7", count=None, raw=False, colour=True)
        return tokens[-1]

    assert jwt.decode(take(None), DEMO_SECRET, algorithms=["HS256"])["sub"] == "7"
    secret = "unit-test-secret-0123456789-0123456789"
    monkeypatch.setenv("BRIDGE_JWT_SECRET", secret)
    assert jwt.decode(take(None), secret, algorithms=["HS256"])["sub"] == "7"
    monkeypatch.setenv("BRIDGE_TOKEN", "from-environment")
    assert take(None) == "from-environment"
    assert take("given") == "given"


@pytest.mark.parametrize(
    ("environment", "wanted", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    environment: dict[str, str],
    wanted: bool,
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Colour needs a terminal, and goes with NO_COLOR, TERM=dumb and ``--no-color``."""
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    view = tail.View(Catalogue.load(), False, wanted)
    message = {"type": "upload.progress", "timestamp": TIME, "data": {"upload_id": "\x1b[2J"}}
    view.event(message, "")
    out = capsys.readouterr().out
    assert ("\x1b[36m" in out) is coloured
    assert "\x1b[2J" not in out


def test_times_that_are_no_dates_are_shown_as_they_are() -> None:
    """A leap second is valid in RFC 3339 and no date in Python."""
    assert tail.clock("2026-06-30T23:59:60Z") == "2026-06-30T23:59:60Z"
    assert tail.clock(None) == "None"


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "ws://127.0.0.1:8000/ws"),
        ({"BRIDGE_PORT": "9001"}, "ws://127.0.0.1:9001/ws"),
        ({"BRIDGE_HOST": "0.0.0.0", "BRIDGE_PORT": "81"}, "ws://127.0.0.1:81/ws"),  # noqa: S104
        ({"BRIDGE_HOST": "::"}, "ws://[::1]:8000/ws"),
        ({"BRIDGE_HOST": "bridge.example", "BRIDGE_TLS_CERT": "x"}, "wss://bridge.example:8000/ws"),
    ],
)
def test_the_default_url_is_where_a_bridge_would_listen(
    environment: dict[str, str], url: str
) -> None:
    """With the variables of ``natsbridge serve``, ``natsbridge tail`` finds it."""
    assert tail.default_url(environment) == url


@pytest.mark.parametrize("port", ["0", "http", "70000", "tcp://10.0.0.1:80", "²"])
def test_a_port_that_is_none_is_told(port: str) -> None:
    """A port that nobody can connect to is named, and so is the way out."""
    with pytest.raises(CommandError, match="--url"):
        tail.default_url({"BRIDGE_PORT": port})
