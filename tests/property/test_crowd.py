"""Gathering events for many receivers changes nothing of what each of them is written."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Flush, Outbox
from natsbridge.bridge.delivery.routes import CROWD
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Subjects

RECEIVERS = CROWD + 2
ROUTES = ("review.updated", "review.created")
DATA = {
    "review.updated": '{"review_id":"7","changes":{}}',
    "review.created": '{"review_id":"7","review":{}}',
}

steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from(ROUTES)),
        st.tuples(st.just("everybody"), st.none()),
        st.tuples(st.just("toggle"), st.tuples(st.sampled_from(ROUTES), st.integers(0, 9))),
        st.tuples(st.just("reply"), st.integers(0, RECEIVERS - 1)),
        st.tuples(st.just("pause"), st.integers(0, RECEIVERS - 1)),
        st.tuples(st.just("resume"), st.integers(0, RECEIVERS - 1)),
        st.tuples(st.just("flush"), st.none()),
    ),
    max_size=40,
)


def event(kind: str, data: str, number: int) -> bytes:
    return (
        f'{{"type":"{kind}","id":"{number}","timestamp":"2026-01-08T10:30:00Z","data":{data}}}'
    ).encode()


@given(steps)
def test_each_receiver_gets_what_is_its_own_in_order(steps: list[tuple[str, Any]]) -> None:
    """Whatever comes between events, each connection is written its frames, once and in order."""
    written = [b""] * RECEIVERS
    wanted = [b""] * RECEIVERS

    def writing(number: int) -> Any:
        def write(data: bytes) -> None:
            written[number] += data

        return write

    flush = Flush(lambda _: None, max_frames=1000, max_bytes=1 << 20, clock=lambda: 0.0)
    hub = Hub(
        Catalogue.load(),
        flush,
        subjects=Subjects(),
        stream="EVENTS",
        reject=lambda *_: None,
        max_size=65536,
    )

    def resume(outbox: Outbox) -> None:
        if outbox.backlog is not None:
            outbox.backlog.unblock()
            flush.straighten(outbox, hub.order.position)

    outboxes = [Outbox(writing(number), lambda: None) for number in range(RECEIVERS)]
    members = {kind: set(range(RECEIVERS)) for kind in ROUTES}
    for kind in ROUTES:
        for outbox in outboxes:
            hub.topic(kind).add(outbox, "*", frozenset())
    for outbox in outboxes:
        hub.everybody.receivers[outbox] = None
    for number, (what, which) in enumerate(steps):
        match what:
            case "event":
                payload = event(which, DATA[which], number)
                hub.topic(which).receive(f"live.service.topic.{which}.7".encode(), b"", payload)
                for each in members[which]:
                    wanted[each] += text_frame(payload)
            case "everybody":
                payload = event("system.notification", '{"message":"m","level":"info"}', number)
                hub.everybody.receive(b"live.service.all.system.notification.-", b"", payload)
                for each in range(RECEIVERS):
                    wanted[each] += text_frame(payload)
            case "toggle":
                kind, each = which
                if each in members[kind]:
                    members[kind].discard(each)
                    hub.topic(kind).remove(outboxes[each], "*")
                else:
                    members[kind].add(each)
                    hub.topic(kind).add(outboxes[each], "*", frozenset())
            case "reply":
                flush.offer(outboxes[which], b"reply %d" % number)
                wanted[which] += b"reply %d" % number
            case "pause":
                flush.detour(outboxes[which]).blocked = True
            case "resume":
                resume(outboxes[which])
            case "flush":
                flush.run()
    flush.run()
    for outbox in outboxes:
        resume(outbox)
    assert not flush.detours
    flush.run()
    assert written == wanted
