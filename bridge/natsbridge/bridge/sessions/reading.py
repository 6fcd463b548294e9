"""What is read of the stream for one replay: the same events by the way that costs the least.

nats-server finds the messages of one subject by passing over the others, and counts what is left of
a subject with ``*`` each time it is asked. So subjects that have nothing are not read at all; few
that are rare are read one beside the other; many, or frequent ones, are sifted here from a stretch
that is read whole, once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.nats.history import EVERYTHING
from natsbridge.bridge.nats.stream import Head
from natsbridge.bridge.replay.merge import Merge
from natsbridge.bridge.replay.positions import Key, Positions
from natsbridge.bridge.replay.reads import REQUEST, UserReads

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.context import Surroundings

FEW: Final = 4
"""Single subjects that are read without asking first whether they have anything."""
MAX_BESIDE: Final = 128
"""Subjects that are read beside each other; of each, some messages are in memory. For so many,
nats-server passes over the stream in about the time that reading all of it takes."""
BATCH: Final = 128
"""Messages that are read at a time where a stretch is read whole."""
DENSE: Final = 8
"""One message in so many from which on the whole stretch costs less than its subjects."""


async def open_merge(
    env: Surroundings,
    user: str,
    positions: Positions,
    wanted: Collection[Key],
    head: Head,
    lowest: int,
) -> Merge:
    """Return what gives the events that a session lacks, up to the stream's end.

    It may have been filled already. Raises :class:`BrokerUnavailable`.
    """
    reads = env.reads.of(user, head.last)
    subjects = {
        name: max(after, lowest)
        for name, after in positions.to_read(wanted, most=None).items()
        if max(after, lowest) < head.last
    }
    subjects = await without_absent(reads, subjects)
    if not subjects:
        return Merge(reads, {}, head.last, lowest)
    worth = 2 * REQUEST * len(subjects)
    kept = await env.recent.reader(head.identity, lowest, head.last, worth)
    if kept is not None:
        return Merge(kept, positions.to_read(wanted), head.last, lowest)
    first = min(subjects.values())
    if len(subjects) <= MAX_BESIDE and head.last - first > worth and not positions.is_dense:
        merge = Merge(reads, subjects, head.last, lowest)
        await merge.fill()
        if merge.matched * DENSE <= head.last - first:
            return merge
        positions.is_dense = True  # not to be found out again whenever the client has read
    sieve = _sieve(subjects)
    return Merge(reads, {EVERYTHING: first}, head.last, lowest, batch=BATCH, wanted=sieve)


async def without_absent(reads: UserReads, subjects: Mapping[str, int]) -> dict[str, int]:
    """Return the subjects without the single ones that have nothing after their sequence.

    Raises :class:`BrokerUnavailable`.
    """
    single = [name for name in subjects if not _is_wide(name)]
    if len(single) <= FEW:
        return dict(subjects)
    found = await reads.present(single, min(subjects[name] for name in single))
    return {name: after for name, after in subjects.items() if name in found or _is_wide(name)}


def _is_wide(subject: str) -> bool:
    return subject.endswith((".>", ".*"))


def _sieve(subjects: Iterable[str]) -> Callable[[bytes], bool]:
    """Return whether a stored message is of one of these subjects."""
    names = [name.encode() for name in subjects]
    below = tuple(name[:-1] for name in names if name.endswith(b".>"))
    types = frozenset(name[:-2] for name in names if name.endswith(b".*"))
    single = frozenset(names)

    def wanted(subject: bytes) -> bool:
        return (
            subject in single
            or subject.startswith(below)
            or subject[: subject.rfind(b".")] in types
        )

    return wanted
