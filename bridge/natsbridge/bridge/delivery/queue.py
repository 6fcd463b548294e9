"""What waits for one connection that is off the straight way, and what is done when it is too much.

A connection gets a backlog while it can't be written to, while stored events are replayed to it,
and while its client asked for a slower pace. Everything else goes past this file. What is over the
bound is conflated, healed or dropped, as the event's type declares; nothing goes without being
told. Pure: time, writing and telling come in from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from natsbridge.bridge.delivery.frames import hold_cursor
from natsbridge.bridge.delivery.pacing import Pace, Paces
from natsbridge.schemas.catalogue import EventType
from natsbridge.schemas.events import Overflow

About = tuple[EventType, str, bytes, bytes]
"""An event's type, resource token, sequence in digits (empty without one), and its frame."""

Known = Mapping[int, About]
"""What the frames of this flush are, by ``id``; those that are not in it are the bridge's own."""


class Backlog:
    """The messages that wait, in order. At most ``max_frames`` of them, or ``max_bytes``."""

    __slots__ = (
        "_bytes",
        "_count",
        "_max_bytes",
        "_max_frames",
        "_next",
        "_own",
        "_pended",
        "_write",
        "blocked",
        "dropped",
        "kept_to",
        "lost_after",
        "on_paced",
        "on_unblocked",
        "overflowed",
        "overran",
        "paces",
        "replaying",
        "skip_to",
        "topics_at",
        "waiting",
    )

    def __init__(
        self,
        write: Callable[[bytes], None],
        count: Callable[[str], None],
        *,
        max_frames: int,
        max_bytes: int,
    ) -> None:
        """``count`` hears of each event that is ``conflated``, ``healed`` or ``dropped``."""
        self._write = write
        self._count = count
        self._max_frames: Final = max_frames
        self._max_bytes: Final = max_bytes
        self._next = 0
        self._own = 0
        self._bytes = 0
        self._pended: list[tuple[int, bytes]] = []
        self.waiting: dict[object, tuple[bytes, str | None]] = {}
        """By place: the frame, and its type where it may be dropped."""
        self.blocked = False
        """The connection can't be written to."""
        self.replaying = False
        """Durable events wait for the stored ones before them."""
        self.overran = False
        """More durable events came meanwhile than may wait: they are read from the stream."""
        self.skip_to = 0
        """Durable events up to this sequence have been sent already."""
        self.topics_at: int | None = None
        """Up to where the client had the events of topics, after a resume in which it has not
        subscribed yet: a cursor that it gets must not go past that."""
        self.kept_to = 0
        """The last durable event that was written or waits."""
        self.lost_after: int | None = None
        """What that was when the first one did not fit."""
        self.overflowed = False
        """Even the bridge's own messages don't fit any more."""
        self.dropped: dict[str, int] = {}
        self.paces = Paces()
        self.on_unblocked: Callable[[], None] | None = None
        """Called once, when the connection can be written to again."""
        self.on_paced: Callable[[], None] = _nothing
        """Called when an event waits for its pace."""

    @property
    def size(self) -> tuple[int, int]:
        """Messages that wait, and their bytes; but for those that wait for their pace."""
        return len(self.waiting) + len(self._pended), self._bytes

    @property
    def is_idle(self) -> bool:
        """Whether the connection can go the straight way again, but for ``skip_to``."""
        return not (
            self.blocked
            or self.replaying
            or self.waiting
            or self.paces
            or self.dropped
            or self.lost_after is not None
            or self.topics_at is not None
        )

    def holds(self, frame: bytes) -> bool:
        """Whether this very frame waits here."""
        return (
            any(kept is frame for kept, _ in self.waiting.values())
            or any(kept is frame for _, kept in self._pended)
            or self.paces.holds(frame)
        )

    def take(self, frames: Sequence[bytes], known: Known, now: float) -> None:
        """Write or keep what was offered to the connection since the last flush."""
        out: list[bytes] = []
        for frame in frames:
            about = known.get(id(frame))
            if about is None:
                self._put_own(frame, out)
            elif about[2]:
                self._put_durable(frame, int(about[2]), out)
            else:
                kind, resource = about[0], about[1]
                pace = self.paces.get(kind.name)
                if pace is None:
                    self._put_ephemeral(frame, kind, resource, out)
                else:
                    self._put_paced(frame, kind, resource, pace, now, out)
        if out:
            self._write(out[0] if len(out) == 1 else b"".join(out))

    def say(self, frame: bytes) -> None:
        """Write or keep a message of the bridge now, behind what waits."""
        out: list[bytes] = []
        self._put_own(frame, out)
        if out:
            self._write(frame)

    def unblock(self) -> None:
        """The connection can be written to again: write what waited."""
        self.blocked = False
        waiting, self.waiting = self.waiting, {}
        self._own = 0
        self._bytes = sum(len(frame) for _, frame in self._pended)
        if waiting:
            self._write(b"".join([frame for frame, _ in waiting.values()]))
        if not self.blocked and self.on_unblocked is not None:
            unblocked, self.on_unblocked = self.on_unblocked, None
            unblocked()

    def release(self, events: Iterable[tuple[EventType, str, bytes]]) -> None:
        """Send what a pace let through."""
        out: list[bytes] = []
        for kind, resource, frame in events:
            self._put_ephemeral(frame, kind, resource, out)
        if out:
            self._write(out[0] if len(out) == 1 else b"".join(out))

    def forsake(self, event_type: str) -> None:
        """Let go of what waits for the pace of a type that is not wanted as it was."""
        pace = self.paces.get(event_type)
        for _ in pace.rest() if pace is not None else ():
            self._drop(event_type)

    def flush(self) -> None:
        """Write all that waits although the connection is slow: it is about to be closed."""
        waiting, self.waiting = self.waiting, {}
        if waiting:
            self._write(b"".join([frame for frame, _ in waiting.values()]))

    # A replay: stored events first, then those that came meanwhile.

    def begin(self) -> None:
        """From here on durable events wait; those that waited for an earlier pass are forgotten."""
        self.replaying = True
        self.overran = False
        self._bytes -= sum(len(frame) for _, frame in self._pended)
        self._pended = []

    def finish(self, upto: int) -> bool:
        """The replay gave everything up to this sequence: go on with what came after it.

        Returns False when that did not fit: then the replay has to go on from the stream.
        """
        self.skip_to = max(self.skip_to, upto)
        self.kept_to = max(self.kept_to, upto)
        if self.overran:
            return False
        self.replaying = False
        pended, self._pended = self._pended, []
        self._bytes -= sum(len(frame) for _, frame in pended)
        out: list[bytes] = []
        for sequence, frame in pended:
            self._put_durable(frame, sequence, out)
        if out:
            self._write(b"".join(out))
        return True

    def give_up(self, upto: int) -> int | None:
        """End a replay that can't go on, and that gave everything up to this sequence.

        Returns the sequence of the first event that waited; None where none did.
        """
        first = next((sequence for sequence, _ in self._pended if sequence > upto), None)
        self.overran = False
        self.finish(upto)
        return first

    def begin_stream(self) -> None:
        """The stream is another one: sequences begin anew."""
        self.skip_to = self.kept_to = 0
        self.lost_after = self.topics_at = None

    def fall(self, position: int) -> None:
        """The stream does not reach further than this: higher sequences were no events of it."""
        self.skip_to = min(self.skip_to, position)
        self.kept_to = min(self.kept_to, position)
        if self.lost_after is not None:
            self.lost_after = min(self.lost_after, position)

    # Steps of the above.

    def _fits(self, frame: bytes) -> bool:
        return (
            len(self.waiting) + len(self._pended) < self._max_frames
            and self._bytes + len(frame) <= self._max_bytes
        )

    def _keep(self, place: object, frame: bytes, droppable: str | None) -> None:
        self.waiting[place] = (frame, droppable)
        self._bytes += len(frame)

    def _place(self) -> int:
        self._next += 1
        return self._next

    def _put_own(self, frame: bytes, out: list[bytes]) -> None:
        if not self.blocked:
            out.append(frame)
            return
        # The bridge's own messages are answers and notices, few and never dropped.
        self._own += len(frame)
        if len(self.waiting) >= 2 * self._max_frames or self._own > self._max_bytes:
            self.overflowed = True
        else:
            self._keep(self._place(), frame, None)

    def _put_durable(self, frame: bytes, sequence: int, out: list[bytes]) -> None:
        if sequence <= self.skip_to:
            return
        if self.replaying:
            if not self.overran and self._fits(frame):
                self._pended.append((sequence, frame))
                self._bytes += len(frame)
            elif not self.overran:
                self.begin()
                self.overran = True
        elif self.lost_after is not None:
            self._count("healed")  # comes again with the replay
        elif not self.blocked:
            out.append(self._held(frame))
            self.kept_to = sequence
        elif self._fits(frame):
            self._keep(self._place(), self._held(frame), None)
            self.kept_to = sequence
        else:
            self.lost_after = self.kept_to
            self._count("healed")

    def _held(self, frame: bytes) -> bytes:
        return frame if self.topics_at is None else hold_cursor(frame, self.topics_at)

    def _put_paced(
        self,
        frame: bytes,
        kind: EventType,
        resource: str,
        pace: Pace,
        now: float,
        out: list[bytes],
    ) -> None:
        if pace.lets_through(now):
            self._put_ephemeral(frame, kind, resource, out)
            return
        if pace.keep(kind, resource, frame):
            self._count("conflated")
        while pace.shed(self._max_frames, self._max_bytes):
            self._drop(kind.name)
        self.on_paced()

    def _put_ephemeral(
        self, frame: bytes, kind: EventType, resource: str, out: list[bytes]
    ) -> None:
        if not self.blocked:
            out.append(frame)
            return
        place: object = self._place()
        if kind.traits.overflow is Overflow.CONFLATE:
            place = (kind.name, resource)
            before = self.waiting.pop(place, None)
            if before is not None:
                # At the end, not in the old one's place: a client reads events in their order.
                self._bytes -= len(before[0])
                self._count("conflated")
        while not self._fits(frame):
            if not self._drop_oldest():
                self._drop(kind.name)
                return
        self._keep(place, frame, kind.name)

    def _drop_oldest(self) -> bool:
        for place, (frame, droppable) in self.waiting.items():
            if droppable is not None:
                del self.waiting[place]
                self._bytes -= len(frame)
                self._drop(droppable)
                return True
        return False

    def _drop(self, event_type: str) -> None:
        self.dropped[event_type] = self.dropped.get(event_type, 0) + 1
        self._count("dropped")


def _nothing() -> None:
    """Stand in for a pacer."""
