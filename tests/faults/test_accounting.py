"""The accounting that other tests trust: it finds each kind of fault, and none where none is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsbridge.schemas.subjects import Address
from tests.support.accounting import Account, Ledger, Seen, audit, check, sequence_of
from tests.support.bus import everyone, topic

KINDS = ("review.updated", "upload.completed", "system.notification")
Script = list[dict[str, Any]]


def wants(address: Address) -> bool:
    """What the client of these tests is due: everything but the uploads."""
    return address.event_type != "upload.completed"


def cursor(sequence: int) -> str:
    """A cursor as the bridge writes it."""
    return f"abc-{sequence}"


def event(sequence: int, event_id: str | None = None) -> dict[str, Any]:
    """A durable event that comes in."""
    event_id = event_id or f"id-{sequence}"
    return {"type": "review.updated", "id": event_id, "cursor": cursor(sequence), "data": {}}


def completed(after: int, to: int) -> dict[str, Any]:
    """The end of a replay that could not give all."""
    missing = {"from": cursor(after), "to": cursor(to)}
    data: dict[str, Any] = {"recovered": False, "replayed": 0, "missing": missing}
    if after == to:
        del data["missing"]
    return {"type": "resume.completed", "data": data}


def gap(after: int, to: int | None, *, recoverable: bool) -> dict[str, Any]:
    """A gap in the middle of a connection."""
    data = {"from": cursor(after), "to": None if to is None else cursor(to)}
    return {"type": "gap", "data": {**data, "recoverable": recoverable, "reason": "-"}}


def ledger_of(count: int, start: int = 1) -> Ledger:
    """So many events, of each kind in turn, written down in no order."""
    ledger = Ledger()
    numbers = list(range(start, start + count))
    random.Random(count).shuffle(numbers)
    for number in numbers:
        ledger.acknowledge(f"id-{number}", number, topic(KINDS[number % 3]))
    return ledger


def account_of(script: Script, start: int = 0) -> Account:
    """A client that got these messages."""
    account = Account("client", wants, start=start)
    for message in script:
        account.note(message)
    return account


def perfect(ledger: Ledger) -> Script:
    """What a client of these tests gets when all is well."""
    return [event(each.sequence) for each in ledger.events if wants(each.address)]


def test_all_is_well() -> None:
    """Every event that is due, in order and once, is no fault; others are nobody's business."""
    ledger = ledger_of(30)
    [result] = check([account_of(perfect(ledger))], ledger)
    assert (result.received, result.told, result.faults) == (20, 0, {})


def bare(message: dict[str, Any]) -> dict[str, Any]:
    """An event without its cursor."""
    return {name: value for name, value in message.items() if name != "cursor"}


def swap(script: Script) -> Script:
    """Two neighbours in the wrong order."""
    return [*script[:4], script[5], script[4], *script[6:]]


@pytest.mark.parametrize(
    ("spoil", "fault", "named"),
    [
        (lambda script: script[:5] + script[6:], "lost", "id-9"),
        (lambda script: script[:-1], "lost", "id-30"),
        (lambda script: script[1:], "lost", "id-2"),
        (lambda script: [*script, script[3]], "doubled", "id-6"),
        (lambda script: [*script[:6], *script[5:]], "doubled", "id-9"),
        (swap, "disordered", "id-8"),
        (lambda script: [*script, completed(9, 14)], "contradicted", "id-11"),
        (lambda script: [*script[:3], event(7, "id-6"), *script[4:]], "renumbered", "id-6"),
        (lambda script: [*script, event(31)], "foreign", "id-31"),
        (lambda script: [*script[:2], bare(script[2]), *script[3:]], "unmarked", "id-5"),
        (lambda script: [*script, event(31, "id-4")], "foreign", "id-4"),
    ],
)
def test_every_fault_is_found(spoil: Callable[[Script], Script], fault: str, named: str) -> None:
    """One spoilt place is found, is of its kind, and is named in the failure."""
    ledger = ledger_of(30)
    account = account_of(spoil(perfect(ledger)))
    found = audit(account, ledger).faults
    assert fault in found, found
    with pytest.raises(AssertionError, match=rf"{fault} .*{named}\b"):
        check([account], ledger)


def test_told_missing() -> None:
    """What was told missing, after one cursor up to and with another, is no loss; more is."""
    ledger = ledger_of(30)
    script = perfect(ledger)
    without = [each for each in script if not 8 < sequence_of(each["cursor"]) <= 15]
    [result] = check([account_of([*without, completed(8, 15)])], ledger)
    assert (result.received, result.told) == (15, 5)
    [result] = check([account_of([*without, gap(8, 15, recoverable=False)])], ledger)
    assert result.told == 5
    for short in (completed(9, 15), completed(8, 14), gap(8, 15, recoverable=True)):
        assert "lost" in audit(account_of([*without, short]), ledger).faults
    assert "contradicted" in audit(account_of([*without, completed(8, 17)]), ledger).faults


