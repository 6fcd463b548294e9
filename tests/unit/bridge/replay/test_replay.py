"""Replay: what a client missed, from a scripted stream, and from there on live without a seam."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from natsbridge.bridge.nats.replicas import LAG
from natsbridge.bridge.replay.positions import MAX_SUBJECTS
from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.replies import ResumeData
from tests.support.bus import everyone, to_user, topic
from tests.support.coming_back import (
    MINE,
    REVIEW,
    completed,
    fill,
    first_stored,
    join,
    live,
    when_written,
)
from tests.support.harness import POLICY, House, Visitor, person

OTHERS = to_user("2", "upload.completed", "7")
ALL = everyone("system.notification")
OTHER_REVIEW = topic("review.updated", "78")
CREATED = topic("review.created", "77")


async def subscribe(visitor: Visitor, *events: str, **data: Any) -> None:
    """Subscribe and wait until what was asked for has come."""
    visitor.say("subscribe", "m", events=events, **data)
    await visitor.house.let(1)


class TestConnect:
    """``/ws?cursor=``: events of the user and of everybody."""

    async def test_what_was_missed_comes_in_order_and_then_what_is_live(
        self, living: House
    ) -> None:
        """Each with its own cursor, nothing twice, and ``resume.completed`` in between. The client
        has not subscribed yet: its cursors keep the place of its topics.
        """
        for address in (MINE, ALL, OTHERS, REVIEW, MINE):
            living.store(address)
        visitor = await join(living, "5f-1")
        living.store(ALL)
        living.come_in()
        assert visitor.heard == ["connection.established", "e2", "e5", "resume.completed", "e6"]
        cursors = [each["cursor"] for each in visitor.messages if "cursor" in each]
        assert cursors == ["5f-1-2", "5f-1-5", "5f-1-6"]
        assert completed(visitor) == {"recovered": True, "replayed": 2, "cursor": "5f-1-5"}

    async def test_the_connection_starts_where_the_client_was(self, living: House) -> None:
        """``connection.established`` repeats the client's cursor and says that more follows."""
        living.store(MINE)
        visitor = await join(living, "5f-0")
        (data,) = visitor.told("connection.established")
        assert data["cursor"] == "5f-0"
        assert data["resume"] == {"replaying": True}
        assert "resume" in data["features"]

    async def test_without_a_cursor_nothing_is_replayed(self, living: House) -> None:
        """The connection starts at the position of the bridge."""
        fill(living, MINE)
        visitor = await join(living)
        assert visitor.heard == ["connection.established"]
        (data,) = visitor.told("connection.established")
        assert data["cursor"] == "5f-1"
        assert data["resume"] is None

    async def test_nothing_missed_is_a_replay_of_nothing(self, living: House) -> None:
        """The client learns that it is up to date."""
        living.store(MINE)
        visitor = await join(living, "5f-1")
        assert visitor.heard == ["connection.established", "resume.completed"]
        assert completed(visitor)["replayed"] == 0

    async def test_live_durable_events_wait_and_others_do_not(self, living: House) -> None:
        """What comes in while stored events are read comes behind them; ephemeral ones at once."""
        living.store(MINE)
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        living.store(MINE)
        living.come_in(1)
        progress = living.publish(to_user("1", "upload.progress", "7"))
        assert visitor.heard == ["connection.established", progress]
        await living.let(1)
        assert visitor.stored == [1, 2]
        assert visitor.heard[-1] == "resume.completed"
        living.tick()
        assert living.hub.flush.detours == {visitor.session.outbox}
        living.tick(later=60)
        assert living.hub.flush.detours == set()

    async def test_a_client_without_patterns_goes_the_straight_way_after_a_while(
        self, living: House
    ) -> None:
        """Until then its cursors keep the place of topics that it might still subscribe to."""
        fill(living, REVIEW, MINE)
        visitor = await join(living, "5f-0")
        for later, cursor in ((0, "5f-0-3"), (60, "5f-4")):
            living.tick(later)
            living.store(MINE)
            living.come_in()
            assert visitor.messages[-1]["cursor"] == cursor

    async def test_a_user_gets_what_its_grants_permit_now(self, living: House) -> None:
        """Stored events are judged by the token that the client has now."""
        for address in (MINE, to_user("1", "file.ready", "7"), ALL):
            living.store(address)
        grants = POLICY.claimed({"subscribe": {"allow": ["upload.*"]}}, "user", "1")
        visitor = Visitor(living, replace(person(), grants=grants), cursor="5f-0")
        await living.let(1)
        assert visitor.stored == [1]

    async def test_what_is_in_the_stream_and_no_event_does_not_come(self, living: House) -> None:
        """Anybody may store anything: it is checked as if it had come in live."""
        living.stream.store("events.user.1.upload.completed.7", b"{")
        living.stream.store("events.user.1.nothing.here.7", b"{}")
        living.stream.store("events.user.1.upload.progress.7", b"{}")
        living.stream.store("events.user.1", b"{}")
        living.store(MINE)
        visitor = await join(living, "5f-0")
        assert visitor.stored == [5]


