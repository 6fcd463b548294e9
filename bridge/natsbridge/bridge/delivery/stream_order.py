"""Durable events in the stream's order, each once: what may go on now, and what has to wait.

Live events of one stream come in its order on one connection, so the highest sequence that was seen
says where everybody is. While the bridge reads from the stream what it missed, events are kept back
here. That one did not come shows by the next of its subject, which names the one before it
(``Nats-Last-Sequence``, NATS ADR-28).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from natsbridge.bridge.delivery.republished import MAX_DIGITS, sequence_of
from natsbridge.schemas.cursors import Cursor

MAX_DETAINED: Final = 1024
MAX_DETAINED_BYTES: Final = 8 * 1024 * 1024
"""Durable events that may wait while the bridge reads what it missed."""
SURGE: Final = 100_000
"""Events by which the stream may have grown since it was looked at, a second ago. What says that it
is further waits for another look.
"""
REMEMBERED: Final = 8192
"""Subjects whose last sequence is remembered; up to twice as many."""

Message = tuple[bytes, bytes, bytes]
"""A live subject, a header block, a payload. Without headers it has no place in the stream."""


class StreamOrder:
    """Where this bridge is in the stream.

    The hub inlines the common cases: ``gate`` is off, and the event is the first of its subject or
    follows the last one that came.
    """

    __slots__ = (
        "_bytes",
        "_deliver",
        "_detained",
        "_excused",
        "_floor",
        "_overran",
        "_seen",
        "_since",
        "_skip_to",
        "begun",
        "bound",
        "digits",
        "gate",
        "identity",
        "last",
        "latest",
        "older",
        "on_begin",
        "on_doubt",
        "on_fall",
        "on_missed",
        "opening",
        "passing",
    )

    def __init__(
        self, deliver: Callable[[bytes, bytes, bytes], None], since: Callable[[bytes], int | None]
    ) -> None:
        """``deliver`` takes a message on; ``since`` returns the sequence after which somebody has
        wanted a live subject, None where nobody does.
        """
        self._deliver: Final = deliver
        self._since: Final = since
        self._detained: list[Message] | None = None
        self._bytes = 0
        self._overran = False
        self._floor = self._seen = 0
        self._skip_to = 0
        self._excused = 0
        self.last: dict[bytes, bytes] = {}
        """By live subject, the sequence of the last event that came; in digits."""
        self.older: dict[bytes, bytes] = {}
        """The same, of subjects that have not come for longer."""
        self.latest, self.bound, self.digits = b"0", b"0", 1
        """The highest sequence of an event that came, and up to which it goes on unasked; both in
        so many digits, so that they compare as they are.
        """
        self.begun = 0
        """The sequence up to which the stream reached when it was seen first."""
        self.gate = False
        """Each event has to ask :meth:`admits`."""
        self.identity = b""
        """What cursors begin with; while it is empty, events have none."""
        self.opening = b""
        """What is spliced into an event before its sequence."""
        self.passing: bytes | None = None
        """The sequence of what is delivered by this bridge itself, which is not checked: it has
        read it from the stream, or checked it when it came. Empty where it is to have none.
        """
        self.on_missed: Callable[[str, int, int], None] = lambda subject, after, upto: None
        """Takes a live subject, and between which sequences an event of it did not come."""
        self.on_fall: Callable[[int], None] = lambda position: None
        """Called when sequences that were taken for true can't be."""
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when an event says that the stream is much further than it was seen to be."""
        self.on_begin: Callable[[], None] = lambda: None
        """Called when the stream is another one."""

    @property
    def position(self) -> int:
        """The sequence up to which everything that was wanted has been offered."""
        return max(int(self.latest), self._floor)

    @property
    def horizon(self) -> int:
        """The highest sequence that the stream is known to have, whether or not all has come."""
        return max(self.position, self._seen)

    def sees(self, last: int) -> None:
        """The stream reaches this far."""
        self._seen = max(self._seen, last)
        self._set_latest(int(self.latest))

    def cursor(self, position: int) -> str:
        """Return the cursor of whoever has everything up to this sequence."""
        return str(Cursor(self.identity.decode(), position, position))

    def rise(self, position: int) -> None:
        """Everything up to this sequence has come, wanted or not."""
        self._floor = max(self._floor, position)

    def fall(self, position: int) -> None:
        """The stream does not reach further than this: what said so was no event of it."""
        self._floor = self._seen = position
        self._set_latest(position)
        self._skip_to = min(self._skip_to, position)
        self.on_fall(position)

    def begin(self, identity: bytes, position: int) -> None:
        """The stream is another one, or seen for the first time: sequences begin anew."""
        self.identity = identity
        self.opening = b',"cursor":"' + identity + b"-"
        self._floor = self._seen = position
        self._set_latest(0)
        self.begun = position
        self._skip_to = self._excused = 0
        self.last, self.older = {}, {}
        if self._detained:
            # Their sequences may be those of the stream before: as cursors of this one they would
            # have a client pass over what it never had.
            self._detained = [(subject, b"", payload) for subject, _, payload in self._detained]
        self._set_gate()
        self.on_begin()

    # What was missed is being read: events wait.

    def detain(self, anew: bool = False) -> None:
        """Keep durable events back from here on; ``anew`` forgets those that are kept already."""
        if anew or self._detained is None or self._overran:
            self._detained, self._bytes, self._overran = [], 0, False
        self._set_gate()

    def release(self, upto: int) -> bool:
        """Everything up to this sequence was delivered: go on with what came since.

        Returns False when that did not fit: then more has to be read from the stream.
        """
        if self._overran:
            return False
        self.rise(upto)
        self.excuse(upto)
        self._skip_to = max(self._skip_to, upto)
        held, self._detained = self._detained or [], None
        self._set_gate()
        for message in held:
            if self._detained is not None:
                self._detain_one(message)  # something is missing in between
            elif message[1]:
                self._deliver(*message)
            else:
                self._pass(message, b"")
        return True

    def pass_by(self, subject: bytes, payload: bytes, sequence: int) -> None:
        """Deliver an event that was read from the stream, past those that wait."""
        self._pass((subject, b"", payload), b"%d" % sequence)

    def _pass(self, message: Message, sequence: bytes) -> None:
        self.passing = sequence
        try:
            self._deliver(*message)
        finally:
            self.passing = None

    def excuse(self, upto: int) -> None:
        """Whatever did not come up to this sequence has been dealt with."""
        self._excused = max(self._excused, upto)

    def settle(self, subject: bytes, upto: int) -> None:
        """Whatever did not come of one live subject, up to a sequence, has been dealt with."""
        self.last[subject] = b"%d" % upto

    def first_detained(self) -> int | None:
        """Return the sequence of the first event that is kept back; None where there is none."""
        return sequence_of(self._detained[0][1]) or None if self._detained else None

    def last_detained(self) -> int:
        """Return the sequence of the last event that is kept back, 0 where there is none."""
        return sequence_of(self._detained[-1][1]) if self._detained else 0

    # One event.

    def admits(self, subject: bytes, headers: bytes, payload: bytes, sequence: bytes) -> bool:
        """Whether an event may go on; else it is kept back, or has come before."""
        if self._detained is not None:
            self._detain_one((subject, headers, payload))
            return False
        if int(sequence) <= self._skip_to:
            return False
        self._skip_to = 0
        self._set_gate()
        return True

    def believes(self, sequence: bytes) -> bool:
        """Whether the stream can have come as far as this, by how far it was seen to reach."""
        return int(sequence) <= self.furthest

    @property
    def furthest(self) -> int:
        """How far the stream may have come since it was seen last."""
        return self._seen + SURGE

    def doubt(self, subject: bytes, headers: bytes, payload: bytes) -> None:
        """Keep an event back, and all behind it, until JetStream has said how far it reaches."""
        self.detain()
        self._detain_one((subject, headers, payload))
        self.on_doubt()

    @property
    def waiting(self) -> int:
        """How many events are kept back."""
        return len(self._detained or ())

    def refuse_beyond(self, last: int, count: int | None = None) -> int:
        """Of those that are kept back, or the first so many of them, drop what is beyond this
        sequence, which the stream does not have; return how many that were.
        """
        held = self._detained or []
        count = len(held) if count is None else count
        kept = [each for each in held[:count] if sequence_of(each[1]) <= last]
        refused = min(count, len(held)) - len(kept)
        if refused:
            held[:count] = kept
        return refused

    def reach(self, sequence: bytes) -> None:
        """An event with this sequence is delivered, whether or not it is the highest."""
        self._set_latest(max(int(self.latest), int(sequence)))

    def _set_latest(self, latest: int) -> None:
        self.digits = len(str(max(latest + 1, self._seen)))
        self.latest = b"%0*d" % (self.digits, latest)
        self.bound = b"%0*d" % (self.digits, min(self._seen + SURGE, 10**self.digits - 1))

    def follows(self, subject: bytes, headers: bytes, payload: bytes, before: bytes) -> bool:
        """Whether the event of this subject with the sequence ``before`` has come, as it should.

        Where it has not, this one is kept back, and :attr:`on_missed` hears of it.
        """
        known = self.last.get(subject) or self.older.get(subject)
        if known is None or known == before or not self._is_missing(subject, known, before):
            return True
        self.detain()
        self._detain_one((subject, headers, payload))
        self.on_missed(subject.decode(), int(known), int(before))
        return False

    def age(self) -> None:
        """Forget the subjects that have not come for longest.

        Those with one event only are never remembered: most have no second one.
        """
        self.older, self.last = self.last, {}

    def _is_missing(self, subject: bytes, known: bytes, before: bytes) -> bool:
        if not subject.isascii():
            return False  # no event has such a subject, and none could be asked for
        if len(before) > MAX_DIGITS or int(before) <= max(int(known), self._excused):
            return False
        since = self._since(subject)
        return since is not None and int(known) > since  # else nobody here wanted it then

    def _detain_one(self, message: Message) -> None:
        detained = self._detained
        if self._overran or detained is None:
            return
        detained.append(message)
        self._bytes += sum(map(len, message))
        if len(detained) > MAX_DETAINED or self._bytes > MAX_DETAINED_BYTES:
            self._detained, self._overran = [], True

    def _set_gate(self) -> None:
        self.gate = self._detained is not None or self._skip_to > 0