def test_told_unavailable() -> None:
    """Where JetStream could not be read, what is missing ends with the next event: of what was
    subscribed to, and not of what comes by itself; and what came before must not be in it.
    """
    ledger = ledger_of(30)
    script = perfect(ledger)
    unavailable = {"recovered": False, "replayed": 0, "reason": "UNAVAILABLE"}
    told = {"type": "resume.completed", "reply_to": "s1", "data": unavailable}
    result = audit(account_of([*script[:10], told, *script[12:]]), ledger)
    assert not result.faults
    assert result.told == 2
    by_itself = {"type": "resume.completed", "data": unavailable}
    assert audit(account_of([*script[:10], by_itself, *script[12:]]), ledger).faults["lost"]
    assert audit(account_of([*script[:10], told, *script[12:15], *script[16:]]), ledger).faults
    assert audit(account_of([*script[:10], told, *script[13:], script[11]]), ledger).faults


def test_older_events_of_a_subscription() -> None:
    """They may come after newer ones that came by themselves, in their own order, until the end of
    the replay; at any other time they are a fault.
    """
    ledger = Ledger()
    for number in range(1, 10):
        ledger.acknowledge(f"id-{number}", number, (everyone, topic)[number % 2]("review.updated"))
    direct = [{**event(number), "cursor": f"{cursor(0)}-{number}"} for number in (2, 4, 6, 8)]
    older = [{**event(number), "cursor": cursor(number) + "-8"} for number in (1, 3, 5, 7)]
    late = {"type": "subscription.acknowledged", "data": {}}
    end = {**completed(0, 0), "reply_to": "s"}
    check([account_of([*direct, late, *older, end, event(9)])], ledger)
    for script in (
        [*direct, *older, late, end, event(9)],
        [*direct, late, *older[:3], end, older[3], event(9)],
        [*direct, late, older[0], older[2], older[1], older[3], end, event(9)],
    ):
        assert "disordered" in audit(account_of(script), ledger).faults


def test_the_two_sequences_of_a_cursor() -> None:
    """An event's own sequence is one of those in its cursor; where it is none, that is a fault."""
    ledger = ledger_of(30)
    script = perfect(ledger)
    script[2]["cursor"] = "abc-3-5"
    assert not audit(account_of(script), ledger).faults
    script[2]["cursor"] = "abc-3-6"
    assert set(audit(account_of(script), ledger).faults) == {"renumbered"}


def test_a_cursor_that_steps_back() -> None:
    """Within a connection a cursor never goes back; a connection begins where it was told to."""
    ledger = ledger_of(30)
    first, second, *_ = perfect(ledger)
    anew = {"type": "connection.established", "data": {"cursor": "abc-1"}}
    end = {"type": "resume.completed", "data": {"cursor": "abc-4"}}
    assert "stepped_back" not in audit(account_of([first, end, anew, second]), ledger).faults
    late = {**second, "cursor": "abc-2-3"}
    assert "stepped_back" not in audit(account_of([first, late]), ledger).faults
    assert "stepped_back" in audit(account_of([end, late]), ledger).faults


def test_what_came_before_the_start_is_nobodys_due() -> None:
    """A client is due what comes after its start, and nothing while it has none."""
    ledger = ledger_of(30)
    late = account_of(perfect(ledger)[10:], start=15)
    assert not audit(late, ledger).faults
    never = Account("never", wants)
    assert not never.due(ledger)
    assert audit(never, ledger).faults == {"unmarked": ["the subscription"]}


def test_one_event_has_one_sequence() -> None:
    """A retry that is acknowledged again is the same event; another sequence is a fault."""
    ledger = ledger_of(3)
    ledger.acknowledge("id-2", 2, topic("review.updated"))
    assert len(ledger) == 3
    with pytest.raises(AssertionError, match="id-2 was acknowledged as 2 and as 9"):
        ledger.acknowledge("id-2", 9, topic("review.updated"))


@given(st.data())
def test_any_spoilt_script_is_found(data: st.DataObject) -> None:
    """Dropping, doubling and moving at any places is found; an untouched script never is."""
    ledger = ledger_of(data.draw(st.integers(6, 60)), start=data.draw(st.integers(1, 1 << 40)))
    start = ledger.events[0].sequence - 1
    script = perfect(ledger)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(script) - 1))
        match data.draw(st.sampled_from(("drop", "double", "move"))):
            case "drop":
                del script[at]
            case "double":
                script.insert(data.draw(st.integers(0, len(script))), script[at])
            case "move":
                script.insert(data.draw(st.integers(0, len(script) - 1)), script.pop(at))
    account = account_of(script, start)
    good = [Seen(each["id"], (sequence_of(each["cursor"]),)) for each in perfect(ledger)]
    assert bool(audit(account, ledger).faults) == (account.seen != good)
