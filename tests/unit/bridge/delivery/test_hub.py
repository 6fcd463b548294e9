"""The hub: who gets which event, once, in one frame; what is refused, and why."""

from __future__ import annotations

import json

import pytest

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Flush, Outbox
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects
from tests.support import own_events
from tests.support.bus import everyone, sample, to_user, topic
from tests.support.republished import republished
from tests.support.scripted_nats import Turns

MAX_SIZE = 2000
NONE: frozenset[str] = frozenset()


def event(address: Address, **data: object) -> bytes:
    """The text of an event that is in order."""
    return json.dumps(
        {
            "type": address.event_type,
            "id": "1",
            "timestamp": "2026-01-08T10:30:00Z",
            "data": {**sample(address), **data},
        }
    ).encode()


def told(frame: bytes) -> object:
    """The reason of the ``gap`` in a frame."""
    message = json.loads(frame[frame.index(b"{") :])
    assert message["type"] == "gap"
    return message["data"]["reason"]


class Client:
    """A receiver, and the frames that were written to it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.outbox = Outbox(self.writes.append, lambda: None)


class Scene:
    """A hub under the prefix ``x``, and what it refused."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.refused: list[tuple[bytes, bytes, bytes, EventError]] = []
        self.flush = Flush(
            self.turns.call_soon, max_frames=100, max_bytes=10_000, clock=lambda: 0.0
        )
        self.hub = Hub(
            Catalogue.load([own_events.__name__]),
            self.flush,
            subjects=Subjects("x"),
            stream="EVENTS",
            reject=lambda *refused: self.refused.append(refused),
            max_size=MAX_SIZE,
        )
        self.hub.order.begin(b"5f", 0)

    def publish(
        self,
        address: Address,
        payload: bytes | None = None,
        headers: bytes = b"",
        root: Root = Root.SERVICE,
    ) -> None:
        """Let an event come in on its subject, and end the iteration."""
        route = {
            Audience.TOPIC: lambda: self.hub.topic(address.event_type),
            Audience.ALL: lambda: self.hub.everybody,
            Audience.USER: lambda: self.hub.users[address.user],
        }[address.audience]()
        subject = Subjects("x").event(root, address).encode()
        route.receive(subject, headers, event(address) if payload is None else payload)
        self.turns.run()

    @property
    def reasons(self) -> list[str]:
        return [error.reason for *_, error in self.refused]


@pytest.fixture
def scene() -> Scene:
    """A new one for each test."""
    return Scene()


UPDATED = topic("review.updated", "77")


@pytest.mark.parametrize(
    ("token", "about"),
    [("n3", "other"), ("-", "-"), ("a=2Eb", "a=2Eb"), ("a=2Eb", "a b"), ("=2D", "="), ("-", "n3")],
)
def test_an_event_about_something_else_than_its_subject_says(
    scene: Scene, token: str, about: str
) -> None:
    """It reaches nobody, live or when it is read from the stream."""
    client = Client()
    scene.hub.topic("review.updated").add(client.outbox, "*", NONE)
    address = Address(Audience.TOPIC, "review.updated", token)
    text = event(UPDATED, review_id=about)
    scene.publish(address, text)
    assert client.writes == []
    headers = republished(f"x.events.topic.review.updated.{address.resource}", 7)
    scene.publish(address, text, headers, Root.STREAM)
    assert [told(each) for each in client.writes] == ["INVALID_EVENT"]
    assert scene.reasons == [RejectReason.RESOURCE_MISMATCH] * 2
    subject = f"x.events.topic.review.updated.{token}".encode()
    found = scene.hub.recall(subject, text, b"5f-7", 7)
    assert found is not None
    assert told(found[3]) == "INVALID_EVENT"


def test_who_wants_any_resource_gets_all(scene: Scene) -> None:
    """Events of every resource come, the one of no resource too, until the wish is withdrawn."""
    client, route = Client(), scene.hub.topic("review.updated")
    route.add(client.outbox, "*", NONE)
    for resource in ("77", "78", "a.b"):
        scene.publish(topic("review.updated", resource))
    assert client.writes == [
        text_frame(event(topic("review.updated", each))) for each in ("77", "78", "a.b")
    ]
    route.remove(client.outbox, "*")
    scene.publish(UPDATED)
    assert len(client.writes) == 3


