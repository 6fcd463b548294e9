"""The hub: who gets which event, once, in one frame; what is refused, and why."""

from __future__ import annotations

import json

import pytest

from bridge.delivery.frames import text_frame
from bridge.delivery.hub import Hub
from bridge.delivery.outbox import Flush, Outbox
from schemas.catalogue import Catalogue
from schemas.codes import RejectReason
from schemas.errors import EventError
from schemas.subjects import Address, Audience
from tests.support import own_events
from tests.support.bus import everyone, sample, to_user, topic
from tests.support.scripted_nats import Turns

MAX_SIZE = 2000
STREAM = b"Nats-Stream: EVENTS\r\n"
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


def stored(sequence: str = "7", stream: bytes = STREAM, subject: str = "x.events.a") -> bytes:
    """The headers of a message that the stream has republished."""
    text = f"Nats-Subject: {subject}\r\nNats-Sequence: {sequence}\r\nNats-Last-Sequence: 3\r\n\r\n"
    return b"NATS/1.0\r\nNats-Msg-Id: 1\r\n" + stream + text.encode()


class Client:
    """A receiver, and the frames that were written to it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.outbox = Outbox(self.writes.append, lambda: None)


class Scene:
    """A hub under the prefix ``x``, and what it refused."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.refused: list[tuple[bytes, bytes, EventError]] = []
        self.flush = Flush(
            self.turns.call_soon, max_frames=100, max_bytes=10_000, clock=lambda: 0.0
        )
        self.hub = Hub(
            Catalogue.load([own_events.__name__]),
            self.flush,
            live_root="x.live",
            events_root="x.events",
            stream_header=STREAM,
            reject=lambda *refused: self.refused.append(refused),
            max_size=MAX_SIZE,
        )
        self.hub.order.begin(b"5f", 0)

    def publish(self, address: Address, payload: bytes | None = None, headers: bytes = b"") -> None:
        """Let an event come in on its subject, and end the iteration."""
        route = {
            Audience.TOPIC: lambda: self.hub.topic(address.event_type),
            Audience.ALL: lambda: self.hub.everybody,
            Audience.USER: lambda: self.hub.users[address.user],
        }[address.audience]()
        user = f"{address.user}." if address.audience is Audience.USER else ""
        tail = f"{address.audience}.{user}{address.event_type}.{address.resource}"
        subject = f"x.live.{tail}".encode()
        route.receive(subject, headers, event(address) if payload is None else payload)
        self.turns.run()

    @property
    def reasons(self) -> list[str]:
        return [error.reason for _, _, error in self.refused]


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
    scene.publish(address, text, stored(subject=f"x.events.topic.review.updated.{token}"))
    assert client.writes == []
    assert scene.reasons == [RejectReason.RESOURCE_MISMATCH] * 2
    subject = f"x.events.topic.review.updated.{token}".encode()
    assert scene.hub.recall(subject, text, b"5f-7") is None


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
    subject = b"x.live.all." + tail
    scene.hub.everybody.receive(subject, b"", payload)
    scene.turns.run()
    assert client.writes == []
    assert scene.reasons == [reason]
    assert scene.refused[0][:2] == (subject, payload)
    assert scene.hub.counts.rejected == {reason: 1}
    assert scene.hub.counts.events == 0


def test_a_refused_event_is_told_under_the_subject_of_its_owner(scene: Scene) -> None:
    """What came through the stream is told under the subject that it was published to."""
    scene.hub.topic("review.updated").add(Client().outbox, "*", NONE)
    original = "x.events.topic.review.updated.77"
    scene.publish(UPDATED, b"{", stored(subject=original))
    assert scene.refused[0][0] == original.encode()


@pytest.mark.parametrize(
    "forged",
    ["a b c", "x.events.topic.review.updated.7 7", "", "y.other", "x.events.>", "x.events.*"],
)
def test_a_forged_origin_is_no_subject_to_publish_to(scene: Scene, forged: str) -> None:
    """Anybody may write the stream's headers: a word that is no event's subject is not used."""
    scene.hub.topic("review.updated").add(Client().outbox, "*", NONE)
    scene.publish(UPDATED, b"{", stored(subject=forged))
    assert scene.refused[0][0] == b"x.live.topic.review.updated.77"


class TestCursor:
    """The cursor: the stream's identity and sequence, on durable events that it has stored."""

    def delivered(
        self, scene: Scene, headers: bytes, address: Address = UPDATED
    ) -> dict[str, object]:
        client = Client()
        scene.hub.topic(address.event_type).add(client.outbox, "*", NONE)
        scene.publish(address, None, headers)
        frame = client.writes[0]
        told: dict[str, object] = json.loads(frame[frame.index(b"{") :])
        assert {**told, "cursor": None} == {**json.loads(event(address)), "cursor": None}
        return told

    def test_a_stored_event_has_one(self, scene: Scene) -> None:
        """Identity and sequence of the stream, as the last field."""
        assert self.delivered(scene, stored("7"))["cursor"] == "5f-7"

    @pytest.mark.parametrize(
        "headers",
        [
            b"",
            b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n",
            stored(stream=b""),
            stored(stream=b"Nats-Stream: OTHER\r\n"),
            stored(stream=b"Nats-Stream: EVENTS2\r\n"),
            stored(""),
            stored("x"),
            stored("-1"),
            stored('7","type":"upload.error'),
            stored("7 8"),
            stored("9" * 30),
        ],
    )
    def test_any_other_headers_make_none(self, scene: Scene, headers: bytes) -> None:
        """Another stream, none, or a sequence that is no number: the event comes as it was."""
        assert "cursor" not in self.delivered(scene, headers)

    def test_an_ephemeral_event_has_none(self, scene: Scene) -> None:
        """An ephemeral type is never stored, whatever its headers say."""
        address = topic("upload.progress", "7")
        assert "cursor" not in self.delivered(scene, stored("7"), address)

    def test_without_a_known_stream_there_is_none(self, scene: Scene) -> None:
        """A sequence without the stream's identity would be no place to go on from."""
        scene.hub.order.identity = b""
        assert "cursor" not in self.delivered(scene, stored("7"))
