"""Replay while the stream is away: what is waited for, and what is given up and told."""

from __future__ import annotations

import asyncio

import pytest

from natsbridge.bridge.replay import replay as replay_module
from tests.support.coming_back import (
    MINE,
    REVIEW,
    completed,
    fill,
    first_stored,
    flood,
    join,
    live,
    when_written,
)
from tests.support.harness import House, Visitor, person


class TestAway:
    """JetStream does not answer."""

    async def test_a_short_break_is_waited_for(self, living: House) -> None:
        """The replay goes on where it was; the client notices nothing."""
        fill(living, *[MINE] * 300)
        living.stream.failures = 3
        visitor = Visitor(living, person(), cursor="5f-0")
        await living.let(4)
        assert visitor.stored == list(range(1, 301))
        assert completed(visitor)["recovered"]

    async def test_the_last_so_many_are_found_after_a_break(self, living: House) -> None:
        """Also when it was their place in the stream that could not be asked for."""
        fill(living, *[REVIEW] * 5)
        visitor = await join(living)
        living.stream.failures = 1
        visitor.say("subscribe", "m", events=["review.*"], history=2)
        await living.let(4)
        assert visitor.stored == [4, 5]
        assert completed(visitor)["recovered"]

    async def test_patience_counts_from_the_break(self, living: House) -> None:
        """A replay that has taken long, since its client stalled, is as patient as any other."""
        fill(living, *[MINE] * 5)
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
        fill(living, MINE)
        living.stream.go_away()
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

    @pytest.mark.parametrize("cursor", ["", "words"])
    async def test_what_is_no_cursor_is_told_at_once(self, living: House, cursor: str) -> None:
        """On connecting and on subscribing, with a cursor to go on from; nothing waits for it."""
        fill(living, MINE)
        living.stream.go_away()
        visitor = Visitor(living, person(), cursor=cursor)
        living.answer()
        visitor.say("subscribe", "m", events=["review.updated"], cursor=cursor)
        living.answer()
        assert visitor.heard == [
            "connection.established", "resume.completed",
            "subscription.acknowledged", "resume.completed",
        ]  # fmt: skip
        assert (
            visitor.told("resume.completed")
            == [{"recovered": False, "replayed": 0, "cursor": "5f-1", "reason": "CURSOR_MALFORMED"}]
            * 2
        )
        assert live(living, visitor)

    async def test_a_cursor_is_kept_while_no_stream_was_seen(self, living: House) -> None:
        """It may be one of it: the client is not told another one to go on from."""
        living.hub.order.identity = b""
        living.stream.go_away()
        visitor = Visitor(living, person(), cursor="60-7")
        living.answer()
        assert visitor.told("connection.established")[0]["cursor"] == "60-7"

    async def test_nothing_is_replayed_from_what_is_no_cursor(self, living: House) -> None:
        """And the greeting does not say so."""
        visitor = Visitor(living, person(), cursor="words")
        living.answer()
        assert visitor.told("connection.established")[0]["resume"] is None

    async def test_what_was_written_before_the_break_does_not_come_twice(
        self, living: House
    ) -> None:
        """A replay that gives up in the middle goes on live behind what it has written."""
        fill(living, *[MINE] * 100)
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        for _ in range(90):
            living.store(MINE)
        living.come_in()  # these wait for the replay, and are in the stream as well
        when_written(visitor, b'"e120"', living.stream.go_away)
        await living.let(3 * replay_module.PATIENCE)
        assert completed(visitor)["reason"] == "UNAVAILABLE"
        assert visitor.stored == list(range(1, 191))

    async def test_a_hole_behind_a_replay_is_told(self, living: House) -> None:
        """More came than may wait, and then the stream is away: the client learns what it lacks."""
        fill(living, MINE)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b"resume.completed", living.stream.go_away)
        flood(living)
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
        fill(living, MINE)
        living.stream.go_away()
        living.stream.delay = 5.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        crowd = [Visitor(living, person(str(number)), cursor="5f-0") for number in range(90)]
        while not all(each.told("resume.completed") for each in crowd):
            await living.let(0.1)
            assert loop.time() < began + 4 * replay_module.PATIENCE

    async def test_an_order_that_comes_too_late_is_answered(self, living: House) -> None:
        """NATS confirmed its patterns after the replay was given up, which it was to join."""
        fill(living, MINE)
        living.stream.go_away()
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        await asyncio.sleep(0)  # it has begun
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

    async def test_what_comes_live_then_does_not_come_again(self, living: House) -> None:
        """What could not be had of topics was told, and their place is not kept for it."""
        fill(living, REVIEW, *[MINE] * 300)
        visitor = Visitor(living, person(), cursor="5f-0-2")
        when_written(visitor, b'"e40"', living.stream.go_away)
        await first_stored(visitor)
        visitor.say("subscribe", "m", events=["review.*"], cursor="5f-0-2")
        await living.let(3 * replay_module.PATIENCE)
        told = visitor.told("resume.completed")
        assert [each["reason"] for each in told] == ["UNAVAILABLE"] * 2
        living.store(REVIEW)
        living.come_in()
        assert visitor.messages[-1]["cursor"] == "5f-302"
