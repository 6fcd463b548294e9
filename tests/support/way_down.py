"""The way down without a network: bytes of NATS in, writes of connections out, all work counted.

The parts are the bridge's own and are joined as it joins them. NATS confirms everything at once,
and the loop's turns are the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import pytest

from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Flush, Outbox
from natsbridge.bridge.nats.ingest import Receive, Tap
from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.bridge.nats.topics import Topics
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Subjects
from tests.support.republished import republished
from tests.support.scripted_nats import Turns

EVENT: Final = (
    b'{"type":"review.updated","id":"1","timestamp":"2026-01-08T10:30:00Z",'
    b'"data":{"review_id":"%d","changes":{"status":"open"}}}'
)
"""What everybody gets who wants the topic, about a resource of this number."""
OWN_EVENT: Final = (
    b'{"type":"upload.completed","id":"1","timestamp":"2026-01-08T10:30:00Z",'
    b'"data":{"upload_id":"%d","result":{"size":3}}}'
)
"""What one user gets, about a resource of this number."""
STREAM: Final = b"5f"
"""What cursors begin with."""


def message(sid: bytes, subject: bytes, payload: bytes, headers: bytes = b"") -> bytes:
    """What NATS writes for one event."""
    size = len(headers) + len(payload)
    if headers:
        line = b"HMSG %b %b %d %d\r\n" % (subject, sid, len(headers), size)
    else:
        line = b"MSG %b %b %d\r\n" % (subject, sid, size)
    return line + headers + payload + b"\r\n"


def _event(sid: bytes, subject: bytes, payload: bytes, place: tuple[int, int] | None) -> bytes:
    """What NATS writes for one event, stored or straight from its service."""
    if place is None:
        return message(sid, b"live.service." + subject, payload)
    event_type = b".".join(subject.split(b".")[-3:-1])
    own = b"Nats-Msg-Id: 01970e5e-7d9a-7c1f-b1a4-%012d\r\nBridge-Schema: %b@1\r\n"
    own %= (place[0], event_type)
    headers = republished(b"events." + subject, *place, own=own)
    return message(sid, b"live.stream." + subject, payload, headers)


class Wire:
    """A NATS that confirms everything at once."""

    is_up = True

    def write(self, operations: bytes) -> None:
        """Take it, and do nothing."""

    def ping(self, operations: bytes, latch: Any) -> None:
        """Confirm what came before."""
        latch.set_result(True)


class WayDown:
    """A crowd that wants one topic, and users who get their own events."""

    def __init__(
        self,
        crowd: int = 0,
        users: int = 0,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.turns: Final = Turns()
        self.flush: Final = Flush(
            call_soon or self.turns.call_soon,
            max_frames=100,
            max_bytes=1 << 20,
            clock=lambda: 0.0,
        )
        self.hub: Final = Hub(
            Catalogue.load(),
            self.flush,
            subjects=Subjects(),
            stream="EVENTS",
            reject=lambda *_: pytest.fail("an event was rejected"),
            max_size=65536,
        )
        self.hub.order.begin(STREAM, 0)
        receivers: dict[bytes, Receive] = {}
        self._interests = Interests(
            Wire(),
            receivers,
            clock=lambda: 0.0,
            call_soon=self.turns.call_soon,
            call_later=self.turns.call_later,
            linger=5,
            patience=5,
        )
        self._topics = Topics(self._interests, Subjects(), clock=lambda: 0.0, linger=5)
        self.tap: Final = Tap(asyncio.Protocol(), receivers, self.flush, lambda _: False)
        self._receivers: Final = receivers
        self._sids: Final[list[bytes]] = []
        self.outboxes: Final[list[Outbox]] = []
        """First the crowd's, then the users'."""
        self.written: Final[list[list[bytes]]] = []
        """What each connection was told to write."""
        for _ in range(crowd):
            self.join()
        for _ in range(users):
            self.come()
        self.turns.run()

    def join(self, write: Callable[[bytes], None] | None = None) -> None:
        """One more connection that wants the topic."""
        route = self.hub.topic("review.updated")
        self._topics.hold("review.updated", "*", route.receive)
        route.add(self._connection(write), "*", frozenset())

    def come(self, write: Callable[[bytes], None] | None = None) -> None:
        """One more user, with one connection."""
        token = f"u{len(self.hub.users)}"
        route = self.hub.hold_user(token)
        self._sids.append(self._interests.hold(f"live.*.user.{token}.>", route.receive).sid)
        route.add(self._connection(write))

    def _connection(self, write: Callable[[bytes], None] | None) -> Outbox:
        self.written.append([])
        outbox = Outbox(write or self.written[-1].append, lambda: None)
        self.outboxes.append(outbox)
        return outbox

    @property
    def writes(self) -> list[bytes]:
        """All that was written."""
        return [each for written in self.written for each in written]

    def for_crowd(self, events: int, durable: bool = False) -> bytes:
        """What NATS writes for so many events of the topic, each of them a resource's first."""
        (sid,) = self._receivers.keys() - set(self._sids)
        return b"".join(
            _event(
                sid,
                b"topic.review.updated.%d" % at,
                EVENT % at,
                (at + 1, 0) if durable else None,
            )
            for at in range(events)
        )

    def for_users(self, events: int, durable: bool = False, again: bool = False) -> bytes:
        """What NATS writes for so many events, one user after the other.

        Each is a resource's first; ``again`` makes them the first resource's and those behind it.
        """
        users, messages = len(self._sids), []
        for at in range(events):
            sequence, user = at + 1, at % users
            before = max(sequence - users, 0) if again else 0
            subject = b"user.u%d.upload.completed.%d" % (user, 0 if again else at)
            place = (sequence, before) if durable else None
            event = OWN_EVENT % (0 if again else at)
            messages.append(_event(self._sids[user], subject, event, place))
        return b"".join(messages)


class Work:
    """How often each function was called, by its qualified name."""

    def __init__(self) -> None:
        self.python: Final[Counter[str]] = Counter()
        self.built_in: Final[Counter[str]] = Counter()

    @property
    def calls(self) -> int:
        """All of them."""
        return self.python.total() + self.built_in.total()

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count one; what ``sys.setprofile`` takes."""
        if event == "call":
            self.python[frame.f_code.co_qualname] += 1
        elif event == "c_call" and argument is not sys.setprofile:
            self.built_in[argument.__qualname__] += 1


@contextlib.contextmanager
def counting() -> Iterator[Work]:
    """Count what this thread calls; collections wait, since they call what others registered."""
    work, collects = Work(), gc.isenabled()
    gc.disable()
    sys.setprofile(work.note)
    try:
        yield work
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()


def work_of(read: Callable[[bytes], None], data: bytes) -> Work:
    """Count what a read of these bytes calls."""
    with counting() as work:
        read(data)
    return work
