"""Up to where a session has had each of its keys, and what of the stream is to be read for that.

Called by the session's replay from the event loop; pure. A key is known once it was found where it
begins: until then nothing of it is read. Everything that is read is written in the stream's order,
so what was written last counts for all keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from natsbridge.schemas.patterns import ANY
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects

Key = tuple[str, str]
"""An event type, and a resource token or ``*``."""

DIRECT: Final[Key] = ("", "")
"""Stands for the events of the session's user and of everybody, which need no subscription."""

MAX_SUBJECTS: Final = 12
"""Subjects that are read beside each other; with more, wider ones are read and sifted."""

MAX_COUNTED: Final = 128
"""Subjects whose events are counted one by one."""


class Positions:
    """Where each key of one session stands while stored events are read for it."""

    def __init__(
        self, reached: int, wanted: Iterable[Key], *, subjects: Subjects, user: str, direct: bool
    ) -> None:
        """The session has had everything of the keys that it wants up to ``reached``.

        ``user`` is its user's token; ``direct`` is off where events of its user and of everybody
        come by its keys alone.
        """
        self._subjects: Final = subjects
        self._user: Final = user
        self._direct: Final = direct
        self._known: Final[set[Key]] = {DIRECT, *wanted}
        self._behind: Final[dict[Key, int]] = {}
        self.reached = reached
        """Up to where it has had the keys that are not behind."""
        self.written = 0
        """The last event that was written of what is being read; 0 where none was."""
        self.unknown: Collection[str] = ()
        """Types that the session's patterns cover, and the catalogue does not have: events of them
        can't be delivered, and it is told that there were some."""
        self.is_dense = False
        """Whether so much of the stream is wanted that it is read whole."""

    @property
    def lowest(self) -> int:
        """The sequence up to which it has had all of its keys."""
        return max(self.written, min((self.reached, *self._behind.values())))

    def after(self, key: Key) -> int:
        """Return the sequence up to which it has had this key."""
        return max(self.written, self._behind.get(key, self.reached))

    def lacks(self, key: Key | None, exact: Key, sequence: int) -> bool:
        """Whether it is to have this event: wanted by ``key``, of the resource in ``exact``."""
        if key is None:
            return False
        spot = exact if key != DIRECT and exact in self._known else key
        return spot in self._known and sequence > self.after(spot)

    def lacks_unknown(self, event_type: str, sequence: int) -> bool:
        """Whether it is to be told of this event, whose type the catalogue does not have.

        Such a type has no key; it stands where the topic does that is furthest behind.
        """
        topics = [self.after(key) for key in self._known if key != DIRECT]
        return event_type in self.unknown and bool(topics) and sequence > min(topics)

    # What changes them.

    def reach(self, position: int) -> None:
        """It has had everything up to this sequence, of all that it is known to want."""
        self.reached, self.written = position, 0
        self.is_dense = False
        self._behind.clear()

    def know(self, keys: frozenset[Key]) -> frozenset[Key]:
        """Read these too; returns those that were not known before."""
        fresh = keys - self._known
        self._known.update(keys)
        return fresh

    def put(self, keys: Iterable[Key], after: int, direct: int = 0) -> None:
        """Read these from behind a sequence on; ``direct`` is that of the user's events."""
        for key in keys:
            self._behind[key] = direct if key == DIRECT else after

    def inherit(self, wanted: frozenset[Key], before: frozenset[Key]) -> frozenset[Key]:
        """Return which keys bring something new; ``before`` is what was wanted until now.

        A resource that is wanted by itself now, after all of its type were, goes on where those
        are. One that was wanted by itself, before all of its type are, keeps where it is.
        """
        known = self._known
        # What was written so far counts for each by itself from here on.
        self._behind.update({key: self.after(key) for key in known})
        self.reached, self.written = max(self.reached, self.written), 0
        new = set()
        for key in wanted - before:
            wide = (key[0], ANY)
            if key != wide and wide in before:
                if key not in known and wide in known:
                    known.add(key)
                    self._behind[key] = self._behind[wide]
                continue  # or the order of all of its type, still to be placed, takes it in
            known.discard(key)
            new.add(key)
        for key in [each for each in known if each != DIRECT]:
            if key not in wanted and (key[0], ANY) not in wanted:
                known.discard(key)
                self._behind.pop(key, None)
        return frozenset(new)

    # What is to be read.

    def to_read(self, wanted: Collection[Key], most: int | None = MAX_SUBJECTS) -> dict[str, int]:
        """Return the subjects to read for what is wanted now, and after which sequence each.

        With more than ``most`` of them wider ones, which come to more than is wanted.
        """
        root = self._subjects.root(Root.EVENTS)
        found: dict[str, int] = {}
        known = self._known
        lowest: dict[Key, int] = {}
        for key in known - {DIRECT}:
            wide = (key[0], ANY)
            read = wide if wide in known and wide in wanted else key
            if read in wanted or wide in wanted:
                lowest[read] = min(self.after(key), lowest.get(read, self.after(key)))
        if lowest:
            furthest_behind = min(lowest.values())
            lowest |= {(event_type, ANY): furthest_behind for event_type in self.unknown}
        direct = self.after(DIRECT) if self._direct else min(lowest.values(), default=None)
        if direct is not None:
            found[f"{root}.user.{self._user}.>"] = direct
            found[f"{root}.all.>"] = direct
        if most is None or len(lowest) <= most:
            return found | {self._topic(*key): after for key, after in lowest.items()}
        if len({event_type for event_type, _ in lowest}) > most:
            return found | {f"{root}.topic.>": min(lowest.values())}
        for (event_type, _), after in lowest.items():
            subject = self._topic(event_type, ANY)
            found[subject] = min(after, found.get(subject, after))
        return found

    def to_count(
        self, wanted: Mapping[Key, Collection[str]], most: int = MAX_COUNTED
    ) -> tuple[list[str], list[str]]:
        """Return the subjects by which to count the events of these keys, and those to count off.

        ``wanted`` has what is left out of each. Of more than ``most`` there are a few for all,
        which count other resources too.
        """
        keys = set(wanted)
        without = {(name, each) for (name, _), left in wanted.items() for each in left}
        if len(keys) > most:
            keys = {(event_type, ANY) for event_type, _ in keys}
        if len(without) > most:
            without.clear()
        audiences = (Audience.TOPIC,) if self._direct else tuple(Audience)
        counted, off = (
            [self._subject(audience, *key) for key in some for audience in audiences]
            for some in (keys, without)
        )
        return counted, off

    def _topic(self, event_type: str, resource: str) -> str:
        return self._subject(Audience.TOPIC, event_type, resource)

    def _subject(self, audience: Audience, event_type: str, resource: str) -> str:
        address = Address(audience, event_type, resource, self._user)
        return self._subjects.event(Root.EVENTS, address)


def as_wanted(keys: frozenset[Key], wanted: Collection[Key]) -> frozenset[Key]:
    """Return these keys as they are wanted now: all of a type may have become single resources."""
    return frozenset(
        [key for key in keys if key == DIRECT or key in wanted or (key[0], ANY) in wanted]
        + [key for key in wanted if (key[0], ANY) in keys]
    )
