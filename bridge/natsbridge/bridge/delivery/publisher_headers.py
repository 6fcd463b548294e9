"""The headers that a publisher wrote: which schema it names, and in which trace.

The hub knows by its end a block that the SDK wrote; the rest is read here.
"""

from __future__ import annotations

from typing import Final

from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.envelope import HEADER_SCHEMA, named_schema
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.trace import LENGTH, NOT_SAMPLED, sampled

MAX_VERSIONS: Final = 8
"""Versions of one type that are counted apart; the others count together."""
MAX_VERSION_DIGITS: Final = 6

TRACE_FIRST: Final = b"NATS/1.0\r\ntraceparent: 00-"
"""How a header block begins in which a carrier has put the trace first, as the SDK does."""
TRACE_FLAG: Final = len(TRACE_FIRST) - len("00-") + LENGTH - 1
"""Where the last digit of its flags is then."""
UNSAMPLED: Final = frozenset(b"".join(NOT_SAMPLED))
"""What that digit is in a trace that is not sampled, as a byte."""


def trace_of(headers: bytes) -> bytes:
    """Return the ``traceparent`` of a header block, empty where it is not sampled."""
    return sampled(headers, headers.lower())


class Schemas:
    """Counts events by the schema that their publishers named: a bounded table."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue: Final = catalogue
        self._others: Final[dict[str, dict[str, int]]] = {}

    def read(self, headers: bytes, event_type: EventType) -> bytes:
        """Count what a header block names; return its trace, see :func:`trace_of`.

        Raises :class:`EventError` for a schema of another type.
        """
        lower = headers.lower()
        named = named_schema(headers, lower)
        if named is not None:
            if named[0] != event_type.name:
                detail = "the header disagrees with the subject"
                raise EventError(RejectReason.TYPE_MISMATCH, detail, HEADER_SCHEMA)
            self._count(event_type, named[1])
        return sampled(headers, lower) if len(headers) >= LENGTH else b""

    def _count(self, event_type: EventType, version: str) -> None:
        if version == str(event_type.traits.version):
            event_type.published += 1
            return
        counts = self._others.setdefault(event_type.name, {})
        if version not in counts and not (
            version.isascii()
            and version.isdigit()
            and len(version) <= MAX_VERSION_DIGITS
            and len(counts) < MAX_VERSIONS
        ):
            version = "other"
        counts[version] = counts.get(version, 0) + 1

    @property
    def counts(self) -> dict[str, int]:
        """How many events named each schema, ``<type>@<version>``."""
        found: dict[str, int] = {}
        for name in self._catalogue.types:
            if (known := self._catalogue.get(name)) is not None:
                found[known.schema] = known.published
        for name, versions in self._others.items():
            found |= {f"{name}@{version}": count for version, count in versions.items()}
        return found