def test_who_wants_single_resources_gets_those(scene: Scene) -> None:
    """Events of other resources don't come."""
    client, route = Client(), scene.hub.topic("review.updated")
    for resource in ("77", "a=2Eb"):
        route.add(client.outbox, resource, NONE)
    for resource in ("76", "77", "a.b"):
        scene.publish(topic("review.updated", resource))
    assert len(client.writes) == 2
    route.remove(client.outbox, "77")
    scene.publish(UPDATED)
    assert len(client.writes) == 2
    assert scene.hub.counts.deliveries == 2


def test_what_is_excluded_does_not_come(scene: Scene) -> None:
    """Any resource but some: the exclusions of one are no matter of another."""
    limited, free, route = Client(), Client(), scene.hub.topic("review.updated")
    route.add(limited.outbox, "*", frozenset({"77"}))
    route.add(free.outbox, "*", NONE)
    scene.publish(UPDATED)
    scene.publish(topic("review.updated", "78"))
    assert (len(limited.writes), len(free.writes)) == (1, 2)


def test_exclusions_may_change(scene: Scene) -> None:
    """Wanting the same again with other exclusions replaces them; without any it is free."""
    client, route = Client(), scene.hub.topic("review.updated")
    for excluded, expected in (
        ({"77"}, 0),
        ({"78"}, 1),
        (set(), 2),
        ({"77"}, 2),
        ({"77", "78"}, 2),
        (set(), 3),
    ):
        route.add(client.outbox, "*", frozenset(excluded))
        scene.publish(UPDATED)
        assert len(client.writes) == expected
    route.remove(client.outbox, "*")
    route.remove(client.outbox, "*")
    assert route.guarded == 0


def test_a_user_gets_its_own_events(scene: Scene) -> None:
    """All connections of one user, and nobody else's."""
    mine, also_mine, other = Client(), Client(), Client()
    for client, user in ((mine, "1"), (also_mine, "1"), (other, "2")):
        scene.hub.hold_user(user).receivers[client.outbox] = None
    scene.publish(to_user("1", "upload.progress", "7"))
    assert [len(each.writes) for each in (mine, also_mine, other)] == [1, 1, 0]
    scene.hub.release_user("1")
    assert "1" in scene.hub.users
    scene.hub.release_user("1")
    assert "1" not in scene.hub.users


def test_everybody_gets_what_is_for_all(scene: Scene) -> None:
    """Each connection that is among the receivers."""
    clients = [Client() for _ in range(3)]
    for client in clients:
        scene.hub.everybody.receivers[client.outbox] = None
    scene.publish(everyone("system.maintenance"))
    assert [len(each.writes) for each in clients] == [1, 1, 1]


def test_grants_are_asked_for_each_direct_event(scene: Scene) -> None:
    """``permits`` gets type and resource token, and decides for its own connection only."""
    guarded, free = Client(), Client()
    asked: list[tuple[str, str]] = []

    def permits(event_type: str, resource: str) -> bool:
        asked.append((event_type, resource))
        return resource == "a=2Eb"

    guarded.outbox.permits = permits
    route = scene.hub.hold_user("1")
    for client in (guarded, free):
        route.receivers[client.outbox] = None
    for resource in ("a.b", "c"):
        scene.publish(to_user("1", "upload.progress", resource))
    assert asked == [("upload.progress", "a=2Eb"), ("upload.progress", "c")]
    assert (len(guarded.writes), len(free.writes)) == (1, 2)
    assert scene.hub.counts.deliveries == 3


def test_all_receivers_share_one_frame(scene: Scene) -> None:
    """An event is encoded once: every receiver is written the same bytes object."""
    clients = [Client() for _ in range(5)]
    route = scene.hub.topic("review.updated")
    for client in clients[:3]:
        route.add(client.outbox, "*", NONE)
    for client in clients[3:]:
        route.add(client.outbox, "77", NONE)
    scene.publish(UPDATED)
    assert len({id(each.writes[0]) for each in clients}) == 1


