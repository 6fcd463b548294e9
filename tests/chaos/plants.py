"""Negative controls: faults planted into what a run wrote down, which the auditor has to find.

Each takes a run that may have faults of its own, changes a copy of one client's log at a place
where nothing excuses it, and says which fault must be found, of which client, naming which event.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.chaos.auditor import audit
from tests.chaos.records import Event, Record, Run

RUN_LENGTH: Final = 5
"""How many events in a row a plant looks for."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A run with a fault that was not there."""

    run: Run
    kind: str
    client: str
    event: str


Plant = Callable[[Run, random.Random], Planted | None]
"""Plants a fault; None where the run has no place for it."""


def loss(run: Run, dice: random.Random) -> Planted | None:
    """One event never comes, and nothing is said."""
    if (place := _find(run, dice)) is None:
        return None
    name, events = place
    gone = events[2][1].id
    return Planted(_without(run, name, {gone}), "lost", name, gone)


def untold_gap(run: Run, dice: random.Random) -> Planted | None:
    """Three events in a row do not come, and the cursor goes on."""
    if (place := _find(run, dice)) is None:
        return None
    name, events = place
    gone = [event.id for _, event in events[1:4]]
    return Planted(_without(run, name, {*gone}), "untold_gap", name, gone[0])


def double(run: Run, dice: random.Random) -> Planted | None:
    """One event comes again on the same connection."""
    if (place := _find(run, dice)) is None:
        return None
    name, events = place
    (at, event), (later, _) = events[0], events[3]
    log = list(run.clients[name])
    log.insert(later + 1, {**log[at], "at": log[later]["at"]})
    return Planted(_with(run, name, log), "doubled", name, event.id)


def disorder(run: Run, dice: random.Random) -> Planted | None:
    """Two neighbours change places."""
    if (place := _find(run, dice)) is None:
        return None
    name, events = place
    (one, event), (other, _) = events[1], events[2]
    log = list(run.clients[name])
    log[one], log[other] = (
        {**log[other], "at": log[one]["at"]},
        {**log[one], "at": log[other]["at"]},
    )
    return Planted(_with(run, name, log), "disordered", name, event.id)


def foreign(run: Run, dice: random.Random) -> Planted | None:
    """An event of another user comes."""
    if (place := _find(run, dice)) is None:
        return None
    name, events = place
    at = events[2][0]
    log = list(run.clients[name])
    user = next(record["user"] for record in log if record["what"] == "open")
    others = [e for e in run.durable if e.audience == "user" and e.user != user and not e.fell]
    if not others:
        return None
    other = dice.choice(others)
    message = {"type": other.type, "id": other.id, "data": {}, "cursor": f"x-{other.sequence}"}
    log.insert(at + 1, {**log[at], "message": message})
    return Planted(_with(run, name, log), "foreign", name, other.id)


PLANTS: Final[dict[str, Plant]] = {
    "loss": loss,
    "double": double,
    "disorder": disorder,
    "untold gap": untold_gap,
    "foreign": foreign,
}


def unfound(run: Run, seed: int) -> dict[str, str]:
    """Plant one fault of each kind; return those that the auditor has not found, and why not."""
    wrong = {}
    for name, plant in PLANTS.items():
        planted = plant(run, random.Random(f"{seed} {name}"))
        if planted is None:
            wrong[name] = "no client has a stretch of events to plant it in"
            continue
        found = audit(planted.run)
        known = (planted.kind, planted.client, planted.event)
        if not any((each.kind, each.client, each.event) == known for each in found.faults):
            wrong[name] = f"{known} was planted, found: {dict(found.counts)}"
    return wrong


def _find(run: Run, dice: random.Random) -> tuple[str, list[tuple[int, Event]]] | None:
    """Choose a client, and events in a row where nothing else happened to it.

    Each came once, live, to a client that was told of nothing missing, never gave anything up and
    left in order.
    """
    names = sorted(run.clients)
    dice.shuffle(names)
    for name in names:
        log = run.clients[name]
        if _is_plain(log) and (stretches := _stretches(run, log)):
            return name, dice.choice(stretches)
    return None


def _is_plain(log: list[Record]) -> bool:
    sent = {record["message"]["type"] for record in log if record["what"] == "out"}
    told = any(
        record["message"]["data"].get("recovered") is False
        or record["message"]["data"].get("recoverable") is False
        for record in log
        if record["what"] == "in"
    )
    return log[-1]["what"] == "end" and not told and not sent & {"unsubscribe", "auth.refresh"}


def _stretches(run: Run, log: list[Record]) -> list[list[tuple[int, Event]]]:
    """Return rows of durable events, with their places, behind the last answer of a connection."""
    counts = Counter(record["message"].get("id") for record in log if record["what"] == "in")
    found: list[list[tuple[int, Event]]] = []
    row: list[tuple[int, Event]] = []
    quiet_from = 0.0
    for at, record in enumerate(log):
        event = None
        if record["what"] == "in":
            event = run.events.get(record["message"].get("id", ""))
        if event is None:
            row, quiet_from = [], record["at"]
            if record["what"] == "in" and "." in record["message"]["type"]:
                # An answer: what came before it on this connection may belong to a replay.
                while found and found[-1][0][0] > _began(log, at):
                    found.pop()
        elif event.durable:
            row.append((at, event))
            if len(row) == RUN_LENGTH:
                if all(_is_sure(each, quiet_from, counts) for _, each in row) and _ascends(row):
                    found.append(row)
                row = []
    return found


def _began(log: list[Record], at: int) -> int:
    return next(place for place in range(at, -1, -1) if log[place]["what"] == "open")


def _is_sure(event: Event, quiet_from: float, counts: Counter[str]) -> bool:
    acknowledged = event.stored is not None and not event.fell
    return acknowledged and event.sent > quiet_from and counts[event.id] == 1


def _ascends(row: list[tuple[int, Event]]) -> bool:
    return all(one.position < other.position for (_, one), (_, other) in pairwise(row))


def _with(run: Run, name: str, log: list[Record]) -> Run:
    changed = copy(run)
    changed.clients = {**run.clients, name: log}
    return changed


def _without(run: Run, name: str, gone: set[str]) -> Run:
    log = [r for r in run.clients[name] if (r.get("message") or {}).get("id") not in gone]
    return _with(run, name, log)
