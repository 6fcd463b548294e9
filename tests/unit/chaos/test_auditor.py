"""The auditor of ``make chaos``: it finds each kind of fault, and none where none is."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.auditor import audit, told_in_words
from tests.chaos.plants import PLANTS, unfound
from tests.chaos.records import LogFile, Run, read_log
from tests.chaos.scripted import Script, ScriptedClient

REVIEW = "topic.review.updated.1"
MINE = "user.ann.upload.completed.7"
THEIRS = "user.bob.upload.completed.7"
EPHEMERAL = "user.ann.upload.progress.7"


def counts(script: Script) -> Counter[str]:
    """The faults of a run by kind."""
    return audit(script.run).counts


def started(*patterns: str) -> tuple[Script, ScriptedClient]:
    """A client that is connected and holds these patterns."""
    script = Script()
    client = ScriptedClient(script, "c1")
    client.open()
    if patterns:
        client.holds(*patterns)
    return script, client


def long_run() -> Script:
    """Three clients that get all that is theirs over two connections each."""
    script = Script()
    clients = [
        ScriptedClient(script, f"c{number}", user)
        for number, user in enumerate(("ann", "bob", "ann"))
    ]
    for client in clients:
        client.open()
        client.holds("review.*")
    seen = 0
    for stage in range(2):
        for number in range(40):
            subject = (REVIEW, MINE, THEIRS, "all.system.notification.-")[number % 4]
            event_id = script.publish(subject)
            seen = script.sequence
            for client in clients:
                if subject not in (MINE, THEIRS) or f".{client.user}." in subject:
                    client.gets(event_id)
        if not stage:
            for client in clients:
                client.write("close", code=1006)
                client.comes_back(seen, "review.*")
    for client in clients:
        client.end()
    return script


def test_all_is_well() -> None:
    """What is due comes once and in order: no fault, and every planted one is found."""
    script = long_run()
    assert not audit(script.run).faults
    assert not unfound(script.run, seed=1)


@pytest.mark.parametrize("name", PLANTS)
def test_each_plant_is_found_alone(name: str) -> None:
    """A planted fault is the only one that is found, wherever it is planted; its event's story says
    where it was published and who has it.
    """
    run = long_run().run
    for seed in range(20):
        planted = PLANTS[name](run, random.Random(seed))
        assert planted is not None
        report = audit(planted.run)
        found = {(fault.kind, fault.client, fault.event) for fault in report.faults}
        assert (planted.kind, planted.client, planted.event) in found
        assert {fault.client for fault in report.faults} == {planted.client}
        assert {fault.kind for fault in report.faults} <= {planted.kind, "lost", "untold_gap"}
        assert f"{planted.event} " in told_in_words(report, planted.run)


def test_an_auditor_that_finds_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative controls fail with an auditor that is blind."""
    run = long_run().run
    blind = audit(run)
    monkeypatch.setattr("tests.chaos.plants.audit", lambda _: blind)
    assert set(unfound(run, seed=1)) == set(PLANTS)


def test_lost_at_the_end() -> None:
    """What never came is lost for a client that left in order; no cursor has passed it."""
    script, client = started("review.*")
    script.publish(REVIEW)
    client.end()
    assert counts(script) == {"lost": 1, "deaf": 1}


def test_a_log_that_breaks_off_is_owed_nothing_more() -> None:
    """A client that was killed may have got what its log does not say."""
    script, client = started("review.*")
    first, second = script.publish(REVIEW), script.publish(REVIEW)
    assert not counts(script)
    client.gets(second)
    report = audit(script.run)
    assert [(fault.kind, fault.event) for fault in report.faults] == [
        ("lost", first),
        ("untold_gap", first),
    ]


def test_stored_without_an_acknowledgement() -> None:
    """An event that the stream holds is due, also where its publisher never learned of it."""
    script, client = started()
    script.publish(MINE, acknowledged=False)
    client.end()
    assert counts(script) == {"lost": 1}


