"""The hub and the stream's order: what is kept back, what comes twice, what is found missing."""

from __future__ import annotations

import json

import pytest

from natsbridge.bridge.delivery import hub as hub_module
from natsbridge.bridge.delivery import stream_order as order_module
from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.lost import Lost
from natsbridge.bridge.delivery.outbox import Flush, Outbox
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.events import EventData, event
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects
from tests.support.bus import envelope, everyone, to_user, topic
from tests.support.kinds import CATALOGUE
from tests.support.republished import republished
from tests.support.scripted_nats import Turns

SUBJECTS = Subjects()
REVIEW, OTHER = topic("review.updated", "77"), topic("review.updated", "78")
MINE = to_user("1", "upload.completed", "7")
PROGRESS = to_user("1", "upload.progress", "7")
NONE: frozenset[str] = frozenset()


class Kept(EventData):
    """A type that is one user's business only."""


ONE_AUDIENCE = Catalogue([event("note.kept", audiences=frozenset({Audience.USER}))(Kept)])


def _hub(catalogue: Catalogue, turns: Turns) -> Hub:
    return Hub(
        catalogue,
        Flush(turns.call_soon, max_frames=100, max_bytes=1 << 20, clock=lambda: 0.0),
        subjects=SUBJECTS,
        stream="EVENTS",
        reject=lambda *_: None,
        max_size=65_536,
    )


class Scene:
    """A hub, one client that wants reviews and its own events, and what is found missing."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.writes: list[bytes] = []
        self.hub = _hub(CATALOGUE, self.turns)
        self.hub.order.begin(b"5f", 0)
        self.missed: list[tuple[str, int, int]] = []
        self.hub.order.on_missed = lambda *found: self.missed.append(found)
        self.outbox = Outbox(self.writes.append, lambda: None)
        self.hub.topic("review.updated").add(self.outbox, "*", NONE)
        self.hub.topic("review.updated").confirmed("*")
        self.hub.hold_user("1").add(self.outbox)

    def come(self, address: Address, sequence: int, before: int = 0) -> None:
        """A stored event comes in on its subscription."""
        head = republished(SUBJECTS.event(Root.EVENTS, address), sequence, before)
        self.receive(address, f"e{sequence}", head, Root.STREAM)

    def receive(
        self, address: Address, name: str, head: bytes = b"", root: Root = Root.SERVICE
    ) -> None:
        """A message comes in as it is."""
        subject = SUBJECTS.event(root, address).encode()
        payload = json.dumps(envelope(address, id=name)).encode()
        topics = self.hub.topic
        route = self.hub.users[address.user] if address.user else topics(address.event_type)
        route.receive(subject, head, payload)
        self.turns.run()

    def deliver(self, address: Address, sequence: int) -> None:
        """An event that was read from the stream is delivered."""
        payload = json.dumps(envelope(address, id=f"e{sequence}")).encode()
        self.hub.order.pass_by(SUBJECTS.event(Root.STREAM, address).encode(), payload, sequence)
        self.turns.run()

    @property
    def came(self) -> list[str]:
        """The ids of the events that were written, in order."""
        text, found = b"".join(self.writes).decode("latin-1"), []
        while (at := text.find('"id": "')) >= 0:
            text = text[at + 7 :]
            found.append(text[: text.find('"')])
        return found


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


class TestPosition:
    """How far everything that was wanted has been offered."""

    def test_it_follows_events_and_what_the_stream_says(self, scene: Scene) -> None:
        """Whichever is further; neither goes back by the other."""
        assert scene.hub.order.position == 0
        scene.come(REVIEW, 5)
        assert scene.hub.order.position == 5
        scene.hub.order.rise(9)
        assert scene.hub.order.position == 9
        scene.hub.order.rise(7)
        scene.come(REVIEW, 8, 5)
        assert scene.hub.order.position == 9

    def test_what_said_too_much_is_taken_back(self, scene: Scene) -> None:
        """Somebody wrote a sequence into headers that the stream does not have yet."""
        scene.come(REVIEW, 99_999)
        assert scene.hub.order.position == 99_999
        scene.hub.order.fall(6)
        assert scene.hub.order.position == 6
        scene.come(OTHER, 7)
        assert scene.hub.order.position == 7

    @pytest.mark.parametrize("sequence", [100_001, 10**15, 2**64 - 1])
    def test_what_can_not_be_is_asked_for(self, scene: Scene, sequence: int) -> None:
        """An event much further on than the stream was seen to reach waits, with all behind it,
        and moves nothing: JetStream says whether the stream has come so far.
        """
        order, asked = scene.hub.order, 0

        def on_doubt() -> None:
            nonlocal asked
            asked += 1

        order.on_doubt = on_doubt
        scene.come(OTHER, 5)
        scene.come(REVIEW, sequence)
        scene.come(MINE, 6)
        assert scene.came == ["e5"]
        assert (order.position, asked, order.waiting) == (5, 1, 2)
        order.sees(6)
        assert order.refuse_beyond(6, 2) == 1
        assert order.release(0)
        scene.turns.run()
        assert scene.came == ["e5", "e6"]
        assert order.position == 6

    def test_what_can_be_after_all_comes(self, scene: Scene) -> None:
        """The stream has grown by more than was thought: nothing is lost, nor out of order."""
        order = scene.hub.order
        scene.come(REVIEW, 200_000)
        scene.come(MINE, 200_001)
        order.sees(200_001)
        assert order.refuse_beyond(200_001, 2) == 0
        assert order.release(0)
        scene.turns.run()
        assert scene.came == ["e200000", "e200001"]
        assert order.position == 200_001

    def test_another_stream_begins_anew(self, scene: Scene) -> None:
        """Cursors, position and what came before are the new stream's."""
        scene.come(REVIEW, 5)
        scene.hub.order.detain(anew=True)
        assert scene.hub.order.release(5)
        scene.hub.order.begin(b"60", 2)
        assert scene.hub.order.position == 2
        scene.come(REVIEW, 3, 1)
        assert scene.came == ["e5", "e3"]
        assert b'"cursor":"60-3"' in scene.writes[-1]
        assert scene.missed == []


