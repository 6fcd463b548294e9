"""Continuity: what did not come in is read from the stream, delivered in turn, or told."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from natsbridge.bridge.delivery import stream_order as order_module
from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.nats import continuity as continuity_module
from natsbridge.bridge.nats import replicas
from natsbridge.bridge.nats.continuity import BATCH, PATIENCE
from natsbridge.bridge.nats.history import Batch
from tests.support.bus import everyone, to_user, topic
from tests.support.harness import House, Visitor, person

MINE = to_user("1", "upload.completed", "7")
OTHERS = to_user("2", "upload.completed", "7")
ALL = everyone("system.notification")
REVIEW = topic("review.updated", "77")
PROGRESS = to_user("1", "upload.progress", "7")


async def join(house: House) -> Visitor:
    """Connect and subscribe."""
    visitor = Visitor(house, person())
    await house.let()
    visitor.say("subscribe", events=["review.*"])
    await house.let()
    return visitor


def miss(house: House) -> None:
    """What is on its way right now never comes in."""
    house.nats.copies.clear()


class TestBreaks:
    """A connection that was gone and is back."""

    async def test_what_was_stored_meanwhile_comes_once_and_in_order(self, living: House) -> None:
        """Before anything newer, for each client what is its own, and never what is not."""
        visitor = await join(living)
        living.store(MINE)
        living.come_in()
        living.break_off()
        for address in (REVIEW, OTHERS, ALL, MINE):
            living.store(address)
        living.come_back()
        living.store(MINE)
        living.come_in()  # this one is here before what was missed has been read
        assert visitor.stored == [1]
        assert living.continuity.state
        await living.let(1)
        assert visitor.stored == [1, 2, 4, 5, 6]
        assert living.continuity.state == ""
        assert living.continuity.completed == 1
        assert living.gaps == []
        living.store(MINE)
        living.come_in()
        assert visitor.stored[-1] == 7

    async def test_what_was_on_its_way_comes_too(self, living: House) -> None:
        """Stored and republished, but lost with the connection."""
        visitor = await join(living)
        for _ in range(3):
            living.store(MINE)
        living.come_in(1)
        living.break_off()
        living.come_back()
        await living.let(1)
        assert visitor.stored == [1, 2, 3]

    async def test_what_was_deleted_meanwhile_is_told(self, living: House) -> None:
        """A bound for each subject, or somebody, took some of what was missed: the rest comes."""
        visitor = await join(living)
        living.store(MINE)
        living.come_in()
        living.break_off()
        for _ in range(5):
            living.store(REVIEW)
        del living.stream.messages[3]
        living.come_back()
        await living.let(1)
        assert visitor.stored == [1, 2, 4, 5, 6]
        assert living.gaps == [(1, 6, "RETENTION")]

    async def test_what_was_deleted_before_is_no_loss(self, living: House) -> None:
        """Only what was missed counts."""
        visitor = await join(living)
        for _ in range(3):
            living.store(MINE)
        living.come_in()
        del living.stream.messages[2]
        living.break_off()
        living.store(MINE)
        living.come_back()
        await living.let(1)
        assert visitor.stored == [1, 2, 3, 4]
        assert living.gaps == []

    @pytest.mark.parametrize("lag", [replicas.LAG - 0.01, replicas.LAG + 2])
    async def test_a_replica_that_is_behind_is_waited_for(self, living: House, lag: float) -> None:
        """It would answer as if there were no more; a short time is taken for granted, a longer one
        shows.
        """
        visitor = await join(living)
        living.stream.is_replicated, living.stream.lag = True, lag
        living.break_off()
        for _ in range(3):
            living.store(MINE)
        living.come_back()
        await living.let(lag + 1)
        assert visitor.stored == [1, 2, 3]
        assert living.gaps == []

    async def test_a_replica_that_stays_behind_is_given_up(self, living: House) -> None:
        """What was missed is told, as when JetStream does not answer."""
        visitor = await join(living)
        living.stream.is_replicated, living.stream.lag = True, 3600
        living.break_off()
        living.store(MINE)
        living.come_back()
        await living.let(PATIENCE + 3 * replicas.PATIENCE)  # the last try may begin right before
        assert visitor.stored == []
        assert living.gaps == [(0, None, "UNAVAILABLE")]

    @pytest.mark.parametrize("gone", [[3], [1, 2, 3]], ids=["the last", "all"])
    async def test_replicas_lack_what_was_deleted(self, living: House, gone: list[int]) -> None:
        """That the last message is gone does not count as being behind."""
        visitor = await join(living)
        living.stream.is_replicated = True
        living.break_off()
        for _ in range(3):
            living.store(MINE)
        for sequence in gone:
            del living.stream.messages[sequence]
        living.come_back()
        await living.let(1)
        assert visitor.stored == [each for each in (1, 2, 3) if each not in gone]
        assert [reason for *_, reason in living.gaps] == ["RETENTION"]

    async def test_ephemeral_events_do_not_wait(self, living: House) -> None:
        """They come while what was missed is being read."""
        visitor = await join(living)
        living.break_off()
        living.store(MINE)
        living.come_back()
        event = living.publish(PROGRESS)
        assert visitor.heard[-1] == event
        await living.let(1)
        assert visitor.stored == [1]

    async def test_a_break_while_it_reads_begins_where_it_was(
        self, living: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing comes twice for that, and nothing is left out."""
        monkeypatch.setattr(continuity_module, "BATCH", 4)
        visitor = await join(living)
        living.break_off()
        for _ in range(20):
            living.store(MINE)
        living.come_back()
        reads = 0

        def cut() -> None:
            nonlocal reads
            reads += 1
            if reads == 3:
                living.break_off()
                for _ in range(5):
                    living.store(MINE)
                living.come_back()
                living.store(MINE)
                living.come_in()

        living.stream.on_read = cut
        await living.let(2)
        assert visitor.stored == list(range(1, 27))
        assert living.gaps == []

    async def test_a_long_break_is_read_in_parts(self, living: House) -> None:
        """However much there is; it is told in words meanwhile."""
        visitor = await join(living)
        living.break_off()
        for _ in range(3 * BATCH):
            living.store(MINE)
        living.come_back()
        states = set()
        living.stream.on_read = lambda: states.add(living.continuity.state)
        await living.let(1)
        assert visitor.stored == list(range(1, 3 * BATCH + 1))
        assert len(states) > 2

    async def test_more_that_comes_in_than_may_wait_is_read_too(
        self, living: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is in the stream: another pass reads it."""
        monkeypatch.setattr(order_module, "MAX_DETAINED", 3)
        visitor = await join(living)
        living.break_off()
        living.store(MINE)
        living.come_back()

        def flood() -> None:
            if living.stream.last < 40:
                for _ in range(10):
                    living.store(MINE)
                living.come_in()

        living.stream.on_read = flood
        await living.let(2)
        assert visitor.stored == list(range(1, living.stream.last + 1))

    async def test_what_retention_took_is_told(self, living: House) -> None:
        """The range to every client, and the rest comes."""
        visitor = await join(living)
        living.store(MINE)
        living.come_in()
        living.break_off()
        for _ in range(6):
            living.store(MINE)
        living.stream.lose(4)
        living.come_back()
        await living.let(1)
        assert visitor.stored == [1, 5, 6, 7]
        assert visitor.told("gap") == [
            {"from": "5f-1", "to": "5f-4", "reason": "RETENTION", "recoverable": False}
        ]

    async def test_nothing_missed_is_no_gap(self, living: House) -> None:
        """An empty stream, or one that has lost only what had come, tells nothing."""
        visitor = await join(living)
        for _ in range(3):
            living.store(MINE)
        living.come_in()
        living.stream.lose(3)
        living.break_off()
        living.come_back()
        await living.let(1)
        assert living.gaps == []
        living.store(MINE)
        living.come_in()
        assert visitor.stored == [1, 2, 3, 4]


class TestAway:
    """NATS is back and JetStream is not."""

    async def test_it_is_waited_for(self, living: House) -> None:
        """Events wait too, so that all come in order."""
        visitor = await join(living)
        living.break_off()
        living.store(MINE)
        living.stream.is_away = True
        living.come_back()
        living.store(MINE)
        living.come_in()
        await living.let(PATIENCE / 2)
        assert visitor.stored == []
        living.stream.is_away = False
        await living.let(1)
        assert visitor.stored == [1, 2]
        assert living.gaps == []

    async def test_after_a_while_delivery_goes_on_without_it(self, living: House) -> None:
        """What came in comes, and what is missing before it is told."""
        visitor = await join(living)
        living.store(MINE)
        living.come_in()
        living.break_off()
        living.store(MINE)
        living.stream.is_away = True
        living.come_back()
        living.store(MINE)
        living.come_in()
        await living.let(PATIENCE + 1)
        assert visitor.stored == [1, 3]
        assert visitor.heard[-2:] == ["gap", "e3"]
        assert visitor.told("gap") == [
            {"from": "5f-1", "to": "5f-2", "reason": "UNAVAILABLE", "recoverable": False}
        ]
        assert living.continuity.state == ""
        living.store(MINE)
        living.come_in()
        assert visitor.stored[-1] == 4

    async def test_patience_counts_from_when_it_went(
        self, living: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A long reading that is interrupted near its end is as patient as at its beginning."""
        monkeypatch.setattr(continuity_module, "BATCH", 1)
        visitor = await join(living)
        living.break_off()
        for _ in range(20):
            living.store(MINE)
        living.stream.delay = 1.0
        living.come_back()
        await living.let(PATIENCE + 5)
        living.stream.failures = 1
        await living.let(30)
        assert visitor.stored == list(range(1, 21))
        assert living.gaps == []

    async def test_a_fault_of_ours_ends_no_catching_up(self, living: House) -> None:
        """What was left is begun again from time to time, and what waits for it comes."""
        visitor = await join(living)
        living.store(MINE)
        living.come_in()
        living.break_off()
        living.store(MINE)
        read = living.stream.read

        async def fail(subject: str, after: int, most: int) -> Batch:
            living.stream.read = read  # type: ignore[method-assign]  # once only
            raise ValueError("a fault")

        living.stream.read = fail  # type: ignore[method-assign]  # a fault in the middle
        loop = asyncio.get_running_loop()
        faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: faults.append(context))
        living.come_back()
        await living.let(1)
        gc.collect()
        assert [str(each["exception"]) for each in faults] == ["a fault"]
        living.store(MINE)
        living.come_in()
        assert visitor.stored == [1]
        living.continuity.tick()
        await living.let(1)
        assert visitor.stored == [1, 2, 3]
        assert living.continuity.state == ""

    async def test_what_says_no_stream_is_unavailable(self, living: House) -> None:
        """A stream that can't be relied on raises, and its words are the problem's."""
        living.stream.is_away = True
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            await living.continuity.look()


