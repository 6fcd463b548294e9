"""Off the straight way and back: paces that clients ask for, stalls, and what outlasts neither."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from natsbridge.bridge.sessions.session import ENOUGH
from tests.support.bus import envelope, to_user, topic
from tests.support.harness import House, Visitor, person
from tests.support.republished import republished

REVIEW = topic("review.updated", "77")
MINE = to_user("1", "upload.completed", "7")


def progress(resource: str = "7") -> Any:
    """The address of an event that conflates."""
    return to_user("1", "upload.progress", resource)


async def paced(house: House, max_rate: float | None) -> Visitor:
    """Connect, and ask for a pace of progress events."""
    visitor = Visitor(house, person())
    await house.let()
    ask(visitor, max_rate)
    await house.let()
    return visitor


def ask(visitor: Visitor, max_rate: float | None) -> None:
    """Ask for another pace, or for none."""
    pace = None if max_rate is None else {"max_rate": max_rate}
    visitor.say("subscribe", events=[], policy={"upload.progress": pace})


class TestStall:
    """How long a client may not be written to."""

    async def test_who_takes_something_stays(self, living: House) -> None:
        """As much as it has to within each such time; then it may as long again."""
        visitor = Visitor(living, person())
        await living.let()
        visitor.peer.transport.unsent = 5 * ENOUGH
        visitor.stall()
        for left in (4, 3, 1):
            visitor.peer.transport.unsent = left * ENOUGH
            assert visitor.session.has_taken(living.env.clock())
            assert visitor.session.stalled_since == living.env.clock()
            assert visitor.session.last_seen == living.env.clock()
            await living.let(1)
        assert visitor.peer.closes == []

    async def test_who_takes_next_to_nothing_does_not_stay(self, living: House) -> None:
        """A byte now and then does not hold a backlog for ever; nor does one that is not behind."""
        visitor = Visitor(living, person())
        await living.let()
        visitor.peer.transport.unsent = 5 * ENOUGH
        visitor.stall()
        visitor.peer.transport.unsent -= ENOUGH - 1
        assert not visitor.session.has_taken(living.env.clock())
        visitor.read()
        assert not visitor.session.has_taken(living.env.clock())


class TestPacer:
    """The timer of a pace."""

    async def test_an_event_between_the_timer_and_what_it_does(self, living: House) -> None:
        """However often one comes right there, there is one timer."""
        visitor = await paced(living, 5)
        living.publish(progress())
        living.publish(progress())
        pacer = visitor.session.pacer
        assert pacer is not None
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        for number in range(20):
            assert pacer._timer is not None
            pacer._timer.cancel()
            pacer._due()
            living.publish(progress(str(number)))
            assert pacer._timer is None
            await asyncio.sleep(0)
            assert pacer._waking is None
            assert sum(not each.cancelled() for each in timers) <= 1
        pacer.stop()
        assert all(each.cancelled() for each in timers)


class TestPolicy:
    """At most so many a second of a type, the newest of each resource."""

    async def test_the_newest_comes_when_it_may(self, living: House) -> None:
        """One at once, then one each 200 ms, the newest of those that came meanwhile."""
        visitor = await paced(living, 5)
        assert visitor.told("subscription.acknowledged")[0]["policy"]["refused"] == {}
        events = []
        for _ in range(10):
            events.append(living.publish(progress()))
            await living.let(0.05)
        await living.let(1)
        came = visitor.heard[2:]
        assert came[0] == events[0]
        assert came[-1] == events[-1]
        assert 3 <= len(came) <= 4
        assert came == sorted(came)

    async def test_each_resource_keeps_its_newest(self, living: House) -> None:
        """None is forgotten for the sake of another."""
        visitor = await paced(living, 10)
        newest = {}
        for number in range(20):
            newest[number % 4] = living.publish(progress(str(number % 4)))
        await living.let(1)
        assert set(newest.values()) <= set(visitor.heard)
        assert len(visitor.heard) == 2 + 5

    async def test_other_types_are_not_held_up(self, living: House) -> None:
        """Neither another ephemeral type, nor a durable one, nor an answer."""
        visitor = await paced(living, 0.1)
        living.publish(progress())
        living.publish(progress())
        other = living.publish(to_user("1", "file.processing", "7"))
        living.store(MINE)
        living.come_in()
        visitor.say("ping")
        assert visitor.heard[3:] == [other, "e1", "pong"]

    async def test_other_connections_are_not_held_up(self, living: House) -> None:
        """A pace is one connection's alone."""
        await paced(living, 0.1)
        other = Visitor(living, person())
        await living.let()
        events = [living.publish(progress()) for _ in range(5)]
        assert other.heard[1:] == events

    async def test_a_pace_taken_back_lets_all_that_waits_come(self, living: House) -> None:
        """At once, and the connection goes the straight way again."""
        visitor = await paced(living, 0.1)
        events = [living.publish(progress(str(number))) for number in range(3)]
        ask(visitor, None)
        await living.let()
        assert [each for each in visitor.heard if each in events] == events
        living.tick()
        assert living.hub.flush.detours == set()
        assert living.publish(progress()) in visitor.heard

    async def test_a_pace_asked_for_again_is_kept_again(self, living: House) -> None:
        """What waits for it comes, as it did the first time."""
        visitor = await paced(living, 5)
        ask(visitor, None)
        await living.let()
        living.tick()
        ask(visitor, 5)
        await living.let()
        events = [living.publish(progress()) for _ in range(3)]
        await living.let(1)
        assert [each for each in visitor.heard if each in events] == [events[0], events[2]]

    async def test_it_holds_for_a_client_that_stalls_too(self, living: House) -> None:
        """What the pace lets through meanwhile is conflated, and the newest comes."""
        visitor = await paced(living, 5)
        visitor.stall()
        events = []
        for _ in range(5):
            events.append(living.publish(progress()))
            await living.let(0.3)
        visitor.read()
        await living.let(1)
        assert visitor.heard[2:] == [events[-1]]

    async def test_a_faster_pace_does_not_wait_for_a_slower_one(self, living: House) -> None:
        """Of another type, or of the same one that was slower before."""
        visitor = await paced(living, 0.01)
        visitor.say("subscribe", events=[], policy={"file.processing": {"max_rate": 5}})
        await living.let()
        for _ in range(2):
            living.publish(progress())
        others = [living.publish(to_user("1", "file.processing", "8")) for _ in range(2)]
        await living.let(1)
        assert others[1] in visitor.heard
        ask(visitor, 10)
        await living.let()
        events = [living.publish(progress()) for _ in range(2)]
        await living.let(1)
        assert events[1] in visitor.heard

    async def test_what_waits_for_it_is_bounded_in_bytes(self, living: House) -> None:
        """The oldest go and are told, as those of a client that stalls are."""
        visitor = await paced(living, 0.1)
        for number in range(60):
            data = {"upload_id": str(number), "progress": 1, "pad": "x" * 60_000}
            living.publish(progress(str(number)), data)
        await living.let(15)
        (gap,) = visitor.told("gap")
        assert gap["reason"] == "SLOW_CONSUMER"
        assert 59 - (1 << 20) // 60_000 <= gap["dropped"]["upload.progress"] < 59

    async def test_nothing_comes_of_a_pattern_that_was_given_back(self, living: House) -> None:
        """What waits for its pace goes with it, and is told."""
        visitor = await paced(living, 1)
        visitor.say("subscribe", events=["upload.progress.7"])
        await living.let()
        events = [living.publish(topic("upload.progress", "7")) for _ in range(2)]
        visitor.say("unsubscribe", "u", events=["upload.progress.7"])
        await living.let(3)
        assert events[0] in visitor.heard
        assert events[1] not in visitor.heard
        (gap,) = visitor.told("gap")
        assert gap["dropped"] == {"upload.progress": 1}

    async def test_an_event_is_not_lost_to_a_replay_that_begins(self, living: House) -> None:
        """It came in the same turn of the loop, before the client asked for stored ones."""
        visitor = await paced(living, 5)
        living.store(MINE)
        living.nats.deliver()  # and the turn goes on
        visitor.say("subscribe", "s", events=["review.updated"], cursor="5f-0")
        await living.let(1)
        assert visitor.stored == [1]

    async def test_nothing_is_left_of_a_client_that_goes(self, living: House) -> None:
        """No timer writes to a connection that is over."""
        visitor = await paced(living, 5)
        for _ in range(3):
            living.publish(progress())
        writes = visitor.peer.transport.writes
        visitor.peer.lose()
        await living.let(1)
        assert visitor.peer.transport.writes == writes
        assert living.hub.flush.detours == set()


