"""The verdict on a run, event by event: what was lost untold, doubled, disordered, not permitted.

Pure, and independent of the bridge: it reads what services published, what the stream acknowledged,
and what each client sent and received, see :mod:`tests.chaos.records`. The kinds of faults:

``lost``         a durable event was due, did not come, and was not told to be missing
``untold_gap``   a run of lost events that a later cursor of the client has passed
``deaf``         a subscription was acknowledged, and nothing of it came though something was due
``doubled``      came twice on a connection, or again though the cursor brought had passed it
``disordered``   older than one before it: of its subject, or of the connection
``foreign``      nobody published it, or it is not permitted, not subscribed to, another user's
``miscounted``   a range that is told to be missing and is not
``unmarked``, ``renumbered``   a durable event without a cursor, or with another event's
``turned_away``  closed with a code after which a client must not come back

An event is due when it was first sent after the acknowledgement was read, and the client held what
entitles it to it until either a cursor passed the event or the client left in order at the end.
What comes again because the client, cut amid a replay, came back with the cursor that it gave, is
no double.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from tests.chaos.client_log import ClientLog, Fault
from tests.chaos.records import Event, Run
from tests.support.model import covers

SHOWN: Final = 10
"""How many faults of each kind a report shows."""


@dataclass
class Report:
    """What was found."""

    logs: dict[str, ClientLog]
    faults: list[Fault] = field(default_factory=list)
    told: int = 0
    """Events that were due, did not come, and were told to be missing."""

    @property
    def counts(self) -> Counter[str]:
        """How many faults there are of each kind."""
        return Counter(fault.kind for fault in self.faults)

    def of(self, kind: str) -> list[Fault]:
        """The faults of one kind."""
        return [fault for fault in self.faults if fault.kind == kind]


def audit(run: Run) -> Report:
    """Judge a run."""
    report = Report({name: ClientLog(name, log, run) for name, log in run.clients.items()})
    durable = run.durable
    for log in report.logs.values():
        report.faults += log.faults
        lost = []
        for event in durable:
            if event.id in log.received or event.fell or not _is_due(log, event):
                continue
            if any(tell.has(event) for tell in log.tells):
                report.told += 1
            else:
                lost.append(event)
        report.faults += [_lost(log, event) for event in lost]
        report.faults += _gaps(log, lost)
        report.faults += _deaf(log, lost, run)
    return report


def _is_due(log: ClientLog, event: Event) -> bool:
    """Whether an event that did not come has to be accounted for."""
    starts = [span.start for span in log.spans]
    at = bisect_right(starts, event.sent) - 1
    passed = _passed(log, event)
    for number, span in enumerate(log.spans[at:], at):
        if not span.entitles(event) or (number > at and span.breaks):
            return False
        ends = log.spans[number + 1].start if number + 1 < len(log.spans) else None
        if passed is not None and (ends is None or passed[0] < ends):
            return True
    return log.ended


def _passed(log: ClientLog, event: Event) -> tuple[float, int] | None:
    """Return the first cursor, and its time, that says that the client is past an event."""
    assert event.sequence is not None
    for at, sequence in log.cursors:
        if at > event.sent and sequence >= event.sequence:
            return at, sequence
    return None


def _lost(log: ClientLog, event: Event) -> Fault:
    passed = _passed(log, event)
    how = "never came" if passed is None else f"passed by {passed[1]} at {passed[0]:.3f}"
    return Fault("lost", log.name, event.id, event.sent, f"{event.subject}: {how}")


def _gaps(log: ClientLog, lost: list[Event]) -> list[Fault]:
    """Return one fault for each run of lost events that the same cursor passed."""
    passed = [(cursor, each) for each in lost if (cursor := _passed(log, each)) is not None]
    faults = []
    for cursor, group in groupby(passed, key=lambda pair: pair[0]):
        events = [event for _, event in group]
        words = f"{len(events)} from {events[0].sequence} on, passed by {cursor[1]}"
        faults.append(Fault("untold_gap", log.name, events[0].id, cursor[0], words))
    return faults


def _deaf(log: ClientLog, lost: list[Event], run: Run) -> list[Fault]:
    """Return a fault for each acknowledged pattern of which something was due and nothing came."""
    faults = []
    for at, patterns in log.acknowledged:
        for pattern in patterns:
            ends = next(
                (s.start for s in log.spans if s.start > at and pattern not in s.held), None
            )
            missed = [e for e in lost if e.sent > at and _is_topic(e, pattern) and _in(e, ends)]
            if missed and not _got(log, pattern, at, ends, run):
                words = f"{pattern}, acknowledged: {len(missed)} were due and none came"
                faults.append(Fault("deaf", log.name, missed[0].id, at, words))
    return faults


def _in(event: Event, ends: float | None) -> bool:
    return ends is None or event.sent < ends


def _is_topic(event: Event, pattern: str) -> bool:
    return event.audience == "topic" and covers(pattern, event.type, event.resource)


def _got(log: ClientLog, pattern: str, at: float, ends: float | None, run: Run) -> bool:
    return any(
        any(at < time and (ends is None or time < ends) for time in times)
        and _is_topic(run.events[event_id], pattern)
        for event_id, times in log.received.items()
    )


def told_in_words(report: Report, run: Run) -> str:
    """Return the faults with the story of each event, for a person to read."""
    lines = []
    for kind, count in sorted(report.counts.items()):
        lines.append(f"{kind}: {count}")
        lines += [f"  {fault}" for fault in report.of(kind)[:SHOWN]]
    named = dict.fromkeys(f.event for f in report.faults if f.event in run.events)
    for event_id in [each for each in named if each is not None][:SHOWN]:
        lines += _story(report, run.events[event_id])
    return "\n".join(lines)


def _story(report: Report, event: Event) -> list[str]:
    """Return what became of one event: who had it when, and what those were told that had not."""
    lines = [event.where]
    got = [
        (times[0], log.name)
        for log in report.logs.values()
        if (times := log.received.get(event.id))
    ]
    if got:
        first, last = min(got), max(got)
        lines.append(
            f"  came to {len(got)} clients, first {first[1]} at {first[0]:.3f}, "
            f"last {last[1]} at {last[0]:.3f}"
        )
    for fault in report.faults:
        if fault.event == event.id and fault.kind == "lost":
            log = report.logs[fault.client]
            near = [t for t in log.tells if abs(t.at - event.sent) < 30][:3]
            told = "; ".join(f"{t.reason} {t.after} to {t.to} at {t.at:.3f}" for t in near)
            lines.append(f"  {fault.client} has not: {fault.detail}; told: {told or 'nothing'}")
    return lines[: SHOWN + 2]