@pytest.mark.parametrize("how", ["gap", "resume", "unavailable"])
def test_what_is_told_is_not_lost(how: str) -> None:
    """A range that is told covers what is in it and no more; without a range it ends with the next
    event.
    """
    script, client = started("review.*")
    events = [script.publish(REVIEW) for _ in range(6)]
    client.gets(events[0])
    if how == "gap":
        bounds = {"from": "s-1", "to": "s-3", "reason": "RETENTION", "recoverable": False}
        client.says("gap", bounds)
    elif how == "resume":
        script.purge(events[1])
        client.open(1)
        message_id = client.subscribe("review.*", given=1)
        client.acknowledged(message_id, "review.*")
        client.resumed(1)
        missing = {"from": "s-1", "to": "s-3"}
        client.resumed(3, message_id, reason="CURSOR_TOO_OLD", missing=missing)
    else:
        client.open(1)
        message_id = client.subscribe("review.*", given=1)
        client.acknowledged(message_id, "review.*")
        client.resumed(1)
        client.resumed(1, message_id, reason="UNAVAILABLE")
    for event_id in events[3:]:
        client.gets(event_id)
    client.end()
    report = audit(script.run)
    assert not report.faults
    assert report.told == 2
    without = [r for r in script.clients if "recoverable" not in str(r) and "missing" not in str(r)]
    if how != "unavailable":
        script.clients[:] = without
        assert counts(script)["lost"] == 2


def test_what_cannot_be_read_ends_with_the_next_event() -> None:
    """What is published after ``UNAVAILABLE`` and before the next event is in it, and no more."""
    script, client = started("review.*")
    client.says("gap", {"from": None, "to": None, "reason": "UNAVAILABLE", "recoverable": False})
    script.publish(REVIEW)
    client.gets(script.publish(REVIEW))
    lost = script.publish(REVIEW)
    client.end()
    report = audit(script.run)
    assert (report.told, [fault.event for fault in report.of("lost")]) == (1, [lost])


def test_told_too_little() -> None:
    """What is beside the range that is told is lost."""
    script, client = started("review.*")
    events = [script.publish(REVIEW) for _ in range(5)]
    client.says("gap", {"from": "s-0", "to": "s-2", "reason": "RETENTION", "recoverable": False})
    client.gets(events[4])
    client.end()
    assert [fault.event for fault in audit(script.run).of("lost")] == events[2:4]


def test_told_what_is_not_so() -> None:
    """A range of which the stream holds everything, or that is none, is miscounted."""
    for after, to in ((0, 2), (2, 2)):
        script, client = started("review.*")
        for event_id in [script.publish(REVIEW) for _ in range(3)]:
            client.gets(event_id)
        missing = {"from": f"s-{after}", "to": f"s-{to}"}
        client.resumed(3, reason="CURSOR_TOO_OLD", missing=missing)
        assert counts(script) == {"miscounted": 1}


def test_what_comes_again_from_a_replay_that_was_cut() -> None:
    """A client that is cut before the end of its replay comes back with the cursor that it gave,
    and may get again what is behind that, and nothing up to it.
    """
    script, client = started("review.*")
    events = [script.publish(REVIEW) for _ in range(4)]
    client.gets(events[0])
    for _ in range(2):
        client.open(1)
        client.acknowledged(client.subscribe("review.*", given=1), "review.*")
        client.gets(events[1])
    report = audit(script.run)
    assert not report.faults
    assert report.logs["c1"].repeated == 1
    client.gets(events[0])
    assert counts(script)["doubled"] == 1


def test_an_ephemeral_event_comes_once_a_connection() -> None:
    """It may come again on the next one, and is never due."""
    script, client = started()
    event = script.publish(EPHEMERAL, durable=False)
    script.publish(EPHEMERAL, durable=False)
    client.gets(event)
    client.open(0)
    client.gets(event)
    client.end()
    assert not counts(script)
    client.gets(event)
    assert counts(script) == {"doubled": 1}


def test_order_during_a_replay() -> None:
    """Topics' older events may come behind newer ones of the user until the replays have ended,
    each in its own order.
    """

    def played(order: tuple[int, ...], *, completed: int) -> Counter[str]:
        script, client = started("review.*")
        events = [script.publish((MINE, REVIEW)[at % 2]) for at in range(4)]
        client.open(0)
        message_id = client.subscribe("review.*", given=0)
        client.acknowledged(message_id, "review.*")
        for count, at in enumerate(order):
            if count == completed:
                client.resumed(4)
                client.resumed(4, message_id)
            client.gets(events[at])
        return counts(script)

    assert not played((0, 2, 1, 3), completed=4)
    assert played((0, 2, 1, 3), completed=2)["disordered"]
    assert played((0, 2, 3, 1), completed=4)["disordered"]


def test_what_a_client_must_not_get() -> None:
    """Another user's events, what it did not subscribe to or gave up, what its grants don't permit,
    and what nobody published.
    """
    script, client = started("review.*")
    client.gets(script.publish(THEIRS))
    client.gets(script.publish("topic.upload.completed.7"))
    assert counts(script) == {"foreign": 2}
    event = script.publish(REVIEW)
    client.write(
        "out", message={"type": "unsubscribe", "id": "u", "data": {"events": ["review.*"]}}
    )
    client.gets(event)
    assert counts(script) == {"foreign": 2}
    client.says("unsubscription.acknowledged", {"events": ["review.*"]}, reply_to="u")
    client.gets(script.publish(REVIEW))
    assert counts(script) == {"foreign": 3}
    client.says("review.updated", {}, id="nobody's", cursor="s-9")
    assert counts(script) == {"foreign": 4}


