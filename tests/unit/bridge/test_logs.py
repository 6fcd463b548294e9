"""Logs: one line a record in either format, and no token in any of them."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from natsbridge.bridge.telemetry.logs import REDACTED, configure, redact

pytestmark = pytest.mark.anyio

TOKEN = jwt.encode({"sub": "someone", "exp": 1}, "x" * 32, "HS256")
TICKET = "replica-1.Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6"
NAMES = (
    "uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access", "websockets",
    "websockets.server", "websockets.client", "nats", "asyncio",
)  # fmt: skip


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, NAMES)]
    before = [
        (each, each.level, list(each.handlers), list(each.filters), each.propagate, each.disabled)
        for each in loggers
    ]
    yield
    for each, level, handlers, filters, propagate, disabled in before:
        each.setLevel(level)
        each.handlers[:], each.filters[:] = handlers, filters
        each.propagate, each.disabled = propagate, disabled


log = logging.getLogger("natsbridge.test")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def test_text_is_one_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has time, level, logger, message and the extra fields."""
    configure("info", "text")
    log.info("hello %s", "you", extra={"connection": "c1", "size": 3, "why": "two words"})
    (line,) = lines(capsys)
    time, _, rest = line.partition(" ")
    assert len(time) == 24
    assert time.endswith("Z")
    assert rest == 'INFO natsbridge.test: hello you connection=c1 size=3 why="two words"'


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Extra fields stand beside the own ones and never replace them."""
    configure("info", "json")
    log.warning("hello %s", "you", extra={"size": 3, "level": "x", "time": 0, "odd": object})
    (record,) = records(capsys)
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "warning", "logger": "natsbridge.test", "message": "hello you", "size": 3,
        "odd": "<class 'object'>",
    }  # fmt: skip


def test_nobody_forges_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks and control characters in a peer's value stay within its line."""
    configure("info", "text")
    log.info("from %s", "a\nINFO forged: \x1b[31m\u2028", extra={"name_": "b\r\nforged"})
    (line,) = lines(capsys)
    assert "\\nINFO forged: \\x1b[31m\\u2028" in line


@pytest.mark.parametrize("chosen", ["text", "json"])
def test_a_traceback_stays_in_its_line(capsys: pytest.CaptureFixture[str], chosen: Any) -> None:
    """An exception is told whole, within the line of its record."""
    configure("info", chosen)
    try:
        raise ValueError("the reason")
    except ValueError:
        log.exception("it broke", stack_info=True)
    (line,) = lines(capsys)
    assert "Traceback" in line
    assert "ValueError: the reason" in line


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """What is under the level is not said, whoever says it."""
    configure("warning", "json")
    log.info("no")
    logging.getLogger("uvicorn.error").info("no")
    logging.getLogger("nats").warning("yes")
    assert [record["message"] for record in records(capsys)] == ["yes"]


def test_the_last_call_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Configured twice, a record still comes once."""
    configure("info", "text")
    configure("debug", "json")
    log.debug("once")
    assert [record["message"] for record in records(capsys)] == ["once"]


class Broken:
    def __str__(self) -> str:
        raise ValueError(TOKEN)


@pytest.mark.parametrize("chosen", ["text", "json"])
def test_a_record_that_does_not_fit_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, chosen: Any
) -> None:
    """Wrong arguments, or values that can't be shown, cost neither the record nor the secret."""
    # pytest's own handlers raise for such a record.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    configure("info", chosen)
    log.info("size %d", TOKEN)
    log.info("value %s", Broken(), extra={"field": Broken()})
    first, second = lines(capsys)
    assert "size %d (arguments do not fit)" in first
    assert "<Broken>" in second
    assert TOKEN not in first + second


