"""The loop's turns: bounded, fair, and with the preferred socket in each."""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
from collections.abc import Iterator

import pytest

from natsbridge.bridge.runtime.loop import FIRST, GLANCE, LEAST, LONG, MOST, FairLoop

CROWD = 2 * MOST

if sys.platform == "linux":
    from natsbridge.bridge.runtime.loop import FairSelector

    class Sockets:
        """A selector and a crowd of sockets that can be read, one of them the last to be so."""

        def __init__(self) -> None:
            self.now = 0.0
            self.cost = LONG / MOST
            """Seconds that handling one of them takes."""
            self.pairs = [socket.socketpair() for _ in range(CROWD)]
            self.selector = FairSelector(lambda: self.now)
            for reader, writer in self.pairs:
                self.selector.register(reader, selectors.EVENT_READ)
                writer.send(b"x")

        @property
        def last(self) -> socket.socket:
            return self.pairs[-1][0]

        def turn(self) -> list[object]:
            """Look once, and read what is told of."""
            told = [key.fileobj for key, _ in self.selector.select(0)]
            for each in told:
                assert isinstance(each, socket.socket)
                each.recv(1)
                self.now += self.cost
            return told

        def turns(self) -> list[int]:
            """Look until nobody is left; return how many were told of in each turn."""
            sizes = []
            while told := self.turn():
                sizes.append(len(told))
            return sizes

        def speak(self) -> None:
            """Have each of them ready again."""
            for _, writer in self.pairs:
                writer.send(b"x")

    @pytest.fixture
    def sockets() -> Iterator[Sockets]:
        made = Sockets()
        yield made
        made.selector.close()
        for pair in made.pairs:
            for each in pair:
                each.close()

    def test_a_turn_is_bounded_and_everybody_has_one(sockets: Sockets) -> None:
        """Nobody is told of twice before all were, and no turn has more than it may."""
        told: list[object] = []
        while turn := sockets.turn():
            assert len(turn) <= MOST
            told += turn
        assert sorted(map(id, told)) == sorted(id(reader) for reader, _ in sockets.pairs)

    def test_turns_grow_while_each_is_done_quickly(sockets: Sockets) -> None:
        """A crowd that costs little takes few turns, and the next one begins where it ended."""
        sockets.cost = 0.0
        sizes = sockets.turns()
        assert sizes[:4] == [FIRST, 2 * FIRST, 4 * FIRST, MOST]
        sockets.speak()
        assert sockets.turns() == [MOST, MOST]

    def test_a_turn_after_one_that_took_long_is_as_short_as_it_should_be(sockets: Sockets) -> None:
        """Turns of costly sockets come to take about what an iteration may."""
        sockets.cost = LONG / 5.5
        sizes = sockets.turns()
        assert sizes[0] == FIRST
        assert set(sizes[1:-1]) == {5}

    def test_turns_have_a_least_size(sockets: Sockets) -> None:
        """However long it all takes, some of the crowd have their turn."""
        sockets.cost = LONG * 10
        assert set(sockets.turns()[1:-1]) == {LEAST}

    def test_who_always_has_something_does_not_keep_the_others_out(sockets: Sockets) -> None:
        """Sockets that are not read stay ready, and still each of the crowd is told of."""
        told = {key.fd for _ in range(CROWD) for key, _ in sockets.selector.select(0)}
        assert len(told) == CROWD

    def test_the_preferred_is_not_among_the_others(sockets: Sockets) -> None:
        """It is told of by itself: that it may wait beside them, or that it is alone."""
        sockets.selector.prefer(sockets.last.fileno())
        told: list[object] = []
        while turn := sockets.turn():
            assert sockets.selector.waits
            assert not sockets.selector.alone
            told += turn
        assert sockets.last not in told
        assert len(told) == CROWD - 1
        assert sockets.selector.alone
        assert not sockets.selector.waits
        sockets.last.recv(1)
        assert sockets.turn() == []
        assert not sockets.selector.alone

    def test_the_preferred_is_to_be_read_before_the_others(sockets: Sockets) -> None:
        """However many were ready before it, it does not wait for them."""
        sockets.selector.prefer(sockets.last.fileno())
        sockets.selector.select(0)
        found = sockets.selector.peek()
        assert found is not None
        assert found.fileobj is sockets.last

    def test_the_preferred_is_looked_at_again_after_a_while(sockets: Sockets) -> None:
        """Amid a turn, but not for each of its sockets, and only where it can be read."""
        sockets.selector.prefer(sockets.last.fileno())
        sockets.selector.select(0)
        sockets.last.recv(1)
        assert sockets.selector.peek() is None, "it has nothing"
        sockets.pairs[-1][1].send(b"x")
        assert sockets.selector.peek() is None, "it was looked at just now"
        sockets.now += GLANCE
        assert sockets.selector.peek() is not None
        sockets.selector.read()
        assert sockets.selector.peek() is None, "it was read just now"
        sockets.now += GLANCE
        assert sockets.selector.peek() is not None

    def test_the_others_have_as_much_time_as_the_preferred(sockets: Sockets) -> None:
        """A preferred socket that always has more leaves them half, over many turns as well."""
        sockets.selector.prefer(sockets.last.fileno())
        took, others = 20 * GLANCE, 0.0
        reads = 0
        for _ in range(CROWD):
            sockets.selector.select(0)
            for _ in range(LEAST):
                if sockets.selector.peek() is not None:
                    reads += 1
                    sockets.now += took
                    sockets.selector.read()
                sockets.now += GLANCE / 3
                others += GLANCE / 3
        assert reads > 5
        assert (reads - 1) * took <= others <= (reads + 1) * took

    def test_the_preferred_is_read_at_once_where_there_are_no_others(sockets: Sockets) -> None:
        """Nobody needs the time that it would leave."""
        while sockets.turn():
            pass
        sockets.selector.prefer(sockets.last.fileno())
        for _ in range(3):
            sockets.pairs[-1][1].send(b"x")
            assert sockets.selector.select(0) == []
            assert sockets.selector.peek() is not None
            sockets.now += GLANCE
            sockets.selector.read()

    def test_the_preferred_is_left_alone_while_nobody_reads_it(sockets: Sockets) -> None:
        """Reading that is paused stays so, and a socket that is gone is no trouble."""
        sockets.selector.prefer(sockets.last.fileno())
        sockets.selector.select(0)
        sockets.selector.modify(sockets.last, selectors.EVENT_WRITE)
        assert sockets.selector.peek() is None
        told = [event for key, event in sockets.selector.select(0) if key.fileobj is sockets.last]
        assert selectors.EVENT_READ not in told
        sockets.selector.unregister(sockets.last)
        sockets.now += GLANCE
        assert sockets.selector.peek() is None
        sockets.last.close()
        sockets.now += GLANCE
        sockets.selector.select(0)
        assert sockets.selector.peek() is None

    def test_nobody_is_preferred_any_more(sockets: Sockets) -> None:
        """What had the number of a socket that is gone is one among the others."""
        sockets.selector.prefer(sockets.last.fileno())
        sockets.selector.prefer(-1)
        told: list[object] = []
        while turn := sockets.turn():
            told += turn
        assert sockets.last in told
        assert sockets.selector.peek() is None

    def test_what_can_be_written_is_told_apart(sockets: Sockets) -> None:
        """Events are those that were asked for, as the selector of asyncio tells them."""
        writer = sockets.pairs[0][1]
        for reader, _ in sockets.pairs:
            sockets.selector.unregister(reader)
        sockets.selector.register(writer, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert [event for _, event in sockets.selector.select(0)] == [selectors.EVENT_WRITE]


def test_the_loop_serves_and_prefers() -> None:
    """It is an ordinary loop, on which a preferred socket is read beside a crowd of others."""

    async def main(loop: FairLoop) -> list[int]:
        pairs = [socket.socketpair() for _ in range(CROWD)]
        order: list[int] = []
        done = asyncio.Event()

        def read(at: int) -> None:
            pairs[at][0].recv(1)
            order.append(at)
            if len(order) == len(pairs):
                done.set()

        for at, (reader, writer) in enumerate(pairs):
            loop.add_reader(reader, read, at)
            writer.send(b"x")
        loop.prefer(pairs[-1][0].fileno())
        async with asyncio.timeout(5):
            await done.wait()
        for reader, writer in pairs:
            loop.remove_reader(reader)
            reader.close()
            writer.close()
        return order

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, FairLoop)
        order = runner.run(main(loop))
    assert sorted(order) == list(range(CROWD))
    if sys.platform == "linux":
        assert order[0] == CROWD - 1


@pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")
def test_the_preferred_does_not_wait_for_the_end_of_an_iteration() -> None:
    """What comes while a crowd of callbacks is under way is read between two of them."""

    async def main(loop: FairLoop) -> list[str]:
        reader, writer = socket.socketpair()
        order: list[str] = []
        done = asyncio.Event()

        def work(at: int) -> None:
            if at == 1:
                writer.send(b"x")
            until = loop.time() + GLANCE
            while loop.time() < until:
                pass
            order.append("work")
            if at == CROWD - 1:
                done.set()

        def read() -> None:
            reader.recv(1)
            order.append("read")

        loop.add_reader(reader, read)
        loop.prefer(reader.fileno())
        for at in range(CROWD):
            loop.call_soon(work, at)
        async with asyncio.timeout(5):
            await done.wait()
        loop.remove_reader(reader)
        reader.close()
        writer.close()
        return order

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, FairLoop)
        order = runner.run(main(loop))
    assert order.index("read") <= 3
    assert order.count("work") == CROWD
