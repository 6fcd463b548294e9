"""Replay while the stream is away: what is waited for, and what is given up and told."""

from __future__ import annotations

import asyncio
from typing import Any

from bridge.sessions import replay as replay_module
from tests.support.bus import to_user, topic
from tests.support.house import House, Visitor, person

MINE = to_user("1", "upload.completed", "7")
REVIEW = topic("review.updated", "77")


async def join(house: House, cursor: str | None = None) -> Visitor:
    """Connect and wait until the connection has what it asked for."""
    visitor = Visitor(house, person(), cursor=cursor)
    await house.let(1)
    return visitor


def completed(visitor: Visitor) -> dict[str, Any]:
    """The data of the only ``resume.completed`` that came."""
    (data,) = visitor.told("resume.completed")
    return data


def live(house: House, visitor: Visitor) -> bool:
    """Whether a durable event that comes in now reaches the client at once, and once."""
    before = visitor.stored
    house.store(MINE)
    house.come_in()
    return visitor.stored == [*before, house.stream.last]


class TestAway:
    """JetStream does not answer."""

    async def test_a_short_break_is_waited_for(self, living: House) -> None:
        """The replay goes on where it was; the client notices nothing."""
        for _ in range(300):
            living.store(MINE)
        living.catch_up()
        living.stream.failures = 3
        visitor = Visitor(living, person(), cursor="5f-0")
        await living.let(4)
        assert visitor.stored == list(range(1, 301))
        assert completed(visitor)["recovered"]

    async def test_the_last_so_many_are_found_after_a_break(self, living: House) -> None:
        """Also when it was their place in the stream that could not be asked for."""
        for _ in range(5):
            living.store(REVIEW)
        living.catch_up()
        visitor = await join(living)
        living.stream.failures = 1
        visitor.say("subscribe", "m", events=["review.*"], history=2)
        await living.let(4)
        assert visitor.stored == [4, 5]
        assert completed(visitor)["recovered"]

    async def test_patience_counts_from_the_break(self, living: House) -> None:
        """A replay that has taken long, since its client stalled, is as patient as any other."""
        for _ in range(5):
            living.store(MINE)
        living.catch_up()
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        visitor.stall()
        await living.let(2 * replay_module.PATIENCE)
        living.stream.failures = 1
        visitor.read()
        await living.let(4)
        assert visitor.stored == [1, 2, 3, 4, 5]
        assert completed(visitor)["recovered"]

    async def test_without_it_live_delivery_goes_on(self, living: House) -> None:
        """After a while the client is told, and gets what came in since; new events come too."""
        living.store(MINE)
        living.catch_up()
        living.stream.is_away = True
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        living.store(MINE)
        living.come_in()
        await living.let(2 * replay_module.PATIENCE)
        data = completed(visitor)
        assert (data["recovered"], data["reason"]) == (False, "UNAVAILABLE")
        assert "cursor" not in data
        assert visitor.stored == [2]
        assert live(living, visitor)
        assert visitor.session.replay is None

    async def test_what_was_written_before_the_break_does_not_come_twice(
        self, living: House
    ) -> None:
        """A replay that gives up in the middle goes on live behind what it has written."""
        for _ in range(100):
            living.store(MINE)
        living.catch_up()
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        for _ in range(90):
            living.store(MINE)
        living.come_in()  # these wait for the replay, and are in the stream as well
        write = visitor.session.outbox.write

        def breaking(data: bytes) -> None:
            write(data)
            living.stream.is_away |= b'"e120"' in data

        visitor.session.outbox.write = breaking
        await living.let(3 * replay_module.PATIENCE)
        assert completed(visitor)["reason"] == "UNAVAILABLE"
        assert visitor.stored == list(range(1, 191))

    async def test_a_hole_behind_a_replay_is_told(self, living: House) -> None:
        """More came than may wait, and then the stream is away: the client learns what it lacks."""
        living.store(MINE)
        living.catch_up()
        visitor = Visitor(living, person(), cursor="5f-0")
        write = visitor.session.outbox.write

        def breaking(data: bytes) -> None:
            write(data)
            living.stream.is_away |= b"resume.completed" in data

        is_flooded = False

        def flood() -> None:
            nonlocal is_flooded
            if living.stream.reads and not is_flooded:  # how far the stream reached is known
                is_flooded = True
                for _ in range(300):
                    living.store(MINE)
                living.come_in()

        visitor.session.outbox.write = breaking
        living.stream.on_read = flood
        await living.let(1)
        living.store(MINE)
        living.come_in()
        await living.let(3 * replay_module.PATIENCE)
        assert visitor.stored == [1, 302]
        (gap,) = visitor.told("gap")
        assert (gap["from"], gap["to"]) == ("5f-1", "5f-301")
        assert (gap["reason"], gap["recoverable"]) == ("UNAVAILABLE", False)

    async def test_a_crowd_learns_it_at_once(self, living: House) -> None:
        """Nobody waits in line to find JetStream away, however slowly it fails."""
        living.store(MINE)
        living.catch_up()
        living.stream.is_away = True
        living.stream.delay = 5.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        crowd = [Visitor(living, person(str(number)), cursor="5f-0") for number in range(90)]
        while not all(each.told("resume.completed") for each in crowd):
            await living.let(0.1)
            assert loop.time() < began + 4 * replay_module.PATIENCE

    async def test_an_order_that_comes_too_late_is_answered(self, living: House) -> None:
        """NATS confirmed its patterns after the replay was given up, which it was to join."""
        living.store(MINE)
        living.catch_up()
        living.stream.is_away = True
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-0")
        while not visitor.told("resume.completed"):
            await asyncio.sleep(0.05)
            living.turns.run()  # and NATS answers nothing
        living.answer()
        await living.let(1)
        told = [each for each in visitor.messages if each["type"] == "resume.completed"]
        assert [each["data"]["reason"] for each in told] == ["UNAVAILABLE"] * 2
        assert told[1]["reply_to"] == "m"
        assert visitor.session.replay is None
        assert live(living, visitor)