class TestStream:
    """What is noticed from time to time."""

    async def test_the_position_follows_what_nobody_wanted(self, living: House) -> None:
        """Two looks later everything that the stream had then has come in, wanted or not."""
        for _ in range(5):
            living.store(OTHERS)
        positions = []
        for _ in range(3):
            living.continuity.tick()
            await living.let()
            positions.append(living.hub.order.position)
        assert positions == [0, 0, 5]

    async def test_it_does_not_follow_over_a_break(self, living: House) -> None:
        """What the stream had before a break need not have come in."""
        await join(living)
        living.store(MINE)
        living.continuity.tick()
        await living.let()
        living.break_off()
        living.stream.is_away = True
        living.come_back()
        living.continuity.tick()
        await living.let()
        assert living.hub.order.position == 0

    async def test_another_stream_is_told_and_begun(self, living: House) -> None:
        """Cursors are the new stream's from then on; nothing of the old one is read."""
        visitor = await join(living)
        for _ in range(5):
            living.store(MINE)
        living.come_in()
        living.stream.replace("60")
        living.store(MINE)
        miss(living)
        living.continuity.tick()
        await living.let()
        assert visitor.told("gap") == [
            {"from": None, "to": None, "reason": "STREAM_REPLACED", "recoverable": False}
        ]
        living.store(MINE)
        living.come_in()
        assert visitor.messages[-1]["cursor"] == "60-2"

    async def test_a_stream_replaced_while_the_bridge_was_away(self, living: House) -> None:
        """What came in of the new one comes; what is not known of is told."""
        visitor = await join(living)
        living.store(MINE)
        living.come_in()
        living.break_off()
        living.stream.replace("60")
        living.store(MINE)
        living.come_back()
        living.store(MINE)
        living.come_in()
        await living.let(1)
        assert living.gaps == [(None, None, "STREAM_REPLACED")]
        assert living.continuity.state == ""
        living.store(MINE)
        living.come_in()
        assert visitor.messages[-1]["cursor"] == "60-3"
