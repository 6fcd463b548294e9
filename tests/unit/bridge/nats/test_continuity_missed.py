"""Continuity: an event that did not come in although the connection held, and what follows it."""

from __future__ import annotations

import pytest

from tests.support.bus import everyone, to_user, topic
from tests.support.harness import House, Visitor, person

MINE = to_user("1", "upload.completed", "7")
ALL = everyone("system.notification")
REVIEW = topic("review.updated", "77")
OTHER_REVIEW = topic("review.updated", "78")


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


async def follow(house: House) -> Visitor:
    """Connect, subscribe, and get the first two reviews."""
    visitor = await join(house)
    for _ in range(2):
        house.store(REVIEW)
        house.come_in()
    return visitor


class TestMissed:
    """One event that did not come in, although the connection held."""

    async def test_it_comes_before_what_follows_it(self, living: House) -> None:
        """In its subject's order, and with a cursor that goes back behind nothing that came."""
        visitor = await follow(living)
        living.store(REVIEW)
        miss(living)
        living.store(MINE)
        living.store(REVIEW)
        living.come_in()
        await living.let(1)
        came = [(each["id"], each["cursor"]) for each in visitor.messages if "cursor" in each]
        assert came[2:] == [("e4", "5f-4"), ("e3", "5f-4"), ("e5", "5f-5")]
        assert living.gaps == []

    async def test_the_second_event_of_a_subject_is_missed_too(self, living: House) -> None:
        """The first one is remembered where a subject has no resource, and so more to come."""
        visitor = await join(living)
        living.store(ALL)
        living.come_in()
        living.store(ALL)
        miss(living)
        living.store(ALL)
        living.come_in()
        await living.let(1)
        assert visitor.stored == [1, 2, 3]

    async def test_a_break_right_behind_it_doubles_nothing(self, living: House) -> None:
        """What both are about is read once."""
        visitor = await follow(living)
        for _ in range(3):
            living.store(REVIEW)
        miss(living)
        living.store(REVIEW)
        living.come_in()
        living.break_off()
        living.store(REVIEW)
        living.come_back()
        await living.let(2)
        assert sorted(visitor.stored) == [1, 2, 3, 4, 5, 6, 7]

    async def test_what_is_gone_is_told(self, living: House) -> None:
        """Retention was faster: clients learn the range, once, and what follows comes."""
        visitor = await follow(living)
        living.store(REVIEW)
        miss(living)
        living.stream.lose(3)
        living.store(REVIEW)
        living.come_in()
        await living.let(1)
        assert visitor.stored == [1, 2, 4]
        assert living.gaps == [(2, 3, "RETENTION")]

    async def test_what_went_before_it_is_nobodys_loss(self, living: House) -> None:
        """Retention took what had come long ago: only the missed one is looked for."""
        visitor = await follow(living)
        for _ in range(50):
            living.store(OTHER_REVIEW)
        living.come_in()
        living.stream.lose(40)
        living.store(REVIEW)
        miss(living)
        living.store(REVIEW)
        living.come_in()
        await living.let(1)
        assert visitor.stored == list(range(1, 55))
        assert living.gaps == []

    async def test_the_stream_is_made_anew_while_it_is_looked_for(self, living: House) -> None:
        """What the new one has at the same place is another event, and does not come for it; what
        was kept back behind it comes, without a cursor that would be of the new one.
        """
        visitor = await follow(living)
        living.store(REVIEW)
        miss(living)
        living.store(REVIEW)
        living.come_in()
        living.stream.replace("60")
        for _ in range(3):
            living.store(REVIEW)
        miss(living)
        await living.let(1)
        assert [each for each in visitor.heard if each in ("e1", "e2", "e3", "e4")] == [
            "e1",
            "e2",
            "e4",
        ]
        assert visitor.stored == [1, 2]
        assert living.gaps == [(None, None, "STREAM_REPLACED")]
        assert living.continuity.state == ""

    @pytest.mark.parametrize("payload", [b"{", b"x" * 70_000])
    async def test_an_event_that_is_refused_is_not_missing(
        self, living: House, payload: bytes
    ) -> None:
        """It has come, and goes no further: what follows it on its subject does not wait for it."""
        visitor = await join(living)
        living.store(REVIEW)
        subject = "topic.review.updated.77"
        _, headers = living.stream.store(f"events.{subject}", payload)
        living.nats.publish(f"live.stream.{subject}", payload, headers)
        living.store(REVIEW)
        living.come_in()
        assert visitor.stored == [1, 3]
        assert living.continuity.state == ""
        assert living.stream.reads == []

    async def test_an_event_that_was_refused_unseen_holds_up_nothing(self, living: House) -> None:
        """It did not come in, and what is read of the stream in its place is refused as well."""
        visitor = await join(living)
        living.store(REVIEW)
        living.come_in()
        living.stream.store("events.topic.review.updated.77", b"{")
        living.store(REVIEW)
        living.come_in()
        await living.let(1)
        assert visitor.stored == [1, 3]
        assert living.continuity.state == ""