class TestSubscribe:
    """``subscribe`` with a cursor or a number of events."""

    async def test_what_the_patterns_newly_come_to_is_replayed(self, living: House) -> None:
        """After the acknowledgement, which has no cursor meanwhile; answered by its id."""
        fill(living, REVIEW, CREATED, MINE, OTHER_REVIEW)
        visitor = await join(living)
        await subscribe(visitor, "review.updated", cursor="5f-0")
        living.store(REVIEW)
        living.come_in()
        assert visitor.heard[1:] == [
            "subscription.acknowledged", "e1", "e4", "resume.completed", "e5",
        ]  # fmt: skip
        assert "cursor" not in visitor.told("subscription.acknowledged")[0]
        assert [each.get("reply_to") for each in visitor.messages if "reply_to" in each] == [
            "m",
            "m",
        ]
        assert completed(visitor)["replayed"] == 2

    async def test_a_single_resource_is_replayed_alone(self, living: House) -> None:
        """And one that the token may not see is not."""
        for address in (REVIEW, OTHER_REVIEW, REVIEW):
            living.store(address)
        visitor = await join(living)
        await subscribe(visitor, "review.updated.77", cursor="5f-0")
        assert visitor.stored == [1, 3]

    async def test_a_resource_that_is_denied_is_not_replayed(self, living: House) -> None:
        """A wide pattern leaves out what the grants leave out of it."""
        for address in (REVIEW, OTHER_REVIEW):
            living.store(address)
        claim = {"subscribe": {"allow": [">"], "deny": ["review.*.77"]}}
        grants = POLICY.claimed(claim, "user", "1")
        visitor = Visitor(living, replace(person(), grants=grants))
        await living.let()
        await subscribe(visitor, "review.*", cursor="5f-0")
        assert visitor.stored == [2]

    @pytest.mark.parametrize(("history", "came"), [(1, [6]), (3, [3, 5, 6]), (100, [1, 3, 5, 6])])
    async def test_the_last_so_many_events_come(
        self, living: House, history: int, came: list[int]
    ) -> None:
        """Those that the new patterns match, oldest first; fewer where there are fewer."""
        fill(living, REVIEW, MINE, CREATED, ALL, OTHER_REVIEW, REVIEW)
        visitor = await join(living)
        await subscribe(visitor, "review.*", history=history)
        assert visitor.stored == came
        assert completed(visitor)["replayed"] == len(came)

    @pytest.mark.parametrize("options", [{"history": 2}, {"cursor": "5f-2"}])
    @pytest.mark.parametrize("lag", [LAG - 0.01, LAG + 2])
    async def test_a_replica_that_is_behind_is_waited_for(
        self, living: House, options: dict[str, Any], lag: float
    ) -> None:
        """It has what was stored a moment ago only a little later."""
        living.stream.is_replicated, living.stream.lag = True, lag
        fill(living, REVIEW, CREATED, REVIEW, CREATED)
        visitor = await join(living)
        await subscribe(visitor, "review.*", **options)
        await living.let(lag)
        assert visitor.stored == [3, 4]
        assert completed(visitor)["recovered"]
        assert live(living, visitor)

    async def test_the_last_of_many_are_found_far_back(self, living: House) -> None:
        """However few of the stream's events match."""
        fill(living, *(REVIEW if number in (3, 5, 250) else MINE for number in range(600)))
        visitor = await join(living)
        await subscribe(visitor, "review.updated", history=2)
        assert visitor.stored == [6, 251]

    async def test_the_last_of_a_page_of_resources(self, living: House) -> None:
        """What others of the same type there are does not count."""
        own = [topic("review.updated", str(number)) for number in range(40)]
        fill(living, *own, *[OTHER_REVIEW] * 50)
        visitor = await join(living)
        await subscribe(visitor, *(f"review.updated.{number}" for number in range(40)), history=3)
        assert visitor.stored == [38, 39, 40]

    async def test_what_is_denied_is_not_among_the_last(self, living: House) -> None:
        """A resource that the token leaves out of all of its type does not count."""
        fill(living, *[REVIEW] * 3, *[OTHER_REVIEW] * 9, REVIEW)
        rules = {"subscribe": {"allow": ["review.*"], "deny": ["review.updated.78"]}}
        visitor = Visitor(living, replace(person(), grants=POLICY.claimed(rules, "user", "1")))
        await living.let(1)
        await subscribe(visitor, "review.updated", history=2)
        assert visitor.stored == [3, 13]

    async def test_the_last_of_many_patterns_are_counted_in_few_questions(
        self, living: House
    ) -> None:
        """However many patterns, and however far back."""
        living.stream.last = 20_000
        fill(living, *(topic("review.updated", str(number)) for number in range(3)))
        visitor = await join(living, direct=False)
        living.stream.reads.clear()
        names = [f"review.updated.{number}" for number in range(120)]
        await subscribe(visitor, *names, history=1000)
        assert visitor.stored == [20_001, 20_002, 20_003]
        assert len(living.stream.reads) < 200

    async def test_what_is_held_already_is_not_replayed_again(self, living: House) -> None:
        """Only what is new to the connection is read after the cursor."""
        visitor = await join(living)
        await subscribe(visitor, "review.updated")
        for address in (REVIEW, CREATED):
            living.store(address)
        living.come_in()
        assert visitor.stored == [1]
        await subscribe(visitor, "review.updated", "review.created", cursor="5f-0")
        assert visitor.stored == [1, 2]
        assert completed(visitor)["replayed"] == 1

    async def test_a_wider_pattern_does_not_double_what_a_narrow_one_had(
        self, living: House
    ) -> None:
        """Events of a resource that came live do not come again with those of all resources."""
        visitor = await join(living)
        await subscribe(visitor, "review.updated.77")
        for address in (REVIEW, OTHER_REVIEW):
            living.store(address)
        living.come_in()
        await subscribe(visitor, "review.updated", cursor="5f-0")
        assert sorted(visitor.stored) == [1, 2]

    async def test_many_patterns_are_read_as_few_subjects(self, living: House) -> None:
        """The stream is asked a bounded number of questions, and nothing else comes of it."""
        for number in range(40):
            living.store(topic("review.updated", str(number)))
        visitor = await join(living)
        living.stream.reads.clear()
        names = [f"review.updated.{number}" for number in range(0, 40, 2)]
        await subscribe(visitor, *names, cursor="5f-0")
        assert visitor.stored == list(range(1, 41, 2))
        assert len({subject for subject, _ in living.stream.reads}) <= MAX_SUBJECTS

    async def test_a_replay_that_nats_does_not_confirm_is_not_answered(self, living: House) -> None:
        """The client hears one error for its message, and live delivery goes on."""
        living.store(REVIEW)
        visitor = await join(living)
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-0")
        living.nats.now += 10
        living.interests.tick()
        await living.let(1)
        assert visitor.heard == ["connection.established", "error"]
        assert visitor.session.replay is None


