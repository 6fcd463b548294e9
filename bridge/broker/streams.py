"""The stream behind durable events: made or checked at the start, and its identity.

The stream stores ``events.…`` and republishes each stored message to ``live.…`` with its sequence
in the headers (NATS ADR-28). Without it the bridge still delivers what comes in on ``live.…``, but
events then have no cursor.
"""

from __future__ import annotations

import logging
from typing import Final

import nats.errors
import nats.js.errors
from nats.js.api import RePublish, RetentionPolicy, StorageType, StreamConfig, StreamInfo

from bridge.broker.connection import Connection
from schemas.subjects import Root, Subjects

log = logging.getLogger(__name__)

DUPLICATE_WINDOW: Final = 120.0
"""Seconds within which a second message with one ``Nats-Msg-Id`` is a duplicate."""
MAX_AGE: Final = 24 * 3600.0
"""Seconds for which a stream that the bridge makes keeps its messages."""
MAX_BYTES: Final = 1024**3
"""Size of a stream that the bridge makes, in bytes; the oldest messages go first."""


def wanted(name: str, subjects: Subjects) -> StreamConfig:
    """Return how the stream must look; what an owner may choose has this product's default."""
    events, live = subjects.root(Root.EVENTS), subjects.root(Root.LIVE)
    return StreamConfig(
        name=name,
        subjects=[f"{events}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=MAX_AGE,
        max_bytes=MAX_BYTES,
        duplicate_window=DUPLICATE_WINDOW,
        allow_direct=True,
        republish=RePublish(src=f"{events}.>", dest=f"{live}.>"),
    )


def differences(found: StreamConfig, want: StreamConfig) -> list[str]:
    """Tell what of an existing stream would break delivery; empty when nothing would."""
    told = []
    if set(found.subjects or ()) != set(want.subjects or ()):
        told.append(f"subjects are {found.subjects}, not {want.subjects}")
    republish = found.republish
    if republish is None or republish.headers_only:
        told.append("it does not republish whole messages")
    elif want.republish is not None and (republish.src, republish.dest) != (
        want.republish.src,
        want.republish.dest,
    ):
        told.append(f"it republishes {republish.src} to {republish.dest}")
    if not found.allow_direct:
        told.append("allow_direct is off")
    return told


class Stream:
    """The stream of one deployment, as the bridge found it."""

    def __init__(self, connection: Connection, name: str, subjects: Subjects) -> None:
        self._connection: Final = connection
        self._name: Final = name
        self._subjects: Final = subjects
        self.identity = b""
        """Creation time in microseconds, hexadecimal; empty while there is no stream."""
        self.problem = "not looked for yet"
        """Why there is no stream to rely on, in words; empty when there is."""

    async def ensure(self) -> None:
        """Make the stream, or check the one that is there; never changes one. Does not raise:
        without a stream delivery is live only, and :attr:`problem` says why.
        """
        want = wanted(self._name, self._subjects)
        jetstream = self._connection.jetstream
        try:
            try:
                info = await jetstream.stream_info(self._name)
            except nats.js.errors.NotFoundError:
                info = await jetstream.add_stream(want)
                log.info("stream %s made", self._name)
        except (nats.js.errors.Error, nats.errors.Error, OSError) as error:
            self._set("", f"{str(error) or type(error).__name__}")
            return
        told = differences(info.config, want)
        self._set(_identity(info), "; ".join(told))

    def _set(self, identity: str, problem: str) -> None:
        self.identity = identity.encode()
        self.problem = problem
        if problem:
            log.warning("stream %s: %s; durable events may not be delivered", self._name, problem)


def _identity(info: StreamInfo) -> str:
    created = info.created
    return "" if created is None else f"{int(created.timestamp() * 1_000_000):x}"
