"""Patterns and grants that change while stored events are on their way: nothing is lost or doubled,
and nothing comes that is not wanted or permitted any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from natsbridge.bridge.identity.tokens import Identity
from tests.support.bus import topic
from tests.support.coming_back import MINE, REVIEW, fill, first_stored
from tests.support.harness import POLICY, House, Visitor, person

CREATED = topic("review.created", "77")


def permitted(*allow: str) -> Identity:
    """Return a user that may have these."""
    return replace(person(), grants=POLICY.claimed({"subscribe": {"allow": [*allow]}}, "user", "1"))


def renew(visitor: Visitor, identity: Identity) -> None:
    """Bring a new token, which says this."""

    async def verify(token: str) -> Identity:
        return identity

    object.__setattr__(visitor.house.env, "verify_or_fetch", verify)
    visitor.say("auth.refresh", "r", token="1")


async def subscribed(house: House, *events: str, identity: Identity | None = None) -> Visitor:
    """Connect and subscribe."""
    visitor = Visitor(house, identity or person())
    await house.let()
    visitor.say("subscribe", "first", events=events)
    await house.let()
    return visitor


def fall_behind(visitor: Visitor, count: int = 200) -> None:
    """Miss so many reviews, and read again: what did not fit is about to be made up for."""
    visitor.stall()
    for _ in range(count):
        visitor.house.store(REVIEW)
    visitor.house.come_in()
    visitor.read()
    assert visitor.session.replay is not None


async def replaying(house: House) -> Visitor:
    """Have reviews live, and be in the middle of getting stored ones of another type."""
    fill(house, *[CREATED] * 300)
    visitor = await subscribed(house, "review.updated")
    visitor.say("subscribe", "t", events=["review.created"], cursor="5f-0")
    await first_stored(visitor)
    assert visitor.session.replay is not None
    return visitor


def after(visitor: Visitor, kind: str) -> list[str]:
    """What came behind the only message of this type."""
    heard = visitor.heard
    assert heard.count(kind) == 1
    return heard[heard.index(kind) :]


class TestWider:
    """More is wanted than what is on its way."""

    async def test_a_wider_pattern_goes_on_where_the_narrow_one_was(self, living: House) -> None:
        """What the client is still to get of one resource comes with all of them."""
        visitor = await subscribed(living, "review.updated.77")
        for _ in range(3):
            living.store(REVIEW)
        living.come_in()
        fall_behind(visitor)
        visitor.say("subscribe", "m", events=["review.updated"])
        await living.let(3)
        assert visitor.stored == list(range(1, 204))

    async def test_wider_grants_go_on_where_the_narrow_ones_were(self, living: House) -> None:
        """A token that permits all of a type makes one resource all of them."""
        identity = permitted("review.updated.77", "upload.>")
        visitor = await subscribed(living, "review.updated", identity=identity)
        fall_behind(visitor)
        renew(visitor, person())
        await living.let(3)
        assert visitor.stored == list(range(1, 201))


class TestNarrower:
    """Less is wanted or permitted than what is on its way."""

    async def test_narrower_grants_keep_what_was_ordered(self, living: House) -> None:
        """All of a type was asked for, and is one resource before its begin was found."""
        fill(living, *[REVIEW] * 10)
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        await asyncio.sleep(0)
        living.stream.delay = 0.5
        await living.let(0.1)
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-0")
        living.answer()
        renew(visitor, permitted("review.updated.77", "upload.>", "system.>"))
        await living.let(10)
        assert visitor.stored == list(range(1, 11))
        assert visitor.told("resume.completed")[-1]["replayed"] == 10

    async def test_narrower_grants_keep_what_is_being_sent(self, living: House) -> None:
        """Stored events of all of a type are on their way, and it is one resource from here on."""
        fill(living, *[REVIEW] * 300)
        visitor = Visitor(living, person())
        await living.let()
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-0")
        await first_stored(visitor)
        renew(visitor, permitted("review.updated.77"))
        await living.let(3)
        assert visitor.stored == list(range(1, 301))

    async def test_what_wider_grants_bring_can_be_missing_too(self, living: House) -> None:
        """From where NATS has it: an event of it that does not come in is read from the stream."""
        narrow = permitted("review.updated.78")
        visitor = await subscribed(living, "review.*", identity=narrow)
        renew(visitor, permitted("review.>"))
        await living.let(1)
        for _ in range(2):
            living.store(REVIEW)
            living.come_in()
        living.store(REVIEW)
        living.nats.copies.clear()
        living.store(REVIEW)
        living.come_in()
        await living.let(1)
        assert visitor.stored == [1, 2, 3, 4]

    async def test_nothing_comes_of_a_pattern_that_was_given_back(self, living: House) -> None:
        """Neither what came in meanwhile and waits for the stored events."""
        visitor = await replaying(living)
        living.store(REVIEW)
        living.come_in()
        visitor.say("unsubscribe", "u", events=["review.updated"])
        await living.let(3)
        assert "e301" not in after(visitor, "unsubscription.acknowledged")
        assert visitor.stored == list(range(1, 301))

    async def test_nothing_comes_that_is_not_permitted_any_more(self, living: House) -> None:
        """Of topics or of its own: what waits is sifted by the new token."""
        visitor = await replaying(living)
        living.stream.delay = 1
        for address in (REVIEW, MINE, CREATED):
            living.store(address)
        living.come_in()
        renew(visitor, permitted("review.created", "system.>"))
        await living.let(100)
        assert not {"e301", "e302"} & {*after(visitor, "auth.refreshed")}
        assert visitor.stored == [*range(1, 301), 303]


class TestAnew:
    """Patterns that are given back and wanted again while a replay runs."""

    async def test_without_a_cursor_they_begin_now(self, living: House) -> None:
        """Nothing that came before comes again."""
        visitor = await subscribed(living, "review.updated")
        fall_behind(visitor)
        living.stream.delay = 0.2
        for _ in range(4):
            living.answer()
            await asyncio.sleep(0)
        for _ in range(50):
            living.store(REVIEW)  # on their way meanwhile
        visitor.say("unsubscribe", "u", events=["review.updated"])
        visitor.say("subscribe", "m", events=["review.updated"])
        living.answer()
        await living.let(0.1)
        living.come_in()
        await living.let(8)
        assert len(visitor.stored) == len(set(visitor.stored))
        living.store(REVIEW)
        living.come_in()
        assert visitor.stored[-1] == living.stream.last

    async def test_they_begin_now_where_nats_had_not_confirmed_them(self, living: House) -> None:
        """The client was told so: what comes in until it asks again is not for it."""
        visitor = Visitor(living, person())
        await living.let()
        visitor.say("subscribe", "a", events=["review.updated"])
        visitor.say("subscribe", "b", events=["review.created"], cursor="5f-0")
        visitor.stall()
        living.pass_time(10)
        fill(living, *[REVIEW] * 3)
        visitor.say("subscribe", "c", events=["review.updated"])
        living.answer()
        visitor.read()
        await living.let(1)
        living.store(REVIEW)
        living.come_in()
        assert visitor.heard[1:] == ["error", "error", "subscription.acknowledged", "e4"]

    async def test_what_was_ordered_before_comes_nevertheless(self, living: House) -> None:
        """Asked for with a cursor, given back and wanted again before its begin was found."""
        fill(living, *[CREATED] * 50)
        visitor = await subscribed(living, "review.updated")
        fall_behind(visitor)
        visitor.say("subscribe", "m", events=["review.created"], cursor="5f-0")
        visitor.say("unsubscribe", "u", events=["review.created"])
        visitor.say("subscribe", "n", events=["review.created"])
        await living.let(3)
        assert sorted(visitor.stored) == list(range(1, 251))
        assert visitor.told("resume.completed")[-1]["replayed"] == 50

    async def test_with_a_cursor_they_begin_there(self, living: House) -> None:
        """Everything after it comes in order, once for this order, whatever came before."""
        fill(living, *[MINE] * 10)
        visitor = await subscribed(living, "review.updated")
        fall_behind(visitor)
        before = len(visitor.stored)
        visitor.say("unsubscribe", "u", events=["review.updated"])
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-10")
        await living.let(3)
        assert visitor.stored[before:] == list(range(11, 211))
        assert visitor.told("resume.completed")[-1]["replayed"] == 200