class TestReplacedStream:
    """Sequences begin anew: nothing that was said of the old ones holds for the new ones."""

    async def test_a_client_with_a_pace_gets_the_new_streams_events(self, living: House) -> None:
        """Also where it was once replayed more than the new stream has."""
        for _ in range(20):
            living.store(MINE)
        living.catch_up()
        visitor = Visitor(living, person(), cursor="5f-0")
        await living.let(1)
        ask(visitor, 5)
        await living.let()
        living.stream.replace("60")
        await living.continuity.look()
        living.turns.run()
        living.store(MINE)
        living.come_in()
        (gap,) = visitor.told("gap")
        assert gap["reason"] == "STREAM_REPLACED"
        assert [each["cursor"] for each in visitor.messages if "cursor" in each][-1] == "60-1"

    async def test_a_client_that_stalls_gets_what_is_left(self, living: House) -> None:
        """What did not fit of the old stream can't be made up for; what is new comes."""
        visitor = Visitor(living, person())
        await living.let()
        visitor.stall()
        for _ in range(150):
            living.store(MINE)
            living.come_in()
        living.stream.replace("60")
        await living.continuity.look()
        for _ in range(3):
            living.store(MINE)
            living.come_in()
        visitor.read()
        await living.let(1)
        living.store(MINE)
        living.come_in()
        cursors = [each["cursor"] for each in visitor.messages if "cursor" in each]
        assert cursors[:100] == [f"5f-{number}" for number in range(1, 101)]
        assert cursors[100:] == [f"60-{number}" for number in range(1, 5)]


