"""Closing ends, whatever nats-py or a handler does with a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from natsbridge.publishers import Command, Commands, EventPublisher, PublisherSettings
from natsbridge.publishers.client import NatsClient
from natsbridge.publishers.waiting import cancelled, within
from tests.unit.publishers.fake_broker import FakeBroker, acknowledgement

PATIENCE = 30
"""Seconds after which a test takes it that something never ends."""


async def never() -> None:
    await asyncio.Event().wait()


async def deaf(*_: object, **__: object) -> None:
    """Swallow the first cancellation and wait on, as nats-py does here and there."""
    try:
        await never()
    except asyncio.CancelledError:
        await never()


def publisher(broker: FakeBroker) -> EventPublisher:
    return EventPublisher(PublisherSettings(url=(broker.url,), timeout=5.0), source="svc")


@pytest.mark.parametrize("method", ["close", "flush"])
async def test_a_cancellation_that_nats_py_swallows_does_not_keep_closing_from_its_end(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py's ``close`` drops one that comes while it stops reconnecting, and ``wait_for`` one
    that meets its result on Python 3.11; what follows inside has no limit of its own."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker:
        own = publisher(broker)
        await own.open()
        with monkeypatch.context() as patched:
            patched.setattr(NatsClient, method, deaf)
            async with asyncio.timeout(PATIENCE):
                await own.close()
        await own.open()  # nothing is left over
        await own.close()


async def test_a_connection_attempt_that_swallows_its_cancellation_does_not_keep_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same while the connection is being made anew."""
    connecting = asyncio.Event()

    async def connect(self: NatsClient, **_: object) -> None:
        connecting.set()
        await deaf()

    async with FakeBroker() as broker:
        own = publisher(broker)
        await own.open()
        monkeypatch.setattr(NatsClient, "connect", connect)
        broker.say(b"-ERR 'User Authentication Expired'")
        async with asyncio.timeout(PATIENCE):
            await connecting.wait()
            await own.close()


async def test_a_handler_that_swallows_its_cancellation_does_not_keep_commands_from_stopping() -> (
    None
):
    """It is cancelled again, after it had time to clean up."""
    running = asyncio.Event()

    async def handle(command: object) -> None:
        running.set()
        await deaf()

    async with FakeBroker() as broker, publisher(broker) as own:
        commands = Commands(own)
        commands.on("upload.cancel")(handle)
        await commands.start()
        task: asyncio.Task[Any] = asyncio.create_task(commands._run(_command()))
        commands._running.add(task)
        await running.wait()
        async with asyncio.timeout(PATIENCE):
            await commands.stop()
        assert task.done()


def _command() -> Command:
    return Command("upload.cancel", "42", "u1", "c1", "2026-11-24T00:00:00Z", {})


@pytest.mark.parametrize(
    ("work", "raised"),
    [(never, TimeoutError), (deaf, TimeoutError), (lambda: asyncio.sleep(0), None)],
)
async def test_work_is_ended_at_its_limit(
    work: Callable[[], Coroutine[Any, Any, None]], raised: type[Exception] | None
) -> None:
    """Also what ignores its first cancellation; no task is left."""
    before = asyncio.all_tasks()
    if raised is None:
        await within(PATIENCE, work())
    else:
        with pytest.raises(raised):
            await within(0.01, work())
    assert asyncio.all_tasks() == before


async def test_what_work_raises_is_raised_and_a_cancelled_caller_ends_its_work() -> None:
    """Neither an error nor a cancellation is lost, and the work does not go on alone."""

    async def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await within(PATIENCE, fail())
    before = asyncio.all_tasks()
    caller = asyncio.create_task(within(PATIENCE, deaf()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller], timeout=PATIENCE)
    assert caller.cancelled()
    assert asyncio.all_tasks() == before


async def test_what_never_ends_is_told_and_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing goes on, and the log names what is left."""
    monkeypatch.setattr("natsbridge.publishers.waiting.CANCEL_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("natsbridge.publishers.waiting.CANCEL_SECONDS", 0.1)
    go = asyncio.Event()

    async def stubborn() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancelled(task, None)
    assert "did not end" in caplog.text
    assert "stubborn" in caplog.text
    go.set()
    await task