def test_a_burst_is_one_write_each_in_order(scene: Scene) -> None:
    """Events of several routes in one iteration: one write a connection, in order of arrival."""
    client = Client()
    scene.hub.topic("review.updated").add(client.outbox, "*", NONE)
    scene.hub.hold_user("1").receivers[client.outbox] = None
    scene.hub.everybody.receivers[client.outbox] = None
    addresses = (UPDATED, to_user("1", "upload.progress", "7"), everyone("system.notification"))
    turns, scene.turns = scene.turns, Turns()
    for address in addresses * 2:
        scene.publish(address)
    turns.run()
    assert client.writes == [b"".join(text_frame(event(each)) for each in addresses * 2)]
    assert scene.hub.counts.events == 6


def test_nothing_is_checked_for_nobody(scene: Scene) -> None:
    """An event that lingers in without a receiver costs nothing, whatever it holds."""
    scene.hub.topic("review.updated").add(Client().outbox, "78", NONE)
    scene.publish(UPDATED, b"not json")
    scene.publish(everyone("system.maintenance"), b"not json")
    assert scene.refused == []
    assert scene.hub.counts.events == 0


@pytest.mark.parametrize(
    ("tail", "payload", "reason"),
    [
        (b"review.updated.77", b"{", RejectReason.INVALID_JSON),
        (b"review.updated.77", b"[]", RejectReason.INVALID_ENVELOPE),
        (b"review.updated.77", event(topic("review.deleted", "7")), RejectReason.TYPE_MISMATCH),
        (b"review.updated.77", event(UPDATED, changes=5), RejectReason.INVALID_DATA),
        (b"review.updated.77", event(UPDATED) + b" " * MAX_SIZE, RejectReason.TOO_LARGE),
        (b"nothing.here.77", event(UPDATED), RejectReason.UNKNOWN_EVENT),
        (b"Review.updated.77", event(UPDATED), RejectReason.UNKNOWN_EVENT),
        (b"invoice.draft.-", event(topic("invoice.draft")), RejectReason.AUDIENCE_NOT_ALLOWED),
        (b"review.updated.77.more", event(UPDATED), RejectReason.MALFORMED_SUBJECT),
        (b"review.updated", event(UPDATED), RejectReason.MALFORMED_SUBJECT),
        (b"review", event(UPDATED), RejectReason.MALFORMED_SUBJECT),
        (b"review.updated.a=2e", event(UPDATED), RejectReason.MALFORMED_SUBJECT),
        (b"review.updated.a\xff", event(UPDATED), RejectReason.MALFORMED_SUBJECT),
        (b"review.updated." + b"x" * 129, event(UPDATED), RejectReason.MALFORMED_SUBJECT),
    ],
)
def test_what_is_wrong_reaches_nobody_and_is_told(
    scene: Scene, tail: bytes, payload: bytes, reason: RejectReason
) -> None:
    """The event is refused once, counted by its reason, with its subject and payload at hand."""
    client = Client()
    scene.hub.everybody.receivers[client.outbox] = None
    subject = b"x.live.service.all." + tail
    scene.hub.everybody.receive(subject, b"", payload)
    scene.turns.run()
    assert client.writes == []
    assert scene.reasons == [reason]
    assert scene.refused[0][:3] == (subject, b"", payload)
    assert scene.hub.counts.rejected == {reason: 1}
    assert scene.hub.counts.events == 0


STORED = "x.events.topic.review.updated.77"


def test_a_refused_event_is_told_under_its_own_subject(scene: Scene) -> None:
    """What came through the stream as well: the subject says who has republished it."""
    scene.hub.topic("review.updated").add(Client().outbox, "*", NONE)
    scene.publish(UPDATED, b"{", republished(STORED, 7), Root.STREAM)
    assert scene.refused[0][0] == b"x.live.stream.topic.review.updated.77"
    assert scene.reasons == [RejectReason.INVALID_JSON]


