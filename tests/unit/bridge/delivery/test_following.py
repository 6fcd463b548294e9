"""Events that telemetry hears of: the same clients get the same bytes, and what became of each."""

from __future__ import annotations

import json

import pytest

from natsbridge.bridge.delivery.following import Followed
from natsbridge.schemas.errors import EventError
from tests.support.bus import everyone, to_user, topic
from tests.unit.bridge.delivery.test_hub import NONE, Client, Scene, event
from tests.unit.bridge.delivery.test_publisher_headers import TRACE, block

SAMPLED = block(f"traceparent: {TRACE}")
UPDATED = topic("review.updated", "77")
PROGRESS = to_user("42", "upload.progress", "u1")


class Heard:
    """A watcher that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Followed] = []
        self.flushes = 0
        self.rejects: list[str] = []

    def flushed(self, began: int, events: list[Followed], slowest: int) -> None:
        self.flushes += 1
        for each in events:
            assert slowest >= 0
            each.settle()
        self.events += events

    def rejected(self, subject: bytes, headers: bytes, payload: bytes, error: EventError) -> None:
        self.rejects.append(str(error.reason))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def scene(heard: Heard) -> Scene:
    made = Scene()
    made.flush.watcher = heard
    return made


def bodies(client: Client) -> list[dict[str, object]]:
    """The events that a client was sent, each in a write of its own."""
    return [json.loads(each[each.index(b"{") :]) for each in client.writes]


@pytest.mark.parametrize("crowd", [1, 20])
def test_a_crowd_gets_a_sampled_event_as_any_other(scene: Scene, heard: Heard, crowd: int) -> None:
    """Those who want all and who want the one resource, but for whom it is denied."""
    clients = [Client() for _ in range(crowd)]
    one, denied = Client(), Client()
    route = scene.hub.topic("review.updated")
    for client in clients:
        route.add(client.outbox, "*", NONE)
    route.add(one.outbox, "77", NONE)
    route.add(denied.outbox, "*", frozenset({"77"}))
    scene.publish(UPDATED, headers=SAMPLED)
    expected = {**json.loads(event(UPDATED)), "traceparent": TRACE}
    assert all(bodies(client) == [expected] for client in [*clients, one])
    assert denied.writes == []
    [told] = heard.events
    assert (told.matched, told.written, told.denied) == (crowd + 1, crowd + 1, 1)
    assert scene.hub.counts.deliveries == crowd + 1
    assert scene.hub.counts.events == 1


def test_a_pure_crowd_shares_its_frames(scene: Scene, heard: Heard) -> None:
    """Sampled events between others keep their order."""
    clients = [Client() for _ in range(20)]
    for client in clients:
        scene.hub.topic("review.updated").add(client.outbox, "*", NONE)
    route = scene.hub.topic("review.updated")
    scene.flush.begin()
    for number in range(4):
        payload = event(UPDATED, changes={"number": number})
        route.receive(
            b"x.live.service.topic.review.updated.77", SAMPLED if number == 2 else b"", payload
        )
    scene.flush.end(more=False)
    for client in clients:
        [written] = client.writes
        at = [written.index(b'"number": %d' % number) for number in range(4)]
        assert at == sorted(at)
    assert [told.matched for told in heard.events] == [20]


def test_only_those_who_may_have_it_get_a_direct_event(scene: Scene, heard: Heard) -> None:
    """What a user's grants deny is counted as denied."""
    client, denied = Client(), Client()
    route = scene.hub.hold_user("42")
    denied.outbox.permits = lambda event_type, resource: False
    route.add(client.outbox)
    route.add(denied.outbox)
    scene.publish(PROGRESS, headers=SAMPLED)
    [told] = heard.events
    assert (told.matched, told.denied, told.audience) == (1, 1, "user")
    assert len(client.writes) == 1
    assert denied.writes == []


def test_what_waits_and_what_is_suppressed_is_not_written(scene: Scene, heard: Heard) -> None:
    """A client that can't be written to has it queued; over its bound it is dropped."""
    slow, full, good = Client(), Client(), Client()
    route = scene.hub.hold_user("42")
    for client in (slow, full, good):
        route.add(client.outbox)
    for client in (slow, full):
        scene.flush.detour(client.outbox).blocked = True
    filler = event(to_user("42", "system.notification"), message="x" * 1000)
    notification = to_user("42", "system.notification")
    full_backlog = full.outbox.backlog
    assert full_backlog is not None
    for _ in range(100):
        full_backlog.say(filler[:50])
    scene.publish(notification, headers=SAMPLED)
    [told] = heard.events
    assert (told.matched, told.written, told.queued, told.suppressed) == (3, 1, 1, 1)


def test_one_is_followed_when_it_is_asked_for(scene: Scene, heard: Heard) -> None:
    """The next event, once, and it is told that it has no trace."""
    client = Client()
    scene.hub.everybody.add(client.outbox)
    scene.hub.look = True
    for _ in range(3):
        scene.publish(everyone("system.notification"))
    [told] = heard.events
    assert told.trace == b""
    assert len(client.writes) == 3


def test_what_is_refused_is_told(scene: Scene, heard: Heard) -> None:
    """With its reason, whether or not it is sampled."""
    scene.hub.everybody.add(Client().outbox)
    scene.publish(everyone("system.notification"), b"no JSON")
    assert heard.rejects == ["INVALID_JSON"]
    assert heard.events == []
