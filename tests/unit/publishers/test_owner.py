"""A publisher that is used where it was not opened: told at once, whichever method it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from natsbridge.publishers import (
    Commands,
    EventPublisher,
    PublisherSettings,
    UploadEvents,
    WrongEventLoop,
)
from natsbridge.publishers.owner import Owner
from tests.unit.publishers.fake_broker import FakeBroker, acknowledgement
from tests.unit.publishers.spooling import publisher as spooling
from tests.unit.publishers.spooling import spool

Use = Callable[[EventPublisher], Awaitable[object]]


async def _answer_commands(own: EventPublisher) -> None:
    commands = Commands(own)

    async def accept(command: object) -> None:
        return None

    commands.on("upload.cancel")(accept)
    await commands.start()


USES: dict[str, Use] = {
    "durable": lambda own: UploadEvents(own).completed("u1", {}, to="42"),
    "ephemeral": lambda own: UploadEvents(own).progress("u1", 1, to="42"),
    "open": lambda own: own.open(),
    "close": lambda own: own.close(),
    "commands": _answer_commands,
}


def publisher(broker: FakeBroker) -> EventPublisher:
    return EventPublisher(PublisherSettings(url=(broker.url,), timeout=5.0), source="svc")


async def elsewhere(use: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Return what this raises in a loop of its own, in a thread."""

    async def attempt() -> BaseException | None:
        try:
            await use()
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, asyncio.run, attempt())


@pytest.mark.parametrize("name", USES)
async def test_another_event_loop_is_told_at_once(name: str) -> None:
    """It would wait for answers that come to the loop that opened it; that one goes on."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker, publisher(broker) as own:
        error = await elsewhere(lambda: USES[name](own))
        assert isinstance(error, WrongEventLoop)
        assert "another event loop" in str(error)
        assert not broker.published
        [receipt] = await UploadEvents(own).completed("u1", {}, to="42")
        assert receipt.stored


@pytest.mark.parametrize("use", ["put", "state", "close"])
async def test_the_spool_of_another_event_loop_is_told_too(tmp_path: Path, use: str) -> None:
    """Its thread and its tasks are the owner's."""
    async with (
        FakeBroker(lambda subject: acknowledgement()) as broker,
        spooling(broker, tmp_path / "spool.db") as own,
    ):
        uses: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: UploadEvents(own).completed("u1", {}, to="42"),
            "state": lambda: spool(own).state(),
            "close": lambda: spool(own).close(),
        }
        assert isinstance(await elsewhere(uses[use]), WrongEventLoop)


FORKS = """
import asyncio, os, sys
from natsbridge.publishers import EventPublisher, UploadEvents, WrongEventLoop

async def main():
    async with EventPublisher(sys.argv[1]) as own:
        await UploadEvents(own).progress("before", 1, to="42")
        if (child := os.fork()) == 0:
            told = "nothing"
            try:
                asyncio._set_running_loop(None)
                asyncio.run(use(own))
            except WrongEventLoop as error:
                told = str(error)
            finally:
                print(told, flush=True)
                os._exit(0)
        os.waitpid(child, 0)
        await UploadEvents(own).completed("after", {}, to="42")
        print("parent", os.getpid(), flush=True)

async def use(own):
    await UploadEvents(own).completed("child", {}, to="42")

asyncio.run(main())
"""


async def test_a_forked_child_is_told_at_once() -> None:
    """Celery's and gunicorn's workers fork: the parent's socket and loop are not the child's."""
    async with FakeBroker(lambda subject: acknowledgement()) as broker:
        # In a process of its own: this one has threads, which do not survive a fork.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FORKS, broker.url, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    told, parent = out.decode().splitlines()
    assert f"opened by process {parent.split()[1]}, before the fork" in told
    assert [subject.split(".")[-1] for subject, _ in broker.published] == ["before", "after"]


def test_one_that_was_closed_can_be_opened_in_another_loop() -> None:
    """Each ``asyncio.run`` has a loop of its own; a publisher may outlive it."""
    own = EventPublisher("nats://127.0.0.1:1", source="svc")

    async def publish() -> None:
        async with FakeBroker(lambda subject: acknowledgement()) as broker:
            own.connection._settings = PublisherSettings(url=(broker.url,))
            async with own:
                broker.hang_up()  # so that something waits for the connection
                await UploadEvents(own).completed("u1", {}, to="42")

    asyncio.run(publish())
    asyncio.run(publish())


async def test_a_loop_that_is_closed_is_named_as_such() -> None:
    """What was opened by ``asyncio.run`` and never closed says why it can't be used."""
    owner = Owner()

    async def take() -> None:
        owner.take()

    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, asyncio.run, take())
    with pytest.raises(WrongEventLoop, match="which is closed"):
        owner.check()
    owner.release()
    owner.check()
