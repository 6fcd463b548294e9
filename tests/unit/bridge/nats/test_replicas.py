"""Replicas: what the stream has is waited for until the one that answers has it, too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats import replicas as replicas_module
from natsbridge.bridge.nats.replicas import LAG, PATIENCE, Replicas
from natsbridge.bridge.nats.stream import Head
from tests.support.scripted_stream import ScriptedStream

SUBJECT = "events.all.system.notification.-"


class Scene:
    """A stream with replicas, and those who wait for them."""

    def __init__(self) -> None:
        self.stream = ScriptedStream()
        self.stream.is_replicated = True
        stand_in: Any = self.stream
        self.replicas = Replicas(stand_in, stand_in)

    def store(self, count: int = 1) -> None:
        """Store so many messages."""
        for _ in range(count):
            self.stream.store(SUBJECT, b"x")

    def go_down(self) -> None:
        """The connection is gone."""
        self.stream.breaks += 1
        self.replicas.on_down()

    async def settle(self) -> float:
        """Look and wait; return the seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.replicas.settle(await self.stream.look())
        return loop.time() - began


@pytest.fixture
def scene() -> Scene:
    """A stream on several servers."""
    return Scene()


async def test_a_single_server_is_not_waited_for(scene: Scene) -> None:
    """It has what it says that it has."""
    scene.stream.is_replicated = False
    scene.store()
    assert await scene.settle() < LAG
    assert scene.stream.reads == []


async def test_an_empty_stream_is_not_waited_for(scene: Scene) -> None:
    """There is nothing that could be missing."""
    assert await scene.settle() < LAG
    scene.store(3)
    scene.stream.lose(3)
    assert await scene.settle() < LAG
    assert scene.stream.reads == []


async def test_a_crowd_asks_once(scene: Scene) -> None:
    """However many wait: one wait, one read; and none for what was shown already."""
    scene.store(3)
    await asyncio.gather(*(scene.settle() for _ in range(50)))
    await scene.settle()
    assert scene.stream.reads == [(">", 2)]


async def test_what_is_newer_is_waited_for_too(scene: Scene) -> None:
    """Whoever comes while others wait gets what was stored since."""
    scene.store()
    first = asyncio.create_task(scene.settle())
    await asyncio.sleep(LAG / 2)
    scene.store()
    await scene.settle()
    await first
    assert scene.stream.reads == [(">", 0), (">", 1)]


async def test_another_connection_has_to_show_it_again(scene: Scene) -> None:
    """On it another replica may answer."""
    scene.store()
    await scene.settle()
    scene.go_down()
    await scene.settle()
    assert scene.stream.reads == [(">", 0)] * 2


async def test_a_replica_that_is_steadily_behind_is_waited_for(scene: Scene) -> None:
    """It need not have what comes meanwhile."""
    scene.stream.lag = 4 * LAG
    scene.store()
    waiting = asyncio.create_task(scene.settle())
    for _ in range(20):
        scene.store()
        await asyncio.sleep(LAG / 2)
    assert await waiting <= scene.stream.lag + 2 * LAG


async def test_a_replica_that_stays_behind_is_told(scene: Scene) -> None:
    """After a while; to all who wait. Once it has caught up it can be read."""
    scene.stream.lag = 3600
    scene.store()
    waiting = [scene.settle() for _ in range(3)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(each) for each in results] == ["a replica of the stream is behind"] * 3
    scene.stream.lag = 0
    await scene.settle()


async def test_a_break_meanwhile_ends_the_wait(scene: Scene) -> None:
    """What was shown counts for no other connection."""
    scene.store()
    scene.stream.on_read = lambda: scene.go_down() if scene.stream.reads else None
    with pytest.raises(BrokerUnavailable, match="is gone"):
        await scene.settle()


async def test_who_comes_on_the_next_connection_does_not_wait_for_the_one_before(
    scene: Scene,
) -> None:
    """Whatever was asked there may take as long as a time-out."""
    scene.store()
    scene.stream.delay = 60.0
    before = asyncio.create_task(scene.settle())
    await asyncio.sleep(60.0 + 2 * LAG)
    scene.go_down()
    scene.stream.delay = 0.0
    with pytest.raises(BrokerUnavailable, match="is gone"):
        await before
    assert await scene.settle() < 2 * LAG
    await asyncio.sleep(120)
    assert await scene.settle() == 0


@pytest.mark.parametrize("gone", [[3], [1, 2, 3]], ids=["the last", "all"])
async def test_what_is_gone_is_not_waited_for(scene: Scene, gone: list[int]) -> None:
    """That it can't be shown is no sign of being behind."""
    scene.store(3)
    head = await scene.stream.look()
    for sequence in gone:
        del scene.stream.messages[sequence]
    await scene.replicas.settle(head)
    assert scene.stream.reads == [(">", 2)]


async def test_where_much_is_deleted_the_last_may_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is looked through: it is waited for, and then taken for deleted."""
    monkeypatch.setattr(replicas_module, "MAX_DELETED", 0)
    scene.store(3)
    del scene.stream.messages[3]
    assert PATIENCE <= await scene.settle() <= PATIENCE + 2 * LAG


async def test_a_stream_that_is_made_anew_meanwhile_is_told(scene: Scene) -> None:
    """What is asked for is not there any more."""
    scene.store(3)
    head: Head = await scene.stream.look()
    scene.stream.replace("60")
    with pytest.raises(BrokerUnavailable, match="made anew"):
        await scene.replicas.settle(head)
