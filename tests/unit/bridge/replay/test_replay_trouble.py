"""Replay in trouble: cursors that lead nowhere, clients that stall, retention that overtakes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from natsbridge.bridge.replay.replay import TRIES
from natsbridge.bridge.sessions.states import State
from natsbridge.schemas.codes import RECONNECT
from tests.support.bus import everyone
from tests.support.coming_back import MINE, REVIEW, completed, fill, flood, join, live, when_written
from tests.support.harness import House, Visitor, person
from tests.support.scripted_peer import CLOSE


class TestCursors:
    """A cursor that is no place to go on from is told, and live delivery goes on."""

    @pytest.mark.parametrize(
        ("cursor", "reason"),
        [
            ("", "CURSOR_MALFORMED"),
            ("words", "CURSOR_MALFORMED"),
            ("5f-1-2-3", "CURSOR_MALFORMED"),
            ("5f-" + "1" * 5000, "CURSOR_MALFORMED"),
            ("60-1", "STREAM_REPLACED"),
            ("5f-3", "CURSOR_AHEAD"),
            ("5f-1-3", "CURSOR_AHEAD"),
        ],
    )
    async def test_the_reason_is_told(self, living: House, cursor: str, reason: str) -> None:
        """Nothing is replayed; the client gets a cursor that it can go on from."""
        fill(living, *[MINE] * 2)
        visitor = await join(living, cursor)
        assert visitor.stored == []
        assert completed(visitor) == {
            "recovered": False, "replayed": 0, "cursor": "5f-2", "reason": reason,
        }  # fmt: skip
        assert live(living, visitor)

    async def test_a_subscribe_is_judged_by_its_patterns(self, living: House) -> None:
        """Whatever its cursor: one of which nothing is accepted counts as refused."""
        visitor = await join(living)
        visitor.say("subscribe", "m", events=["nosuch.event"], cursor="words")
        await living.let()
        assert visitor.heard[1:] == ["subscription.acknowledged", "error", "resume.completed"]
        assert visitor.session.error_count == 1

    async def test_what_retention_took_is_named_and_the_rest_comes(self, living: House) -> None:
        """``missing`` is the range that is gone, after ``from``, up to and with ``to``."""
        fill(living, *[MINE] * 6)
        living.stream.lose(4)
        visitor = await join(living, "5f-1")
        assert visitor.stored == [5, 6]
        assert completed(visitor) == {
            "recovered": False,
            "replayed": 2,
            "cursor": "5f-1-6",
            "reason": "CURSOR_TOO_OLD",
            "missing": {"from": "5f-1", "to": "5f-4"},
        }

    async def test_a_cursor_right_before_the_oldest_event_is_not_too_old(
        self, living: House
    ) -> None:
        """Nothing after it is gone."""
        fill(living, *[MINE] * 6)
        living.stream.lose(4)
        visitor = await join(living, "5f-4")
        assert visitor.stored == [5, 6]
        assert completed(visitor)["recovered"]

    async def test_a_stream_that_is_empty_tells_what_is_gone(self, living: House) -> None:
        """All of it, and live delivery goes on behind."""
        fill(living, *[MINE] * 6)
        living.stream.lose(6)
        visitor = await join(living, "5f-2")
        assert completed(visitor)["missing"] == {"from": "5f-2", "to": "5f-6"}
        assert live(living, visitor)

    async def test_deleted_events_inside_the_range_are_told(self, living: House) -> None:
        """Somebody deleted one, or a bound for each subject took it: the rest comes."""
        fill(living, *[MINE] * 6)
        del living.stream.messages[4]
        visitor = await join(living, "5f-2")
        assert visitor.stored == [3, 5, 6]
        assert completed(visitor)["reason"] == "CURSOR_TOO_OLD"
        again = await join(living, "5f-4")
        assert completed(again)["recovered"]

    async def test_what_goes_while_it_is_read_is_told(self, living: House) -> None:
        """Retention that overtakes a replay leaves a hole, which is named."""
        fill(living, *[MINE] * 4)
        looks = 0

        def lose() -> None:
            nonlocal looks
            looks += 1
            if looks == 2:  # the first look has seen all four
                living.stream.lose(2)

        living.stream.on_read = lose
        visitor = await join(living, "5f-0")
        assert visitor.stored == [3, 4]
        assert completed(visitor)["missing"] == {"from": "5f-0", "to": "5f-2"}


class TestRetention:
    """Retention that goes on while stored events are sent: no hole is left untold."""

    @pytest.mark.parametrize("subscribes", [False, True])
    async def test_a_client_that_stalls_is_overtaken(self, living: House, subscribes: bool) -> None:
        """It had some of them, and retention passes where it is: the rest of that is named, also
        where the client asks for more meanwhile.
        """
        fill(living, *[MINE] * 400)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b'"e40"', visitor.stall)
        await living.let(2)
        last = visitor.stored[-1]
        if subscribes:
            visitor.say("subscribe", "m", events=["review.*"])
            await living.let(1)
        living.stream.lose(300)
        visitor.read()
        await living.let(3)
        assert visitor.stored == [*range(1, last + 1), *range(301, 401)]
        data = completed(visitor)
        assert (data["recovered"], data["reason"]) == (False, "CURSOR_TOO_OLD")
        assert data["missing"] == {"from": f"5f-{last}", "to": "5f-300"}

    async def test_what_goes_while_it_is_first_read_is_named(self, living: House) -> None:
        """The stream was asked how far it reaches back, and then let go of the beginning."""
        fill(living, *[MINE] * 20)
        visitor = Visitor(living, person(), cursor="5f-0")

        def lose() -> None:
            if living.stream.reads:
                living.stream.lose(10)

        living.stream.on_read = lose
        await living.let(2)
        assert visitor.stored == list(range(11, 21))
        data = completed(visitor)
        assert (data["recovered"], data["reason"]) == (False, "CURSOR_TOO_OLD")
        assert data["missing"] == {"from": "5f-0", "to": "5f-10"}

    async def test_all_that_goes_while_it_is_first_read_is_named(self, living: House) -> None:
        """What was asked for, and more that came in meanwhile than may wait."""
        fill(living, *[MINE] * 20)
        visitor = Visitor(living, person(), cursor="5f-0")

        def overtake() -> None:
            if living.stream.reads:
                living.stream.on_read = lambda: None
                for _ in range(300):
                    living.store(MINE)
                living.come_in()
                living.stream.lose(100)

        living.stream.on_read = overtake
        await living.let(3)
        assert visitor.stored == list(range(101, 321))
        assert completed(visitor)["missing"] == {"from": "5f-0", "to": "5f-20"}
        assert visitor.told("gap") == [
            {"from": "5f-20", "to": "5f-100", "reason": "RETENTION", "recoverable": False}
        ]

    async def test_who_has_everything_misses_nothing(self, living: House) -> None:
        """What came in meanwhile waits, also when the stream lets go of it and of all before."""
        fill(living, *[MINE] * 20)
        visitor = Visitor(living, person(), cursor="5f-20")

        def overtake() -> None:
            if visitor.session.replay is not None and visitor.session.replay._is_placed:
                living.stream.on_read = lambda: None
                for _ in range(5):
                    living.store(MINE)
                living.come_in()
                living.stream.lose(25)

        living.stream.on_read = overtake
        await living.let(2)
        assert visitor.stored == list(range(21, 26))
        assert completed(visitor)["recovered"]
        assert visitor.told("gap") == []

    async def test_a_hole_is_named_when_the_rest_is_given_up(self, living: House) -> None:
        """JetStream went away before it could be asked how far the hole goes."""
        fill(living, *[MINE] * 3)
        visitor = Visitor(living, person(), cursor="5f-0")
        flood(living)

        def go_away() -> None:
            living.stream.go_away()
            living.store(MINE)
            living.come_in()

        when_written(visitor, b'"e40"', lambda: living.stream.lose(200))
        when_written(visitor, b'"e303"', go_away)
        await living.let(10)
        last = max(each for each in visitor.stored if each <= 200)
        assert visitor.stored == [*range(1, last + 1), *range(201, 305)]
        assert completed(visitor)["recovered"]
        (gap,) = visitor.told("gap")
        assert gap["reason"] == "UNAVAILABLE"
        assert int(gap["from"].partition("-")[2]) <= last
        assert gap["to"] == "5f-303"

    async def test_what_goes_while_it_is_read_on_is_named(self, living: House) -> None:
        """Also when JetStream is away before that could be looked at: some has been sent by then
        that lies behind the hole.
        """
        fill(living, *[MINE] * 400)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b'"e40"', lambda: living.stream.lose(300))
        when_written(visitor, b'"e301"', lambda: setattr(living.stream, "failures", 1))
        await living.let(3)
        last = max(each for each in visitor.stored if each <= 300)
        assert visitor.stored == [*range(1, last + 1), *range(301, 401)]
        data = completed(visitor)
        assert (data["recovered"], data["reason"]) == (False, "CURSOR_TOO_OLD")
        assert int(data["missing"]["from"].partition("-")[2]) <= last
        assert data["missing"]["to"] == "5f-300"

    async def test_retention_overtakes_a_client_before_it_got_anything(self, living: House) -> None:
        """It stalled right after its place was found, and nothing had been written."""
        fill(living, *[MINE] * 400)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b"connection.established", visitor.stall)
        living.answer()
        visitor.stall()
        await living.let(2)
        assert visitor.stored == []
        living.stream.lose(300)
        visitor.read()
        await living.let(3)
        assert visitor.stored == list(range(301, 401))
        assert completed(visitor)["missing"] == {"from": "5f-0", "to": "5f-300"}

    async def test_history_does_not_hide_what_a_slow_client_lost(self, living: House) -> None:
        """What did not fit is to be made up for with the next order, and retention has taken it."""
        visitor = await join(living)
        visitor.stall()
        for _ in range(250):
            living.store(MINE)
            living.come_in()
        living.stream.lose(200)
        visitor.say("subscribe", "m", events=["review.*"], history=5)
        await living.let(1)
        visitor.read()
        await living.let(2)
        assert visitor.stored == [*range(1, 101), *range(201, 251)]
        (data,) = visitor.told("resume.completed")
        assert (data["recovered"], data["reason"]) == (False, "CURSOR_TOO_OLD")
        assert data["missing"] == {"from": "5f-100", "to": "5f-200"}

    async def test_a_subscribe_amid_a_long_replay_is_no_loss(self, living: House) -> None:
        """Where the oldest events are gone that nobody asked for, nothing is told to be missing."""
        fill(living, *[MINE] * 1000)
        living.stream.lose(100)
        visitor = Visitor(living, person(), cursor="5f-100")
        for sequence in range(101, 900, 20):
            when_written(
                visitor,
                b'"e%d"' % sequence,
                lambda: visitor.say("subscribe", events=[f"review.updated.{len(visitor.stored)}"]),
            )
        await living.let(5)
        assert visitor.stored == list(range(101, 1001))
        assert completed(visitor)["recovered"]
        assert visitor.told("gap") == []

    async def test_what_comes_behind_the_answer_is_overtaken(self, living: House) -> None:
        """More came in than may wait, and is gone before it is read: a gap names it."""
        fill(living, *[MINE] * 3)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b"resume.completed", lambda: living.stream.lose(100))
        flood(living)
        await living.let(3)
        assert visitor.stored == [1, 2, 3, *range(101, 304)]
        assert completed(visitor)["recovered"]
        assert visitor.told("gap") == [
            {"from": "5f-3", "to": "5f-100", "reason": "RETENTION", "recoverable": False}
        ]

    async def test_a_gap_is_told_once_whatever_happens_then(self, living: House) -> None:
        """The stream lets go of more each time it is read, until that is tried no more, and before
        anything is written the connection is another one.
        """
        fill(living, *[MINE] * 3)
        visitor = Visitor(living, person(), cursor="5f-0")
        tries = 0

        def overtake() -> None:
            nonlocal tries
            if living.stream.reads and tries < TRIES:
                tries += 1
                living.stream.reads.clear()
                living.stream.lose(3 + 50 * tries)
                living.stream.breaks += tries == TRIES

        def begin() -> None:
            living.stream.reads.clear()
            living.stream.on_read = overtake

        when_written(visitor, b"resume.completed", begin)
        flood(living)
        await living.let(5)
        assert living.stream.breaks == 1
        assert visitor.stored == [1, 2, 3, *range(154, 304)]
        gaps = [(each["from"], each["to"]) for each in visitor.told("gap")]
        assert gaps == [("5f-3", "5f-103"), ("5f-103", "5f-153")]  # it looks after each reading


class TestStalls:
    """Clients that don't read: a replay waits for them, and heals what did not fit."""

    async def test_what_did_not_fit_comes_from_the_stream(self, living: House) -> None:
        """What waited first, a gap that says where, the missing ones in order, and the end."""
        visitor = await join(living)
        visitor.stall()
        for _ in range(250):
            living.store(MINE)
            living.come_in()
        assert visitor.stored == []
        visitor.read()
        await living.let(1)
        assert visitor.stored == list(range(1, 251))
        assert visitor.heard[101] == "gap"
        assert visitor.told("gap") == [
            {"from": "5f-100", "to": "5f-250", "reason": "SLOW_CONSUMER", "recoverable": True}
        ]
        data = completed(visitor)
        assert (data["recovered"], data["replayed"], data["cursor"]) == (True, 150, "5f-250")
        assert live(living, visitor)
        living.tick()
        assert living.hub.flush.detours == set()

    async def test_a_replay_waits_for_a_client_that_stalls(self, living: House) -> None:
        """Nothing is written to it meanwhile, however long; then it goes on where it was."""
        fill(living, *[MINE] * 100)
        visitor = await join(living)
        visitor.stall()
        visitor.say("subscribe", "m", events=["upload.*"], cursor="5f-0")
        for _ in range(100):
            living.store(REVIEW)
        await living.let(20)
        written = visitor.peer.transport.writes
        await living.let(5)
        assert visitor.peer.transport.writes == written
        visitor.read()
        await living.let(1)
        assert len(visitor.told("resume.completed")) == 1

    async def test_a_replay_stops_where_the_client_stops_reading(self, living: House) -> None:
        """A write that fills the transport is the last one until the client reads again."""
        fill(living, *[MINE] * 200)
        visitor = Visitor(living, person(), cursor="5f-0")
        when_written(visitor, b'"e32"', visitor.stall)
        await living.let(5)
        assert visitor.stored == list(range(1, 33))
        visitor.read()
        await living.let(1)
        assert visitor.stored == list(range(1, 201))
        assert completed(visitor)["recovered"]

    async def test_more_live_events_than_may_wait_are_read_as_well(self, living: House) -> None:
        """They are in the stream: the replay goes on until what comes in meanwhile fits."""
        fill(living, MINE)
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        for _ in range(300):
            living.store(MINE)
        living.come_in()
        await living.let(1)
        assert visitor.stored == list(range(1, 302))
        assert len(visitor.told("resume.completed")) == 1
        assert live(living, visitor)

    async def test_nothing_is_left_of_a_replay_whose_client_goes(self, living: House) -> None:
        """Neither a task nor a place among those that wait."""
        fill(living, *[MINE] * 100)
        visitor = Visitor(living, person(), cursor="5f-0")
        living.answer()
        assert living.replays.waiting == 1
        visitor.session.close(RECONNECT)
        await living.let(1)
        assert living.replays.waiting == 0
        assert living.hub.flush.detours == set()
        assert visitor.session.state is State.CLOSED

    async def test_a_replay_that_does_not_hear_of_its_end_writes_nothing_more(
        self, living: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wait may lose its cancellation (Python 3.11): the close frame is the last even so."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def thinned(after: int, upto: int) -> bool:
            with contextlib.suppress(asyncio.CancelledError):
                return await asyncio.shield(answer)
            return False

        fill(living, REVIEW, REVIEW)
        visitor = await join(living)
        monkeypatch.setattr(living.stream, "thinned", thinned)
        visitor.say("subscribe", "m", events=["review.*"], cursor="5f-1")
        await living.let(1)
        living.store(REVIEW)
        living.come_in()
        visitor.session.close(RECONNECT)
        await living.let(1)
        assert visitor.peer.transport.frames[-1][0] == CLOSE
        assert living.replays.waiting == 0


def move_to_another(house: House) -> None:
    """The connection breaks and is there again, where a replica answers that is behind."""
    house.stream.on_read = lambda: None
    house.stream.lag = 1.0
    house.break_off()
    house.come_back()


class TestReplicas:
    """A stream on several servers, of which those that follow may be behind."""

    async def test_a_connection_to_another_one_is_read_anew(self, living: House) -> None:
        """It may lack what the one before had shown: the client gets that all the same."""
        living.stream.is_replicated = True
        fill(living, *[MINE] * 3)

        def move() -> None:
            if len(living.stream.reads) > 1:  # the first shows the last message
                move_to_another(living)

        living.stream.on_read = move
        visitor = await join(living, "5f-0")
        await living.let(3)
        assert visitor.stored == [1, 2, 3]
        assert completed(visitor)["recovered"]
        assert live(living, visitor)

    async def test_what_is_read_there_does_not_count(self, living: House) -> None:
        """Of two subjects one was read before, and goes further than the other does on the new
        connection: nothing of the other is passed over.
        """
        living.stream.is_replicated = True
        fill(living, MINE, everyone("system.notification"), MINE)
        answers = 0

        def move() -> None:
            nonlocal answers
            answers += len(living.stream.reads) == 3  # those of the user, and of everybody
            if answers == 2:
                move_to_another(living)

        living.stream.on_read = move
        visitor = await join(living, "5f-0")
        await living.let(3)
        assert visitor.stored == [1, 2, 3]
        assert live(living, visitor)

    async def test_a_crowd_is_not_served_what_another_one_lacked(self, living: House) -> None:
        """What many read together is read anew, too; also by those who waited in line."""
        living.stream.is_replicated = True
        fill(living, *[everyone("system.notification")] * 5)

        def move() -> None:
            if (">", 0) in living.stream.reads:
                move_to_another(living)

        living.stream.on_read = move
        visitors = [Visitor(living, person(str(user)), cursor="5f-0") for user in range(30)]
        await living.let(5)
        assert living.stream.reads.count((">", 0)) == 2
        assert [each.stored for each in visitors] == [[1, 2, 3, 4, 5]] * 30


async def test_a_stream_that_is_made_anew_while_a_replay_waits_in_line(living: House) -> None:
    """The client gets what is in the new one, also what came live before its turn."""
    fill(living, *[MINE] * 5)
    slots = [living.replays.reading.slot("others") for _ in range(16)]
    for slot in slots:
        await slot.__aenter__()
    visitor = await join(living, "5f-2")
    living.stream.replace("60")
    await living.continuity.look()
    for _ in range(3):
        living.store(MINE)
    living.come_in()
    for slot in slots:
        await slot.__aexit__(None, None, None)
    await living.let(3)
    cursors = [each["cursor"] for each in visitor.messages if each["type"] == "upload.completed"]
    assert cursors == ["60-1", "60-2", "60-3"]
    assert live(living, visitor)