def test_what_bridges_say_to_each_other_is_no_event(scene: Scene) -> None:
    """It comes on the same subscription, and neither reaches a client nor counts as refused; nor
    does what stands below no root at all.
    """
    client = Client()
    scene.hub.hold_user("1").add(client.outbox)
    for subject in (
        b"x.live.bridge.user.1.hello",
        b"x.live.bridge.user.1.upload.completed.7",
        b"x.live.other.user.1.upload.completed.7",
        b"x.live.services.user.1.upload.completed.7",
        b"y.live.service.user.1.upload.completed.7",
    ):
        scene.hub.users["1"].receive(subject, b"", event(to_user("1", "upload.completed", "7")))
    scene.turns.run()
    assert client.writes == []
    assert scene.hub.counts.rejected == {}
    assert scene.hub.counts.events == 0


class TestLost:
    """What the stream has and no client can have is told to those whom it was for."""

    @pytest.mark.parametrize("subject", ["user.1.nothing.here.77", "all.nothing.here.77"])
    def test_a_type_that_is_not_known(self, scene: Scene, subject: str) -> None:
        """To the connections of its user, or to all, that may have such a type; with its place."""
        free, guarded, denied = Client(), Client(), Client()
        guarded.outbox.permits = lambda name, resource: (name, resource) == ("nothing.here", "77")
        denied.outbox.permits = lambda name, resource: False
        route = scene.hub.hold_user("1") if subject.startswith("user") else scene.hub.everybody
        for client in (free, guarded, denied):
            route.receivers[client.outbox] = None
        headers = republished(f"x.events.{subject}", 7)
        route.receive(f"x.live.stream.{subject}".encode(), headers, b"{}")
        scene.turns.run()
        assert denied.writes == []
        for client in (free, guarded):
            (frame,) = client.writes
            message = json.loads(frame[frame.index(b"{") :])
            data = {"from": "5f-6", "to": "5f-7", "reason": "UNKNOWN_EVENT", "recoverable": False}
            assert message["data"].items() >= data.items()
        assert scene.hub.counts.rejected == {RejectReason.UNKNOWN_EVENT: 1}
        assert "BRIDGE_CATALOGUE" in scene.refused[0][3].detail
        assert scene.hub.order.position == 7

    @pytest.mark.parametrize("payload", [b"{", b"x" * (MAX_SIZE + 1)])
    def test_what_is_not_valid(self, scene: Scene, payload: bytes) -> None:
        """To those of a topic too; what a service sends past the stream is refused without."""
        client = Client()
        scene.hub.topic("review.updated").add(client.outbox, "77", NONE)
        scene.publish(UPDATED, payload)
        assert client.writes == []
        scene.publish(UPDATED, payload, republished(STORED, 7), Root.STREAM)
        assert [told(each) for each in client.writes] == ["INVALID_EVENT"]


def block(*lines: str) -> bytes:
    """A header block of these lines."""
    return "".join(f"{line}\r\n" for line in ("NATS/1.0", *lines, "")).encode()


OWN = ("Nats-Stream: EVENTS", f"Nats-Subject: {STORED}", "Nats-Sequence: 7")
TIME = "Nats-Time-Stamp: 2026-01-08T10:30:00.123456789Z"
LAST = "Nats-Last-Sequence: 3"