class TestReconnect:
    """A client that comes back: one cursor for its connection and for all of its patterns."""

    @pytest.mark.parametrize("direct", [True, False])
    async def test_everything_comes_once_when_both_are_asked_for_at_once(
        self, living: House, direct: bool
    ) -> None:
        """``?cursor=C`` and a subscribe with the same cursor behind it, before any answer."""
        for address in (MINE, REVIEW, ALL, OTHER_REVIEW, MINE):
            living.store(address)
        visitor = Visitor(living, person(), cursor="5f-1", direct=direct)
        visitor.say("subscribe", "m", events=["review.*", "system.*"], cursor="5f-1")
        living.answer()
        visitor.peer.loop.run()
        await living.let(1)
        expected = [2, 3, 4, 5] if direct else [2, 3, 4]
        assert sorted(visitor.stored) == expected
        assert len(visitor.told("resume.completed")) == 2
        assert visitor.session.replay is None

    async def test_the_place_of_topics_is_kept_for_as_long_as_a_replay_runs(
        self, living: House
    ) -> None:
        """However long it takes a client that stalls: what it has not subscribed to yet is kept."""
        fill(living, *[REVIEW, MINE] * 200)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b'"e40"', visitor.stall)
        await living.let(1)
        living.tick(later=60)
        visitor.read()
        await living.let(2)
        cursors = [each["cursor"] for each in visitor.messages if "cursor" in each]
        assert cursors == [f"5f-0-{number}" for number in range(2, 401, 2)]

    async def test_a_cursor_tells_of_both_while_topics_are_behind(self, living: House) -> None:
        """Direct events are caught up already: whoever breaks off now goes on from both places."""
        for address in (REVIEW, MINE, REVIEW, MINE):
            living.store(address)
        visitor = await join(living, "5f-0")
        assert visitor.stored == [2, 4]
        await subscribe(visitor, "review.*", cursor="5f-0")
        cursors = {each["id"]: each["cursor"] for each in visitor.messages if "cursor" in each}
        assert cursors["e1"] == "5f-1-4"
        assert cursors["e3"] == "5f-3-4"
        assert completed_last(visitor)["cursor"] == "5f-4"
        again = Visitor(living, person(), cursor="5f-1-4")
        again.say("subscribe", events=["review.*"], cursor="5f-1-4")
        living.answer()
        again.peer.loop.run()
        await living.let(1)
        assert again.stored == [3]