def test_grants_that_change() -> None:
    """From ``auth.refreshed`` on only the new grants count; between, either may, and both must."""
    script, client = started("review.*")
    narrow = {"allow": [">"], "deny": ["review.updated"]}
    client.write("out", message={"type": "auth.refresh", "id": "r", "data": {"grants": narrow}})
    client.gets(script.publish(REVIEW))
    script.publish(REVIEW)
    client.says("auth.refreshed", {"removed": []}, reply_to="r")
    script.publish(REVIEW)
    client.gets(script.publish(MINE))
    client.end()
    assert not counts(script)
    client.gets(script.publish(REVIEW))
    assert counts(script) == {"foreign": 1}


def test_grants_that_widen() -> None:
    """What they add is due from ``auth.refreshed`` on, and may come before that."""
    script = Script()
    client = ScriptedClient(script, "c1")
    client.grants = {"allow": [">"], "deny": ["review.updated"]}
    client.open()
    client.holds("review.*")
    wide = {"allow": [">"], "deny": []}
    client.write("out", message={"type": "auth.refresh", "id": "r", "data": {"grants": wide}})
    client.gets(script.publish(REVIEW))
    script.publish(REVIEW)
    client.says("auth.refreshed", {"removed": []}, reply_to="r")
    lost = script.publish(REVIEW)
    client.end()
    assert [fault.event for fault in audit(script.run).of("lost")] == [lost]


def test_what_is_given_up_is_due_until_a_cursor_passed_it() -> None:
    """An event before an ``unsubscribe`` is due only where a cursor came in between."""
    for passed in (False, True):
        script, client = started("review.*")
        lost = script.publish(REVIEW)
        if passed:
            client.gets(script.publish(MINE))
        client.gives_up("review.*")
        client.end()
        assert [fault.event for fault in audit(script.run).of("lost")] == [lost] * passed


def test_who_comes_back_without_a_cursor_is_owed_nothing_of_before() -> None:
    """What was published while it was away is gone for it."""
    script, client = started("review.*")
    client.write("close", code=1006)
    script.publish(REVIEW)
    client.open()
    client.holds("review.*")
    client.end()
    assert not counts(script)


def test_a_stream_that_falls_back() -> None:
    """What it lost is nobody's due, sequences that are used again are other events, and those are
    due and in order.
    """
    script, client = started("review.*")
    events = [script.publish(REVIEW) for _ in range(4)]
    for event_id in events[:3]:
        client.gets(event_id)
    script.restore(last=2)
    client.open(3)
    message_id = client.subscribe("review.*", given=3)
    client.acknowledged(message_id, "review.*")
    client.resumed(2, reason="CURSOR_AHEAD")
    client.resumed(2, message_id, reason="CURSOR_AHEAD")
    new = [script.publish(REVIEW) for _ in range(3)]
    for event_id in new:
        client.gets(event_id)
    client.end()
    assert not counts(script)
    script.clients[:] = [r for r in script.clients if (r.get("message") or {}).get("id") != new[1]]
    assert [fault.event for fault in audit(script.run).of("lost")] == [new[1]]


def test_cursors_of_events() -> None:
    """A durable event has a cursor, and its own."""
    script, client = started("review.*")
    client.gets(script.publish(REVIEW), cursor=9)
    message = {"type": "review.updated", "id": script.publish(REVIEW), "data": {}}
    client.write("in", message=message)
    assert counts(script) == {"renumbered": 1, "unmarked": 1}


def test_turned_away() -> None:
    """A close code from 4500 on is a fault: nothing that chaos does is the client's."""
    script, client = started()
    client.write("close", code=4002)
    assert not counts(script)
    client.write("close", code=4500)
    assert counts(script) == {"turned_away": 1}


def test_a_torn_log(tmp_path: Path) -> None:
    """A process that is killed tears the last line of its file at most, which is left out."""
    path = tmp_path / "clients-1.jsonl"
    log = LogFile(path)
    log.write("end", client="c1")
    log.write("end", client="c2")
    log.close()
    path.write_bytes(path.read_bytes()[:-5])
    assert [record["client"] for record in read_log(path)] == ["c1"]
    assert set(Run.read(tmp_path).clients) == {"c1"}