class TestForged:
    """Somebody can write to where the stream republishes, with its headers."""

    async def test_a_sequence_that_is_none_costs_a_slow_client_nothing(self, living: House) -> None:
        """It does not fit, and what comes behind it is made up for, all the same."""
        visitor = Visitor(living, person())
        await living.let()
        visitor.stall()
        for _ in range(100):
            living.store(MINE)
        living.come_in()
        subject = "user.1.upload.completed.7"
        headers = republished(f"events.{subject}", 999_999_999, 100)
        payload = json.dumps(envelope(MINE)).encode()
        living.nats.publish(f"live.stream.{subject}", payload, headers)
        living.come_in()
        for _ in range(50):
            living.store(MINE)
        living.come_in()
        living.continuity.tick()
        await living.let(1)
        visitor.read()
        await living.let(1)
        assert visitor.stored == list(range(1, 151))


class TestRange:
    """``gap`` and where the session stands."""

    async def test_an_acknowledgement_has_no_cursor_while_something_is_missing(
        self, living: House
    ) -> None:
        """A client that came back with it would not get what it lacks."""
        visitor = Visitor(living, person())
        await living.let()
        visitor.stall()
        for _ in range(150):
            living.store(MINE)
            living.come_in()
        visitor.say("subscribe", events=["review.updated"])
        visitor.read()
        await living.let(1)
        (data,) = visitor.told("subscription.acknowledged")
        assert "cursor" not in data
        visitor.say("subscribe", events=["review.created"])
        await living.let()
        assert visitor.told("subscription.acknowledged")[1]["cursor"] == "5f-150"

    async def test_a_gap_that_can_not_be_healed_is_told_to_all(self, living: House) -> None:
        """Behind what was written before it, with the cursors of its ends."""
        visitors = [Visitor(living, person()) for _ in range(2)]
        await living.let()
        for visitor in visitors:
            visitor.session.tell_gap(3, None, _reason("RETENTION"))
        living.turns.run()
        for visitor in visitors:
            assert visitor.told("gap") == [
                {"from": "5f-3", "to": None, "reason": "RETENTION", "recoverable": False}
            ]
            assert json.dumps(visitor.messages[-1]["data"])


def _reason(name: str) -> Any:
    from natsbridge.schemas.codes import GapReason

    return GapReason(name)