class TestSeveral:
    """More than one subscribe with a cursor on one connection."""

    async def test_those_that_are_sent_together_come_in_one_order(self, living: House) -> None:
        """Whenever NATS confirms each: at any time one cursor is true of all their topics."""
        fill(living, *[CREATED, REVIEW] * 100)
        visitor = await join(living)
        for event in ("review.updated", "review.created"):
            visitor.say("subscribe", event, events=[event], cursor="5f-0")
        living.nats.process()
        living.nats.pong()
        for _ in range(50):
            await asyncio.sleep(0)
        await living.let(2)
        assert places(visitor) == list(range(1, 201))
        assert visitor.stored == list(range(1, 201))
        assert [each["replayed"] for each in visitor.told("resume.completed")] == [100, 100]

    async def test_cursors_keep_the_place_of_what_is_asked_for_later(self, living: House) -> None:
        """Events of the first go on, and whoever is cut amid them misses nothing of the second."""
        fill(living, *[REVIEW] * 200, *[CREATED] * 200)
        visitor = await join(living)
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-0")
        await first_stored(visitor)
        known = len(visitor.stored)
        assert known < 200
        visitor.say("subscribe", "n", events=["review.created"], cursor="5f-10")
        while len(visitor.stored) == known:
            await asyncio.sleep(0)
            living.turns.run()  # and NATS answers nothing
        await living.let(2)
        assert visitor.stored == list(range(1, 401))
        assert places(visitor)[known:] == [
            number if number > 200 else 10 for number in range(known + 1, 401)
        ]
        ends = [each["cursor"] for each in visitor.told("resume.completed")]
        assert ends == ["5f-10-400", "5f-400"]

    @pytest.mark.parametrize(
        ("event", "cursor"), [("review.updated", "5f-0"), ("review.created", "60-0")]
    )
    async def test_what_nothing_comes_of_holds_no_cursor_back(
        self, living: House, event: str, cursor: str
    ) -> None:
        """Asked for later too: what the connection has already, or from another stream."""
        fill(living, *[REVIEW] * 200)
        visitor = await join(living)
        visitor.say("subscribe", "m", events=["review.updated"], cursor="5f-0")
        await first_stored(visitor)
        visitor.say("subscribe", "n", events=[event], cursor=cursor)
        await living.let(2)
        assert places(visitor) == visitor.stored == list(range(1, 201))


def places(visitor: Visitor) -> list[int]:
    """Where each stored event that came says that the client is in its topics."""
    return [Cursor.parse(each["cursor"]).position for each in visitor.messages if "cursor" in each]


def completed_last(visitor: Visitor) -> dict[str, Any]:
    """The data of the last ``resume.completed`` that came."""
    data = visitor.told("resume.completed")[-1]
    ResumeData.model_validate(data)
    return data
