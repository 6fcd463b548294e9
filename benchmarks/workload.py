"""What is sent in a measurement: the events, how fast, and how many deliveries they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.events import Message
from benchmarks.processes import Process
from benchmarks.publisher import Publisher


@dataclass(frozen=True, slots=True)
class Shape:
    """How the bridge wrote in this round, for the floor to do the same: bytes of a payload (with
    the cursor that was spliced in; 0 for as they were published), and frames in one write.
    """

    payload: int = 0
    batch: int = 128

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Shape:
        """Read it from what the bridge's measurement shows."""
        frame = metrics["wire_bytes"]
        payload = frame - (2 if frame < 128 else 4 if frame < 65540 else 10)
        return cls(round(payload), max(1, round(metrics.get("batch", 1))))


@dataclass(frozen=True, slots=True)
class Workload:
    """``interval`` is the seconds between two events, 0 for all at once.

    ``fan_out`` says whether each event goes to every connection, else to one of them; the floor,
    which has no broker to ask, needs to be told.
    """

    messages: Sequence[Message]
    deliveries: int
    size: int
    interval: float = 0.0
    fan_out: bool = True

    @property
    def deadline(self) -> float:
        """Seconds after which a peer that has not delivered everything has failed."""
        return 15 + self.interval * len(self.messages) + self.deliveries * 150e-6

    def publish(self, publisher: Publisher) -> float:
        """Send it through the broker; return how late the publisher was at most, in seconds."""
        if self.interval:
            return publisher.paced(self.messages, self.interval)
        publisher.burst(self.messages)
        return 0.0

    def write(self, floor: Process, shape: Shape) -> dict[str, float]:
        """Have the floor write the same; return what it says of its own times."""
        floor.ask(f"frame {shape.payload or self.size}")
        events, nanoseconds = len(self.messages), int(self.interval * 1e9)
        if not self.fan_out:
            command = f"spread {events} {nanoseconds} {1 if self.interval else shape.batch}"
        elif self.interval:
            command = f"rounds {events} {nanoseconds}"
        else:
            command = f"burst {events} {shape.batch}"
        return floor.ask(command, self.deadline)