class TestCursor:
    """The cursor: the stream's identity and sequence, on what the stream republishes."""

    def come(
        self, scene: Scene, headers: bytes, root: Root, address: Address = UPDATED
    ) -> list[bytes]:
        """Let an event come in; return what was written of it."""
        client = Client()
        scene.hub.topic(address.event_type).add(client.outbox, "*", NONE)
        scene.publish(address, None, headers, root)
        return client.writes

    def cursor(self, scene: Scene, headers: bytes, root: Root = Root.STREAM) -> object:
        """Return the cursor of an event that came as it should."""
        (frame,) = self.come(scene, headers, root)
        told: dict[str, object] = json.loads(frame[frame.index(b"{") :])
        assert {**told, "cursor": None} == {**json.loads(event(UPDATED)), "cursor": None}
        return told.get("cursor")

    def test_a_stored_event_has_one(self, scene: Scene) -> None:
        """Identity and sequence of the stream, as the last field."""
        assert self.cursor(scene, republished(STORED, 7)) == "5f-7"

    @pytest.mark.parametrize(
        "headers",
        [
            republished(STORED, 7, own=b""),
            # Of what stands there twice the last counts: the server appends.
            republished(STORED, 7, own=block(*OWN, TIME, LAST)[10:-2].replace(b" 7", b" 99")),
            republished(STORED, 7, own=b"Nats-Stream: OTHER\r\nNats-Sequence: 99\r\n"),
            republished(STORED, 7, own=b"Nats-Num-Pending: 3\r\nnats-sequence: 99\r\n"),
            # Another version of the server may write more, or in another order.
            block(*OWN, LAST),
            block(*OWN, LAST, TIME),
            block(*OWN, TIME, "Nats-New: 1", LAST, "Nats-Newer: 2"),
            block(OWN[0], OWN[2], LAST, OWN[1]),
            block(*OWN[:2], "Nats-Sequence: 99", OWN[2], TIME, LAST),
        ],
    )
    def test_it_is_what_the_server_wrote(self, scene: Scene, headers: bytes) -> None:
        """Whatever the publisher wrote before it."""
        assert self.cursor(scene, headers) == "5f-7"

    @pytest.mark.parametrize(
        "headers",
        [
            b"",
            block("Nats-Msg-Id: 1"),
            block(*OWN[1:], TIME, LAST),
            republished(STORED, 7, stream="OTHER"),
            republished(STORED, 7, stream="EVENTS2"),
            republished(STORED, 7, stream="events"),
            republished(STORED, 7).replace(b"Nats-Stream", b"nats-stream"),
            republished(STORED, 7)[:-2] + b"Nats-Stream: OTHER\r\n\r\n",
            republished("x.events.topic.review.updated.78", 7),
            republished("x.events.topic.review.updated.7", 7),
            republished("x.events.topic.review.updated.777", 7),
            republished("x.live.stream.topic.review.updated.77", 7),
            republished("events.topic.review.updated.77", 7),
            *(republished(STORED, each) for each in ("", "x", "-1", "7 8", "\u0663", "9" * 30)),
            *(republished(STORED, each) for each in ('7","type":"upload.error', "+7", "1_0")),
            *(republished(STORED, 7, each) for each in ("", "x", "-1", "7 8", "\u0663")),
            # What Direct Get answers, alone and in a batch.
            block(*OWN, TIME),
            block(*OWN, TIME, "Nats-Num-Pending: 1", LAST),
            block(LAST, *OWN, TIME),
            # Lines that begin where they would if there were a stream's name before them.
            b"\r\nNats-Sequence: 7\r\n".join([b"N" * 41 + STORED[9:].encode(), b"\r\n"]),
        ],
    )
    def test_what_the_stream_has_not_republished_is_no_event(
        self, scene: Scene, headers: bytes
    ) -> None:
        """On the stream's own subjects: refused with a reason, and no position moves by it."""
        assert self.come(scene, headers, Root.STREAM) == []
        assert scene.reasons == [RejectReason.NOT_FROM_STREAM]
        assert scene.hub.counts.rejected == {RejectReason.NOT_FROM_STREAM: 1}
        assert scene.hub.order.position == 0
        assert scene.hub.order.last == {}

    def test_what_a_service_sends_has_none(self, scene: Scene) -> None:
        """Whatever it wrote into its headers: they mean nothing there, and no position moves."""
        headers = republished("x.events.topic.review.updated.77", 7)
        assert self.cursor(scene, headers, Root.SERVICE) is None
        assert scene.hub.order.position == 0

    def test_an_ephemeral_type_is_not_in_the_stream(self, scene: Scene) -> None:
        """Where it comes from there all the same, it is no event that clients were promised."""
        address = topic("upload.progress", "7")
        headers = republished("x.events.topic.upload.progress.7", 7)
        assert [told(each) for each in self.come(scene, headers, Root.STREAM, address)] == [
            "INVALID_EVENT"
        ]
        assert scene.reasons == [RejectReason.NOT_DURABLE]

    def test_without_a_known_stream_there_is_none(self, scene: Scene) -> None:
        """A sequence without the stream's identity would be no place to go on from."""
        scene.hub.order.identity = b""
        assert self.cursor(scene, republished(STORED, 7)) is None