def test_a_subject_that_no_event_has_holds_nothing_up(scene: Scene) -> None:
    """The stream has an event whose subject is no text: events go on."""
    subject, user = b"user.1.upload.completed.\xff", scene.hub.users["1"]
    for sequence, before in ((20, 5), (22, 21)):
        head = republished(b"events." + subject, sequence, before)
        user.receive(b"live.stream." + subject, head, b"{}")
    scene.hub.order.fall(2)
    scene.come(REVIEW, 3)
    assert scene.came == ["e3"]
    assert scene.missed == []
    assert not scene.hub.order.gate


class TestDetain:
    """Durable events that wait while the bridge reads what it missed."""

    def test_durable_events_wait_and_others_do_not(self, scene: Scene) -> None:
        """In the order in which they came in, behind what is delivered meanwhile."""
        scene.come(REVIEW, 1)
        scene.hub.order.detain(anew=True)
        assert scene.hub.order.first_detained() is None
        scene.come(REVIEW, 4, 3)
        scene.come(MINE, 5)
        scene.receive(PROGRESS, "progress")
        scene.receive(MINE, "past the stream")
        assert scene.hub.order.first_detained() == 4
        scene.deliver(REVIEW, 3)
        assert scene.came == ["e1", "progress", "past the stream", "e3"]
        assert scene.hub.order.position == 3
        assert scene.hub.order.release(3)
        scene.turns.run()
        assert scene.came[4:] == ["e4", "e5"]
        assert scene.hub.order.position == 5

    def test_what_was_read_does_not_come_again(self, scene: Scene) -> None:
        """Events up to what was delivered, whether they waited or are still on their way."""
        scene.hub.order.detain(anew=True)
        scene.come(MINE, 2, 1)
        for sequence in (1, 2, 3):
            scene.deliver(MINE, sequence)
        assert scene.hub.order.release(3)
        scene.turns.run()
        for sequence in (3, 4, 5):
            scene.come(MINE, sequence, sequence - 1)
        assert scene.came == ["e1", "e2", "e3", "e4", "e5"]

    def test_detaining_anew_forgets_what_waited(self, scene: Scene) -> None:
        """It is in the stream, and what is read from here on includes it; else it stays."""
        scene.hub.order.detain()
        scene.come(MINE, 1)
        scene.hub.order.detain()
        assert scene.hub.order.first_detained() == scene.hub.order.last_detained() == 1
        scene.hub.order.detain(anew=True)
        assert scene.hub.order.first_detained() is None
        assert scene.hub.order.release(0)
        scene.turns.run()
        assert scene.came == []

    def test_what_waited_for_another_stream_has_no_cursor_of_this_one(self, scene: Scene) -> None:
        """Its sequence says nothing about where its client is in the stream that came instead."""
        scene.hub.order.detain()
        scene.come(REVIEW, 7)
        scene.hub.order.begin(b"60", 0)
        scene.come(REVIEW, 1)
        assert scene.hub.order.first_detained() is None
        assert scene.hub.order.last_detained() == 1
        assert scene.hub.order.release(0)
        scene.turns.run()
        assert scene.came == ["e7", "e1"]
        assert b"60-7" not in b"".join(scene.writes)
        assert b'"cursor":"60-1"' in b"".join(scene.writes)

    @pytest.mark.parametrize("bound", ["messages", "bytes"])
    def test_more_than_may_wait_is_read_instead(
        self, scene: Scene, bound: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is kept then, and the release says so until there is a new beginning."""
        if bound == "messages":
            monkeypatch.setattr(order_module, "MAX_DETAINED", 3)
        else:
            monkeypatch.setattr(order_module, "MAX_DETAINED_BYTES", 1000)
        scene.hub.order.detain(anew=True)
        for sequence in range(1, 6):
            scene.come(MINE, sequence, sequence - 1)
        assert not scene.hub.order.release(2)
        assert scene.came == []
        assert scene.hub.order.first_detained() is None
        scene.hub.order.detain(anew=True)
        scene.come(MINE, 6, 5)
        assert scene.hub.order.release(5)
        scene.turns.run()
        assert scene.came == ["e6"]

    def test_what_services_send_never_waits(self, scene: Scene) -> None:
        """The stream's headers mean nothing on what did not come from the stream."""
        scene.hub.order.detain(anew=True)
        scene.receive(MINE, "forged", republished(SUBJECTS.event(Root.EVENTS, MINE), 3))
        assert scene.came == ["forged"]
        assert scene.hub.order.first_detained() is None

    def test_an_event_for_nobody_is_no_event(self, scene: Scene) -> None:
        """What was read from the stream and nobody here wants goes nowhere."""
        scene.deliver(to_user("2", "upload.completed", "7"), 3)
        scene.deliver(topic("upload.error", "7"), 4)
        scene.hub.order.pass_by(b"live.stream.what.ever", b"{}", 5)
        scene.hub.order.pass_by(b"", b"{}", 6)
        assert scene.came == []


class TestMissed:
    """An event of a subject that did not come in is found by the next one of that subject."""

    def test_a_hole_is_found_and_what_follows_waits(self, scene: Scene) -> None:
        """Exactly where the stream knows of an event in between."""
        scene.come(REVIEW, 3, 1)
        scene.come(OTHER, 5)
        scene.come(REVIEW, 9, 7)
        assert scene.missed == [("live.stream.topic.review.updated.77", 3, 7)]
        assert scene.came == ["e3", "e5"]
        assert scene.hub.order.first_detained() == 9
        scene.deliver(REVIEW, 7)
        assert scene.hub.order.release(0)
        scene.turns.run()
        assert scene.came == ["e3", "e5", "e7", "e9"]
        assert len(scene.missed) == 1

    def test_no_hole_is_no_hole(self, scene: Scene) -> None:
        """Other subjects in between, the first event of a subject, and one after another."""
        scene.come(REVIEW, 3)
        scene.come(OTHER, 5, 2)
        scene.come(MINE, 6, 4)
        scene.come(REVIEW, 7, 3)
        scene.come(REVIEW, 8, 7)
        assert scene.missed == []
        assert len(scene.came) == 5

    def test_what_nobody_wanted_then_is_not_missing(self, scene: Scene) -> None:
        """A route that was left and taken again begins anew: events in between were nobody's."""
        scene.come(MINE, 3)
        scene.hub.users["1"].receivers.pop(scene.outbox)
        scene.hub.order.rise(6)
        scene.hub.users["1"].add(scene.outbox)
        scene.come(MINE, 9, 5)
        assert scene.missed == []
        scene.come(MINE, 12, 11)
        assert scene.missed == [("live.stream.user.1.upload.completed.7", 9, 11)]

    @pytest.mark.parametrize("resource", ["*", "77"])
    def test_what_came_before_nats_had_the_subscription_is_not_missing(
        self, scene: Scene, resource: str
    ) -> None:
        """Who subscribed had it from the stream, if at all: it would come twice."""
        route = scene.hub.topic("review.updated")
        route.remove(scene.outbox, "*")
        route.add(scene.outbox, resource, NONE)
        scene.deliver(REVIEW, 5)
        scene.come(REVIEW, 9, 7)
        assert scene.missed == []
        route.confirmed(resource)
        scene.come(REVIEW, 10, 9)
        scene.come(REVIEW, 12, 11)
        assert scene.missed == [("live.stream.topic.review.updated.77", 10, 11)]

    @pytest.mark.parametrize("mine", [False, True])
    def test_what_is_read_meanwhile_does_not_make_a_hole(self, scene: Scene, mine: bool) -> None:
        """A subscription that begins while stored events are read begins behind all of them."""
        scene.hub.order.detain()
        scene.hub.order.sees(8)
        scene.deliver(OTHER, 3)
        scene.hub.hold_user("2")
        if mine:
            address = to_user("2", "upload.completed", "7")
            scene.hub.users["2"].add(scene.outbox)
        else:
            address = topic("review.created", "77")
            scene.hub.topic("review.created").add(scene.outbox, "77", NONE)
            scene.hub.topic("review.created").confirmed("77")
        scene.deliver(address, 6)
        assert scene.hub.order.release(8)
        scene.come(address, 12, 10)  # and 10 came before the subscription
        assert scene.missed == []

    def test_a_topic_that_was_held_again_begins_anew(self, scene: Scene) -> None:
        """By resource or for all of them, and only where nobody else held it meanwhile."""
        route = scene.hub.topic("review.updated")
        scene.come(REVIEW, 3)
        route.remove(scene.outbox, "*")
        scene.hub.order.rise(6)
        route.add(scene.outbox, "77", NONE)
        route.confirmed("77")
        scene.come(REVIEW, 9, 5)
        assert scene.missed == []
        route.add(scene.outbox, "*", NONE)
        route.confirmed("*")
        route.remove(scene.outbox, "77")
        scene.come(REVIEW, 12, 9)
        scene.come(REVIEW, 15, 14)
        assert scene.missed == [("live.stream.topic.review.updated.77", 12, 14)]

    @pytest.mark.parametrize("before", [2, 3])
    def test_what_came_is_not_missing(self, scene: Scene, before: int) -> None:
        """The one before it is what came last, or older than that: the event goes on."""
        scene.come(REVIEW, 3)
        scene.come(REVIEW, 9, before)
        assert scene.missed == []
        assert scene.came == ["e3", "e9"]

    def test_a_subject_whose_past_is_gone_begins_anew(self, scene: Scene) -> None:
        """Retention took what came of it: the next is its first for the stream, and the one after
        that follows it. Nothing is looked for, and nothing comes twice.
        """
        scene.come(REVIEW, 3, 1)
        for _ in range(2):
            scene.come(REVIEW, 9, 0)
            scene.come(REVIEW, 12, 9)
            assert scene.missed == []
            scene.hub.order.age()

    def test_the_subjects_that_are_remembered_are_bounded(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The newest are, at the least; for older ones a hole is not found, and nothing breaks."""
        monkeypatch.setattr(hub_module, "REMEMBERED", 3)
        for number in range(1, 20):
            scene.come(topic("review.updated", str(number)), 100 + number, number)
        scene.come(topic("review.updated", "1"), 225, 222)
        assert scene.missed == []
        scene.come(topic("review.updated", "18"), 230, 228)
        assert scene.missed == [("live.stream.topic.review.updated.18", 118, 228)]


class TestFall:
    """Sequences that were taken for true, of an event that the stream never had."""

    def test_slow_clients_hear_of_it(self, scene: Scene) -> None:
        """What they would have skipped up to, or healed from, is not past the stream's end."""
        backlog = scene.hub.flush.detour(scene.outbox, scene.hub.order.position)
        backlog.blocked = True
        scene.come(MINE, 3)
        scene.come(MINE, 999, 3)
        backlog.skip_to = backlog.lost_after = 999
        scene.hub.order.fall(3)
        assert scene.hub.order.position == 3
        assert (backlog.skip_to, backlog.kept_to, backlog.lost_after) == (3, 3, 3)


class TestRecall:
    """Stored events that are read for one client are checked like those that come in."""

    @pytest.mark.parametrize(
        ("subject", "payload", "reason"),
        [
            (b"events.topic.review.updated.77", b"{", "INVALID_EVENT"),
            (b"events.topic.review.updated.77", b"x" * 65_537, "INVALID_EVENT"),
            (b"events.topic.review.created.77", None, "INVALID_EVENT"),
            (b"events.topic.nothing.here.77", None, "UNKNOWN_EVENT"),
            (b"events.topic.review.updated", None, "INVALID_EVENT"),
            (b"events.topic.review.updated.a=2e", None, "INVALID_EVENT"),
            (b"events.topic.upload.progress.77", b"{}", "INVALID_EVENT"),
            (b"events.user.1.nothing.here.77", None, "UNKNOWN_EVENT"),
            (b"events.user.1", None, "INVALID_EVENT"),
            (b"events.topic", None, "INVALID_EVENT"),
        ],
    )
    def test_what_can_not_be_delivered_is_a_gap(
        self, scene: Scene, subject: bytes, payload: bytes | None, reason: str
    ) -> None:
        """Unknown, unreadable, too large, of another type, or ephemeral: told in its place."""
        text = json.dumps(envelope(REVIEW)).encode() if payload is None else payload
        found = scene.hub.recall(subject, text, b"5f-7", 7)
        assert found is not None
        _, kind, _, frame = found
        assert isinstance(kind, Lost)
        told = json.loads(frame[frame.index(b"{") :])
        assert told["type"] == "gap"
        data = {"from": "5f-6", "to": "5f-7", "reason": reason, "recoverable": False}
        assert told["data"].items() >= data.items()
        assert sum(scene.hub.counts.rejected.values()) == 1

    @pytest.mark.parametrize(
        "subject",
        [
            b"events.topic.review.updated.\xff",
            b"events.nobody.review.updated.77",
            b"live.stream.topic.review.updated.77",
            b"topic.review.updated.77",
            b"other",
            b"",
        ],
    )
    def test_what_is_for_nobody_is_none(self, scene: Scene, subject: bytes) -> None:
        """A subject that no event has was for no client."""
        text = json.dumps(envelope(REVIEW)).encode()
        assert scene.hub.recall(subject, text, b"5f-1", 1) is None

    @pytest.mark.parametrize(
        ("address", "audience"),
        [
            (REVIEW, Audience.TOPIC),
            (MINE, Audience.USER),
            (everyone("system.notification"), Audience.ALL),
        ],
    )
    def test_an_event_has_its_cursor(
        self, scene: Scene, address: Address, audience: Audience
    ) -> None:
        """Audience, type, resource and frame, with the cursor that was given."""
        payload = json.dumps(envelope(address)).encode()
        subject = SUBJECTS.event(Root.EVENTS, address).encode()
        found = scene.hub.recall(subject, payload, b"5f-1-9", 9)
        assert found is not None
        to, kind, resource, frame = found
        assert (to, kind.name, resource) == (audience, address.event_type, address.resource)
        assert b'"cursor":"5f-1-9"}' in frame

    @pytest.mark.parametrize("audience", ["topic", "all", "user.1"])
    def test_a_type_comes_by_its_own_audiences_only(self, audience: str) -> None:
        """Stored for another one, where anybody may store it, it goes to nobody."""
        hub = _hub(ONE_AUDIENCE, Turns())
        payload = json.dumps({**envelope(REVIEW), "type": "note.kept", "data": {}}).encode()
        found = hub.recall(f"events.{audience}.note.kept.-".encode(), payload, b"5f-1", 1)
        assert found is not None
        assert isinstance(found[1], Lost) == (audience != "user.1")
