"""What a run writes down, as JSON lines, and how the auditor reads it back.

Every process writes a file of its own, and each line is in the kernel before the process goes on:
SIGKILL tears the last line at most, and what a file says until then is true. Times are of the
monotonic clock, which all processes of one machine share.

Lines of services and of the run itself (``what``):

``sent``      ``id``, ``subject`` below the root, ``durable``; before the first attempt
``stored``    ``id``, ``sequence``: the stream has acknowledged it
``held``      ``id``, ``sequence``: read from the stream at the end of the run
``restored``  ``last``: the stream fell back to a copy that ends with this sequence

Lines of clients, each with ``client``:

``open``      ``given`` (cursor or null), ``user``, ``direct``, ``grants``: an attempt to connect
``in``        ``message`` as it came
``out``       ``message`` as it was sent; of a token only its ``grants``
``close``     ``code``
``end``       the client left in order, having waited for everything
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Record = dict[str, Any]
Grants = dict[str, list[str]]
"""``allow`` and ``deny``, patterns both."""

TOKENS_OF_USER: Final = 5


class LogFile:
    """A file of records that survives SIGKILL line by line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, what: str, **fields: Any) -> None:
        """Write one record with the time of now."""
        record = {"at": time.monotonic(), "what": what, **fields}
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> Iterator[Record]:
    """Yield the records of a file; a torn last line is left out."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


@dataclass(slots=True)
class Event:
    """One event that a service tried to publish."""

    id: str
    subject: str
    durable: bool
    sent: float
    service: str = ""
    stored: float | None = None
    """When the stream's acknowledgement came; None where none did."""
    sequence: int | None = None
    """Where the stream holds it, or held it."""
    epoch: int = 0
    """How often the stream had fallen back before it was stored: sequences are used again."""
    fell: bool = False
    """The stream lost it when it fell back."""
    audience: str = ""
    user: str = ""
    type: str = ""
    resource: str = ""

    def __post_init__(self) -> None:
        tokens = self.subject.split(".")
        self.audience = tokens[0]
        self.user = tokens[1] if len(tokens) == TOKENS_OF_USER else ""
        domain, action, self.resource = tokens[-3:]
        self.type = f"{domain}.{action}"

    @property
    def position(self) -> tuple[int, int]:
        """Where it stands in all that the stream ever stored; only with a sequence."""
        assert self.sequence is not None
        return self.epoch, self.sequence

    @property
    def where(self) -> str:
        """The event in one line."""
        stored = "not acknowledged" if self.stored is None else f"stored at {self.stored:.3f}"
        return (
            f"{self.id} {self.subject} of {self.service or 'nobody'}: sent at {self.sent:.3f}, "
            f"{stored}, sequence {self.sequence}"
        )


@dataclass(frozen=True, slots=True)
class Restore:
    """The stream fell back to a copy whose last message has this sequence."""

    at: float
    last: int


@dataclass
class Run:
    """All that a run wrote down."""

    events: dict[str, Event] = field(default_factory=dict)
    clients: dict[str, list[Record]] = field(default_factory=dict)
    restores: list[Restore] = field(default_factory=list)
    gone: set[int] | None = None
    """Sequences of events that were acknowledged, and that the stream did not hold at the end; None
    where nobody has looked.
    """

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the logs in a folder: ``service-*``, ``run``, ``clients-*``, each ``.jsonl``."""
        services = {
            path.stem.removeprefix("service-"): list(read_log(path))
            for path in sorted(folder.glob("service-*.jsonl"))
        }
        own = folder / "run.jsonl"
        clients = (record for path in folder.glob("clients-*.jsonl") for record in read_log(path))
        return cls.of(services, read_log(own) if own.exists() else (), clients)

    @classmethod
    def of(
        cls,
        services: dict[str, list[Record]],
        own: Iterable[Record],
        clients: Iterable[Record],
    ) -> Run:
        """Put together what services, the run itself and clients wrote."""
        run = cls()
        held: dict[str, int] = {}
        for record in own:
            if record["what"] == "restored":
                run.restores.append(Restore(record["at"], record["last"]))
            elif record["what"] == "held":
                held[record["id"]] = record["sequence"]
        for service, records in services.items():
            for record in records:
                run._published(service, record)
        run._place(held)
        for record in clients:
            run.clients.setdefault(record["client"], []).append(record)
        return run

    def _published(self, service: str, record: Record) -> None:
        if record["what"] == "sent":
            event = Event(record["id"], record["subject"], record["durable"], record["at"], service)
            self.events.setdefault(event.id, event)
        elif record["what"] == "stored":
            event = self.events[record["id"]]
            event.stored, event.sequence = record["at"], record["sequence"]

    def _place(self, held: dict[str, int]) -> None:
        self.gone = set() if held else None
        for event in self.events.values():
            if event.stored is not None:
                event.epoch = sum(restore.at <= event.stored for restore in self.restores)
            elif event.id in held:
                # Its acknowledgement was lost, or its service; the stream has it all the same.
                event.sequence = held[event.id]
                event.epoch = sum(event.sequence > restore.last for restore in self.restores)
            if event.sequence is None:
                continue
            later = self.restores[event.epoch :]
            event.fell = any(event.sequence > restore.last for restore in later)
            if self.gone is not None and event.id not in held and not event.fell:
                self.gone.add(event.sequence)

    def lacks(self, after: int, to: int) -> bool:
        """Whether the stream had lost something of this range at the end, as far as is known."""
        return self.gone is None or any(after < each <= to for each in self.gone)

    @property
    def durable(self) -> list[Event]:
        """The durable events that the stream has or had, in the order of the stream."""
        placed = (each for each in self.events.values() if each.durable and each.sequence)
        return sorted(placed, key=lambda event: event.position)