def test_a_stream_that_fails_hurts_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When stderr is gone the record is lost, and whoever logs does not notice."""

    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError(text)

    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Gone())
        configure("info", "text")
        log.info("lost %s", TOKEN)
    assert lines(capsys) == []


SECRETS = [
    TOKEN,
    TOKEN.partition(".")[0],
    TOKEN.rpartition(".")[0],
    TOKEN.replace(".", "%2E"),
    f"Authorization: Bearer {TOKEN}",
    f"bearer.{TOKEN}",
    "Bearer opaque-Token~1+/==",
    "authorization: bearer opaque-Token~1+/==",
    f"/ws?ticket={TICKET}&cursor=5",
    f"/ws/{TOKEN}?cursor=5",
    "GET /ws/opaque-Token~1 HTTP/1.1",
    "GET /ws/statsopaque-Token~1 HTTP/1.1",
    repr({"ticket": TICKET}),
    json.dumps({"ticket": TICKET}),
    json.dumps({"data": json.dumps({"token": TOKEN})}),
    f"wss://host/ws/{TOKEN}",
    "password=opaque-Token~1",
]
PARTS = ("opaque-Token~1", TICKET.partition(".")[2], *TOKEN.split(".")[:2])


def leaks(text: str) -> bool:
    return any(part in text for part in PARTS)


@pytest.mark.parametrize("chosen", ["text", "json"])
@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_said(capsys: pytest.CaptureFixture[str], chosen: Any, secret: str) -> None:
    """A token or ticket is cut out of message, arguments, extra fields and exception text."""
    configure("info", chosen)
    log.info("before " + secret + " after")  # a message that was put together
    log.info("before %s after", secret)
    log.info("%(given)s", {"given": secret})
    log.info("hello", extra={"given": secret, "nested": {"inner": [secret]}})
    try:
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise ValueError(f"refused {secret}") from error
    except ValueError:
        log.exception("it broke")
    for line in lines(capsys):
        assert not leaks(line), line
        assert REDACTED in line
        if chosen == "json":
            json.loads(line)


@pytest.mark.parametrize(
    "text",
    [
        "GET /ws/stats HTTP/1.1", "DELETE /ws/connections/c1", "POST /ws/tickets", "/ws?direct=off",
        "/ws/users/u1/disconnect", "/ws/broadcast", "token refused: the token has expired",
        "the ticket is unknown, was used, or is too old", "live.service.user.u1.upload.progress.77",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    """The other routes, and words about tokens, can be read."""
    assert redact(text) == text


@given(st.text())
def test_redaction_takes_any_text(text: str) -> None:
    """No text breaks it, and what it returns has nothing left to cut."""
    assert not leaks(redact(f"{text} {TOKEN} {text}"))
    once = redact(text)
    assert redact(once) == once


class Server(uvicorn.Server):
    """uvicorn, telling when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Accept a WebSocket, or fail with its path."""
    await receive()
    if scope["path"].endswith("fail"):
        raise ValueError(scope["path"])
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close"})


@pytest.mark.parametrize("chosen", ["text", "json"])
@pytest.mark.parametrize("implementation", ["websockets-sansio", "websockets"])
async def test_a_real_server_says_no_path(
    capsys: pytest.CaptureFixture[str], chosen: Any, implementation: Any
) -> None:
    """uvicorn and websockets at the level debug, on a good and on a broken connection."""
    configure("debug", chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uvicorn's own, of a back-end that it gives up
        config = uvicorn.Config(
            app, port=0, ws=implementation, log_config=None, access_log=False, lifespan="off"
        )
        server = Server(config)
        serving = asyncio.ensure_future(server.serve())
        await server.up.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        quiet = logging.getLogger("quiet")
        quiet.disabled = True
        for path in ("opaque-Token~1", TOKEN, "opaque-Token~1fail"):
            url = f"ws://127.0.0.1:{port}/ws/{path}?ticket={TICKET}"
            headers = {"Authorization": f"Bearer {TOKEN}"}
            try:
                async with connect(url, additional_headers=headers, logger=quiet) as client:
                    await client.wait_closed()
            except InvalidStatus:
                assert path.endswith("fail")
        server.should_exit = True
        await serving
    told = lines(capsys)
    assert any("Exception in ASGI application" in line for line in told)
    for word in ('"WebSocket', "/ws", "uthorization"):
        assert not any(word in line for line in told if "Exception" not in line), word
    assert not any(leaks(line) for line in told)


def test_one_line_is_not_written_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever logs the same a thousand times in a second is written a few times."""
    configure("info", "json", rate=2)
    for _ in range(1000):
        log.warning("again")
    log.warning("another")
    told = [record["message"] for record in records(capsys)]
    assert 2 <= told.count("again") <= 20
    assert told[-1] == "another"
