"""Events that must not reach a client: back to NATS with the reason, for their owner to look at.

What comes back is bounded: whoever floods the bridge with bad events would have it double what is
on NATS, and fill the log. All are counted; a share of them is published, and of each kind a line a
second is written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic_core import from_json

from natsbridge.bridge.nats.connection import Connection
from natsbridge.bridge.telemetry.lines import Lines, cut
from natsbridge.schemas.envelope import HEADER_REJECT_DETAIL, HEADER_REJECT_REASON
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.subjects import Subjects

log = logging.getLogger(__name__)

MAX_TOKENS: Final = 12
MAX_TOKEN: Final = 256
"""Most tokens of the subject under which an event is published again, and bytes of each:
nats-server takes 4,096 for the whole line."""
MAX_DETAIL: Final = 256
"""Longest detail in characters."""
MAX_HEADERS: Final = 4096
"""Most bytes of the original headers that are passed on; whole lines, the first ones."""
MAX_RATE: Final = 200
"""Rejected events that are published in a second, on average."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of them in a second."""
BURST: Final = 2.0
"""Seconds whose share may go at once."""
MAX_UNSENT: Final = 1024 * 1024
"""Bytes that wait for NATS, from which on none is added."""
MAX_READ: Final = 64 * 1024
"""Longest payload in bytes that is looked at for its ``source``."""

PREFIX: Final = "Rejected-"
"""What is put before the names of headers that nats-server or NATS's clients act on."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_ODD: Final = re.compile(rb"[^!-)+-=?-~]")
"""What is not printable ASCII, and the wildcards."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Rejects:
    """Publishes rejected events, and says of them what one can read."""

    def __init__(
        self, connection: Connection, subjects: Subjects, clock: Callable[[], float]
    ) -> None:
        """``clock`` gives seconds that never go back."""
        self._connection: Final = connection
        self._subjects: Final = subjects
        self._clock: Final = clock
        self._lines: Final = Lines(log, rate=1, clock=clock)
        self._at = clock()
        self._events = BURST * MAX_RATE
        self._bytes = BURST * MAX_BYTES
        self.unsent = 0
        """Rejected events that were counted and logged, and not published: there were too many."""

    def publish(self, subject: bytes, headers: bytes, payload: bytes, error: EventError) -> None:
        """Send an event to ``rejected.…``; never waits."""
        event_type = type_of(subject)
        detail = f"{error.field}: {error.detail}" if error.field else error.detail
        detail = " ".join(detail.split())[:MAX_DETAIL]
        reason = str(error.reason)
        self._lines.say(
            logging.WARNING,
            "event rejected",
            lambda: {
                "reason": reason,
                "event_type": cut(event_type),
                "source": source_of(payload),
                "detail": detail,
            },
            kind=f"{reason} {cut(event_type)}",
        )
        if not self._may_publish(len(payload) + len(headers)):
            self.unsent += 1
            self._lines.say(
                logging.WARNING,
                "too many rejected events to publish all",
                lambda: {"unsent_in_all": self.unsent},
            )
            return
        lines = [
            f"{HEADER_REJECT_REASON}: {reason}",
            f"{HEADER_REJECT_DETAIL}: {detail}",
            *passed_on(headers),
        ]
        target = self._subjects.rejected(nameable(subject))
        self._connection.send(target, head("\r\n".join(lines)), payload)

    def _may_publish(self, size: int) -> bool:
        now = self._clock()
        passed, self._at = now - self._at, now
        self._events = min(BURST * MAX_RATE, self._events + passed * MAX_RATE)
        self._bytes = min(BURST * MAX_BYTES, self._bytes + passed * MAX_BYTES)
        if self._events < 1 or self._bytes < size or self._connection.unsent > MAX_UNSENT:
            return False
        self._events -= 1
        self._bytes -= size
        return True

    def tick(self) -> None:
        """Tell what was summed up."""
        self._lines.tick()

    def flush(self) -> None:
        """Tell all of it; for the end of the process."""
        self._lines.flush()


def type_of(subject: bytes) -> str:
    """Return the type that a subject names, as far as it names one."""
    return ".".join(subject.decode("ascii", "replace").split(".")[-3:-1])


def nameable(subject: bytes) -> str:
    """Return a subject that NATS takes, of the same form: its owner subscribes by that.

    NATS brings subjects that it would not take: what is no plain character is written ``=XX``.
    """
    tokens = subject.split(b".", MAX_TOKENS)[:MAX_TOKENS]
    plain = [_ODD.sub(lambda odd: b"=%02X" % odd[0][0], each)[:MAX_TOKEN] for each in tokens]
    return b".".join(plain).decode("ascii")


def head(lines: str) -> bytes:
    """Return a header block of these lines."""
    return f"NATS/1.0\r\n{lines}\r\n\r\n".encode()


def passed_on(headers: bytes) -> Iterator[str]:
    """Yield the lines of a publisher's header block that go on with a rejected event.

    Those that begin with ``Nats-`` get another name, since the server acts on some with the rights
    of whoever publishes them (``Nats-Trace-Dest``); what a reader might take for two lines, for one
    that goes on, or for the bridge's own word is left out.
    """
    size = 0
    for line in headers.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        lower = name.lower()
        if (
            not colon
            or not _NAME.fullmatch(name)
            or _CONTROL.search(value)
            or lower.startswith("bridge-reject-")
        ):
            continue
        if lower.startswith("nats-"):
            name = PREFIX + name
        told = f"{name}: {value.strip()}"
        size += len(told.encode()) + 2
        if size > MAX_HEADERS:
            return
        yield told


def source_of(payload: bytes) -> str | None:
    """Return the ``source`` of an event as far as it can be read, for a line of the log."""
    if len(payload) > MAX_READ:
        return None
    try:
        event: Any = from_json(payload, allow_partial=True)
    except ValueError:
        return None
    source = event.get("source") if isinstance(event, dict) else None
    return cut(source, 64) if isinstance(source, str) else None
