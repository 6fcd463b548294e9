"""Topics: for each event type either one wide subscription or one for each resource.

NATS sends a message once for each subscription that matches, so a type is never subscribed both
ways for long. While it is, between asking for the new and leaving the old, both copies of a message
come in, and :class:`Overlap` lets one of them through: nothing is lost and nothing doubled,
whatever order NATS writes them in.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, takewhile
from typing import Final

from natsbridge.bridge.nats.ingest import Receive
from natsbridge.bridge.nats.subscriptions import Interests, Unit
from natsbridge.schemas.patterns import ANY
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects

SETTLE: Final = 1.0
"""Seconds for which both ways stay subscribed after NATS has confirmed the new one."""
REMEMBER: Final = 2.0
"""Seconds for which copies are still told apart after the old way was left."""
AT_A_TIME: Final = 2048
"""Units that are asked for or left in one tick, of all types together: some 10 ms."""
MAX_COPIES: Final = 65_536
"""Messages that wait for their second copy; over it the oldest are forgotten."""


class Overlap:
    """Tells the first copy of a message from the second, by which way it came.

    For each message it counts copies of the wide way minus copies of the narrow way. A copy that
    makes the count further from zero is news; one that brings it back is the other's double.
    """

    __slots__ = ("_balance", "ends")

    def __init__(self) -> None:
        self._balance: dict[int, int] = {}
        self.ends: float | None = None

    def is_news(self, wide: bool, message: tuple[bytes, bytes, bytes]) -> bool:
        """Whether this copy is the first of its message: subject, headers, payload."""
        # All of it: single headers are what a publisher likes. Its hash, which no peer can choose,
        # keeps no payload here.
        key = hash(message)
        step = 1 if wide else -1
        before = self._balance.pop(key, 0)
        after = before + step
        if after:
            self._balance[key] = after
            if len(self._balance) > MAX_COPIES:
                del self._balance[next(iter(self._balance))]
        return before * step >= 0


class _Topic:
    """One event type: who wants it how, and what is subscribed for that.

    ``wide_until`` and ``idle`` say until when a subscription that nobody wants any more lingers.
    ``settles`` is set while both ways are subscribed: when the old one may be left.
    """

    __slots__ = (
        "event_type",
        "idle",
        "narrow",
        "overlap",
        "receive",
        "settles",
        "wants",
        "wants_any",
        "wide",
        "wide_until",
    )

    def __init__(self, event_type: str, receive: Receive) -> None:
        self.event_type: Final = event_type
        self.receive: Final = receive
        self.wants_any = 0
        self.wants: dict[str, int] = {}
        self.wide: Unit | None = None
        self.wide_until = 0.0
        self.narrow: dict[str, Unit] = {}
        self.idle: dict[str, float] = {}
        self.overlap: Overlap | None = None
        self.settles: float | None = None


class Topics:
    """The topic units of all event types."""

    def __init__(
        self,
        interests: Interests,
        subjects: Subjects,
        *,
        clock: Callable[[], float],
        linger: float,
    ) -> None:
        self._interests: Final = interests
        self._subjects: Final = subjects
        self._clock: Final = clock
        self._linger: Final = linger
        self._topics: Final[dict[str, _Topic]] = {}
        self._room = AT_A_TIME
        """Units that may change yet in this tick."""

    def hold(self, event_type: str, resource: str, receive: Receive) -> None:
        """Want a type's events of one resource, or of any (``*``)."""
        topic = self._topics.get(event_type)
        if topic is None:
            topic = self._topics[event_type] = _Topic(event_type, receive)
        if resource == ANY:
            topic.wants_any += 1
            if topic.wide is None or topic.wide.denied:
                topic.wide = self._subscribe(topic, ANY)
                if topic.narrow:
                    self._overlap(topic)
        else:
            topic.wants[resource] = topic.wants.get(resource, 0) + 1
            topic.idle.pop(resource, None)
            held = topic.narrow.get(resource)
            is_wide = topic.wide is not None and not topic.wide.denied
            if not is_wide and (held is None or held.denied):
                topic.narrow[resource] = self._subscribe(topic, resource)

    def release(self, event_type: str, resource: str) -> None:
        """Give back what :meth:`hold` asked for; NATS hears of it after the linger."""
        topic = self._topics[event_type]
        until = self._clock() + self._linger
        if resource == ANY:
            topic.wants_any -= 1
            topic.wide_until = until
        else:
            topic.wants[resource] -= 1
            if not topic.wants[resource]:
                del topic.wants[resource]
                if resource in topic.narrow:
                    topic.idle[resource] = until

    def subject_of(self, event_type: str, resource: str) -> str | None:
        """Return the subject by which this comes in now."""
        topic = self._topics.get(event_type)
        if topic is None:
            return None
        wide = topic.wide is not None and topic.settles is None
        unit = topic.wide if wide or resource == ANY else topic.narrow.get(resource, topic.wide)
        return None if unit is None else unit.subject

    def tick(self) -> None:
        """Move every type towards what is wanted of it."""
        now = self._clock()
        self._room = AT_A_TIME
        for topic in list(self._topics.values()):
            if topic.overlap and topic.overlap.ends is not None and topic.overlap.ends <= now:
                topic.overlap = None
            if topic.settles is None:
                self._let_go(topic, now)
            elif topic.settles <= now:
                self._settle(topic, now)
            if not (topic.wants_any or topic.wants or topic.wide or topic.narrow or topic.overlap):
                del self._topics[topic.event_type]

    def _let_go(self, topic: _Topic, now: float) -> None:
        # They are in the order in which they were given back.
        due = takewhile(lambda item: item[1] <= now, topic.idle.items())
        gone = [resource for resource, _ in islice(due, max(0, self._room))]
        self._room -= len(gone)
        for resource in gone:
            del topic.idle[resource]
        self._interests.drop([topic.narrow.pop(resource) for resource in gone])
        if topic.wide is not None and not topic.wants_any and topic.wide_until <= now:
            if topic.wants:
                self._ask_narrow(topic)
            else:
                self._interests.drop([topic.wide])
                topic.wide = None

    def _ask_narrow(self, topic: _Topic) -> None:
        # What there is no room for now is asked for when this has settled.
        missing = (resource for resource in topic.wants if resource not in topic.narrow)
        for resource in list(islice(missing, max(1, self._room))):
            topic.narrow[resource] = self._subscribe(topic, resource)
            self._room -= 1
        self._overlap(topic)

    def _overlap(self, topic: _Topic) -> None:
        # Both ways are asked for from here on. The old one is left only when NATS has the new one
        # and had time to write what it had matched before.
        if topic.overlap is None:
            topic.overlap = Overlap()
        topic.overlap.ends = None
        topic.settles = float("inf")

        def confirmed(done: bool) -> None:
            if done:
                topic.settles = self._clock() + SETTLE
            else:
                # However long NATS takes, the old way stays until it has the new one.
                self._interests.confirm(confirmed)

        self._interests.confirm(confirmed)

    def _settle(self, topic: _Topic, now: float) -> None:
        if not topic.wants_any and topic.wants.keys() - topic.narrow.keys():
            self._ask_narrow(topic)  # more was wanted meanwhile
            return
        if topic.wants_any:
            some = list(islice(topic.narrow, max(1, self._room)))
            self._room -= len(some)
            old = [topic.narrow.pop(resource) for resource in some]
            for resource in some:
                topic.idle.pop(resource, None)
            if topic.narrow:
                self._interests.drop(old)
                return  # both copies come of the rest until the next tick
            topic.settles = None
        else:
            topic.settles = None
            old = [topic.wide] if topic.wide is not None else []
            topic.wide = None
        self._interests.drop(old)
        if topic.overlap is not None:
            topic.overlap.ends = now + REMEMBER

    def _subscribe(self, topic: _Topic, resource: str) -> Unit:
        address = Address(Audience.TOPIC, topic.event_type, resource)
        wide = resource == ANY

        def receive(subject: bytes, headers: bytes, payload: bytes) -> None:
            overlap = topic.overlap
            if overlap is None or overlap.is_news(wide, (subject, headers, payload)):
                topic.receive(subject, headers, payload)

        return self._interests.hold(self._subjects.event(Root.ANY_LIVE, address), receive)
