"""The way round a slow connection: entered and left at any moment, without a change of order."""

from __future__ import annotations

import pytest

from natsbridge.bridge.delivery.outbox import Outbox
from tests.support.kinds import CONFLATED, DURABLE
from tests.support.outboxes import MAX_FRAMES, Connection, Scene


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


class TestDetour:
    """The way round: entered and left at any moment of an iteration, without a change of order."""

    def test_what_was_offered_before_it_is_written_before_it(self, scene: Scene) -> None:
        """A detour that begins in mid-iteration: what these frames were is not known any more."""
        one = Connection()
        scene.event(one, 1, b"1")
        backlog = scene.flush.detour(one.outbox)
        assert one.writes == [b"1"]
        assert scene.flush.detour(one.outbox) is backlog
        scene.event(one, 2, b"2")
        scene.turns.run()
        assert one.writes == [b"1", b"2"]

    def test_what_was_gathered_before_it_is_written_before_it(self, scene: Scene) -> None:
        """Also what a crowd was offered, which one of its members now leaves."""
        crowd = [Connection() for _ in range(3)]
        members = [each.outbox for each in crowd]
        scene.flush.gather(members, b"1")
        scene.flush.gather(members, b"2")
        scene.block(crowd[0])
        scene.flush.know(DURABLE, "7", b"3", b"3")
        scene.flush.gather(members, b"3")
        scene.flush.schedule()
        scene.turns.run()
        assert crowd[0].writes == [b"12"]
        assert [b"".join(each.writes) for each in crowd[1:]] == [b"123"] * 2
        scene.unblock(crowd[0], 3)
        assert crowd[0].writes == [b"12", b"3"]

    def test_what_a_backlog_was_offered_is_taken_as_it_was(self, scene: Scene) -> None:
        """What changes from here on holds for what is offered from here on: a replay that begins
        now, and reads what comes after it, does not hold back or leave out what was before.
        """
        one = Connection()
        scene.flush.detour(one.outbox)
        scene.event(one, 1, b"1")
        backlog = scene.flush.detour(one.outbox, 1)
        backlog.begin()
        scene.event(one, 2, b"2")
        scene.turns.run()
        assert one.writes == [b"1"]
        assert backlog.finish(1)
        assert one.writes == [b"1", b"2"]

    def test_what_did_not_fit_is_after_what_was_kept(self, scene: Scene) -> None:
        """Whatever sequence the first one that did not fit had: an older one may come late."""
        one = Connection()
        backlog = scene.flush.detour(one.outbox, 10)
        backlog.blocked = True
        for number in range(11, 11 + MAX_FRAMES):
            scene.event(one, number, b"%d" % number)
        scene.event(one, 999, b"999")
        scene.turns.run()
        assert (backlog.kept_to, backlog.lost_after) == (10 + MAX_FRAMES, 10 + MAX_FRAMES)
        backlog.fall(12)
        assert backlog.lost_after == 12

    def test_a_crowds_frames_are_looked_at_one_by_one(self, scene: Scene) -> None:
        """A member off the straight way is given each frame, so that each can be conflated."""
        crowd = [Connection() for _ in range(2)]
        scene.block(crowd[0])
        members = [each.outbox for each in crowd]
        for frame in (b"old", b"new"):
            scene.flush.know(CONFLATED, "7", b"", frame)
            scene.flush.gather(members, frame)
        scene.flush.schedule()
        scene.turns.run()
        scene.unblock(crowd[0])
        assert crowd[0].writes == [b"new"]
        assert crowd[1].writes == [b"oldnew"]
        assert scene.flush.counts == {"conflated": 1}

    def test_a_block_while_it_begins_holds(self, scene: Scene) -> None:
        """The write of what was offered before may fill the transport there and then."""
        writes: list[bytes] = []

        def write(data: bytes) -> None:
            writes.append(data)
            scene.flush.detour(outbox).blocked = True

        outbox = Outbox(write, lambda: None)
        scene.flush.offer(outbox, b"1")
        backlog = scene.flush.detour(outbox)
        assert backlog.blocked
        assert outbox.backlog is backlog
        scene.flush.offer(outbox, b"2")
        scene.turns.run()
        assert writes == [b"1"]

    def test_it_ends_in_mid_iteration_too(self, scene: Scene) -> None:
        """What was offered before the end of the way round keeps its place before what follows."""
        one = Connection()
        scene.block(one)
        scene.event(one, 1, b"1")
        scene.turns.run()
        scene.event(one, 2, b"2")
        scene.unblock(one, 2)
        scene.event(one, 3, b"3")
        scene.turns.run()
        assert b"".join(one.writes) == b"123"
        assert one.outbox.backlog is None

    @pytest.mark.parametrize(
        ("reason", "value"),
        [
            ("blocked", True),
            ("replaying", True),
            ("paces", {"upload.progress": None}),
            ("dropped", {"upload.progress": 1}),
            ("lost_after", 0),
            ("topics_at", 0),
        ],
    )
    def test_it_stays_while_there_is_a_reason(
        self, scene: Scene, reason: str, value: object
    ) -> None:
        """Any one of them keeps the backlog."""
        one = Connection()
        backlog = scene.flush.detour(one.outbox)
        setattr(backlog, reason, value)
        scene.flush.straighten(one.outbox, 100)
        assert one.outbox.backlog is backlog

    def test_it_stays_until_what_was_replayed_is_past(self, scene: Scene) -> None:
        """Events that were replayed and are still to come live would be doubles on the straight
        way; once the hub is past them, nothing is.
        """
        one = Connection()
        backlog = scene.flush.detour(one.outbox)
        backlog.begin()
        assert backlog.finish(5)
        scene.flush.straighten(one.outbox, 4)
        assert one.outbox.backlog is backlog
        scene.event(one, 5, b"5")
        scene.turns.run()
        assert one.writes == []
        scene.flush.straighten(one.outbox, 5)
        assert one.outbox.backlog is None

    def test_frames_are_known_for_one_flush(self, scene: Scene) -> None:
        """An object's address may come again: what is remembered of it goes with the flush."""
        one = Connection()
        scene.block(one)
        scene.event(one, 1, b"1")
        scene.turns.run()
        frame = b"own"
        scene.flush.know(DURABLE, "7", b"2", frame)
        scene.flush.run()
        for _ in range(MAX_FRAMES):
            scene.offer(one, frame)
        scene.turns.run()
        scene.unblock(one, 2)
        assert b"".join(one.writes) == b"1" + frame * MAX_FRAMES
