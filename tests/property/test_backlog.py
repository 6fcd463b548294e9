"""A backlog against a simple model: whatever comes, in whatever order, nothing goes untold."""

from __future__ import annotations

import itertools
import re
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from natsbridge.bridge.delivery.queue import About, Backlog
from tests.support.kinds import CONFLATED, DROPPED, DURABLE

MAX_FRAMES, MAX_BYTES = 5, 120
FRAME = re.compile(rb"<(\w)(\d+)[a-c]?x*>")
SIZES = st.sampled_from([0, 0, 0, 20, 60, 200])
RESOURCES = st.sampled_from("abc")


class BacklogMachine(RuleBasedStateMachine):
    """A stream that stores events, a hub that offers them, a replay, a client that stalls.

    Every frame names itself, so what is written says what came. Durable frames carry their
    sequence, the others the number of their offer.
    """

    @initialize()
    def start(self) -> None:
        self.written: list[tuple[bytes, int]] = []
        self.counts: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.offers = 0
        self.offered: dict[bytes, list[int]] = {b"c": [], b"d": [], b"o": []}
        self.stored: list[bytes] = []
        self.came = 0
        self.lost: set[int] = set()
        self.reached = 0
        self.began = 0
        self.came_at_begin = 0
        self.may_write = True
        self.backlog = Backlog(self.write, self.count, max_frames=MAX_FRAMES, max_bytes=MAX_BYTES)

    def write(self, data: bytes) -> None:
        assert self.may_write, "written to although it can't be"
        self.written += [(kind, int(number)) for kind, number in FRAME.findall(data)]

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def offer(self, *frames: tuple[bytes, About | None]) -> None:
        """Offer frames as one flush does."""
        known = {id(frame): about for frame, about in frames if about is not None}
        self.may_write = not self.backlog.blocked
        self.backlog.take([frame for frame, _ in frames], known, 0.0)
        self.may_write = True

    def ephemeral(self, letter: bytes, resource: str, size: int) -> tuple[bytes, About]:
        frame = b"<%b%d%b%b>" % (letter, self.offers, resource.encode(), b"x" * size)
        self.offered[letter].append(self.offers)
        self.offers += 1
        return frame, (CONFLATED if letter == b"c" else DROPPED, resource, b"", frame)

    def own(self, size: int) -> bytes:
        self.offered[b"o"].append(self.offers)
        self.offers += 1
        return b"<o%d%b>" % (self.offers - 1, b"x" * size)

    # What comes in.

    @rule(size=SIZES)
    def store(self, size: int) -> None:
        """The stream has one more durable event."""
        self.stored.append(b"<s%d%b>" % (len(self.stored) + 1, b"x" * size))

    @precondition(lambda self: self.came < len(self.stored))
    @rule(most=st.integers(1, 4))
    def durable(self, most: int) -> None:
        """The next of them come in live."""
        frames: list[tuple[bytes, About | None]] = []
        while len(frames) < most and self.came < len(self.stored):
            frame = self.stored[self.came]
            self.came += 1
            frames.append((frame, (DURABLE, "7", b"%d" % self.came, frame)))
        self.offer(*frames)

    @rule(resources=st.lists(RESOURCES, min_size=1, max_size=4), size=SIZES)
    def conflated(self, resources: list[str], size: int) -> None:
        """Events of which the newest counts."""
        self.offer(*(self.ephemeral(b"c", each, size) for each in resources))

    @rule(size=SIZES)
    def droppable(self, size: int) -> None:
        """An event that may go."""
        self.offer(self.ephemeral(b"d", "a", size))

    @rule(size=st.sampled_from([0, 20]), at_once=st.booleans())
    def answer(self, size: int, at_once: bool) -> None:
        """A message of the bridge's own."""
        frame = self.own(size)
        if at_once:
            self.may_write = not self.backlog.blocked
            self.backlog.say(frame)
            self.may_write = True
        else:
            self.offer((frame, None))

    # The client.

    @rule()
    def block(self) -> None:
        """It can't be written to."""
        self.backlog.blocked = True

    @precondition(lambda self: self.backlog.blocked)
    @rule()
    def unblock(self) -> None:
        """It reads again, and is told what was dropped."""
        self.backlog.unblock()
        assert not self.backlog.waiting
        self.told.update(self.backlog.dropped)
        self.backlog.dropped = {}

    # The replay.

    @precondition(lambda self: not self.backlog.replaying)
    @rule()
    def begin(self) -> None:
        """Stored events are asked for, to heal what did not fit or for a new pattern."""
        backlog = self.backlog
        lost, backlog.lost_after = backlog.lost_after, None
        self.reached = max(self.came, backlog.skip_to) if lost is None else lost
        self.reached = max(self.reached, backlog.skip_to)
        self._begin()

    def _begin(self) -> None:
        self.began, self.came_at_begin = len(self.stored), self.came
        self.backlog.begin()

    @precondition(lambda self: self.backlog.replaying and not self.backlog.blocked)
    @rule(data=st.data(), blocks=st.booleans())
    def finish(self, data: st.DataObject, blocks: bool) -> None:
        """All up to what the stream held at some time since the beginning was written."""
        upto = data.draw(st.integers(self.began, len(self.stored)))
        self.written += [(b"s", sequence) for sequence in range(self.reached + 1, upto + 1)]
        self.backlog.blocked = blocks
        self.may_write = not blocks
        if not self.backlog.finish(upto):
            self.reached = max(self.reached, upto)
            self._begin()
        self.may_write = True

    @precondition(lambda self: self.backlog.replaying)
    @rule(part=st.integers(0, 10))
    def give_up(self, part: int = 0) -> None:
        """The stream can't be read any more, after a part of it; what is lost by that is told."""
        upto = self.reached
        if not self.backlog.blocked:
            upto = max(upto, min(self.reached + part, len(self.stored)))
        self.written += [(b"s", sequence) for sequence in range(self.reached + 1, upto + 1)]
        self.may_write = not self.backlog.blocked
        first = self.backlog.give_up(upto)
        self.may_write = True
        self.lost.update(range(upto + 1, self.came + 1 if first is None else first))

    # What holds at any time.

    @property
    def waiting(self) -> list[tuple[bytes, int]]:
        found = FRAME.findall(b"".join(frame for frame, _ in self.backlog.waiting.values()))
        return [(kind, int(number)) for kind, number in found]

    @property
    def pended(self) -> list[int]:
        return [sequence for sequence, _ in self.backlog._pended]

    @invariant()
    def durable_events_come_once_and_in_order(self) -> None:
        """Whether live, after a stall or by a replay; what waits is behind what came."""
        order = [each for kind, each in self.written + self.waiting if kind == b"s"]
        assert all(one < two for one, two in itertools.pairwise(order)), order
        assert all(one < two for one, two in itertools.pairwise(self.pended))

    @invariant()
    def no_durable_event_is_forgotten(self) -> None:
        """Each that came in went out, waits, is known to be read from the stream, or is told."""
        here = {each for kind, each in self.written + self.waiting if kind == b"s"}
        here.update(self.pended, self.lost)
        backlog = self.backlog
        for sequence in range(1, self.came + 1):
            if sequence in here or (sequence <= backlog.skip_to and not backlog.replaying):
                continue
            if backlog.lost_after is not None and sequence > backlog.lost_after:
                continue
            # What came before the replay began is read by it; what came since is kept for it.
            assert backlog.replaying
            assert sequence > self.reached
            assert backlog.overran or sequence <= self.came_at_begin

    @invariant()
    def what_was_skipped_had_come(self) -> None:
        """``skip_to`` leaves out only what was written, or waits to be."""
        here = {each for kind, each in self.written + self.waiting if kind == b"s"} | self.lost
        limit = min(self.backlog.skip_to, self.came)
        assert here.issuperset(range(1, limit + 1)) or self.backlog.replaying

    @invariant()
    def ephemeral_events_are_accounted_for(self) -> None:
        """Each went out, waits, was replaced by a newer one, or is counted as dropped."""
        out = Counter(kind for kind, _ in self.written + self.waiting)
        dropped = self.told + Counter(self.backlog.dropped)
        assert dropped.total() == self.counts["dropped"]
        assert len(self.offered[b"d"]) == out[b"d"] + dropped[DROPPED.name]
        assert len(self.offered[b"c"]) == (
            out[b"c"] + dropped[CONFLATED.name] + self.counts["conflated"]
        )

    @invariant()
    def order_is_kept(self) -> None:
        """All but durable events come in the order of their offers, conflated ones too."""
        order = [each for kind, each in self.written + self.waiting if kind != b"s"]
        assert order == sorted(order)

    @invariant()
    def own_messages_are_not_lost(self) -> None:
        """Answers and notices come, all of them, unless the owner is told of an overflow."""
        own = [each for kind, each in self.written + self.waiting if kind == b"o"]
        assert own == self.offered[b"o"] or self.backlog.overflowed

    @invariant()
    def bounds_hold(self) -> None:
        """Events stay within both bounds; the bridge's own messages within twice as much."""
        events = [(frame, kind) for frame, kind in self.backlog.waiting.values()]
        pended = [frame for _, frame in self.backlog._pended]
        bridge = [frame for frame, _ in events if frame.startswith(b"<o")]
        others = [frame for frame, _ in events if not frame.startswith(b"<o")] + pended
        assert len(others) <= MAX_FRAMES
        assert sum(map(len, others)) <= MAX_BYTES
        assert len(events) <= 2 * MAX_FRAMES
        assert sum(map(len, bridge)) <= MAX_BYTES

    def teardown(self) -> None:
        """However it was used, an empty backlog has all of its room."""
        backlog = self.backlog
        if backlog.replaying:
            self.give_up()
        self.unblock()
        if backlog.lost_after is not None:
            return
        backlog.blocked = True
        for sequence in range(MAX_FRAMES):
            place = len(self.stored) + 1 + sequence
            frame = b"<s%d>" % place
            frame += b" " * (MAX_BYTES // MAX_FRAMES - len(frame))
            self.offer((frame, (DURABLE, "7", b"%d" % place, frame)))
        assert len(backlog.waiting) == MAX_FRAMES
        assert backlog.lost_after is None


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=200, stateful_step_count=60)
