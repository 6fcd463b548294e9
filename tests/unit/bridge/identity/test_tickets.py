"""Tickets: used once, in time, by whoever holds them; and what travels between replicas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.errors import TicketError
from bridge.identity.grants import GrantPolicy
from bridge.identity.tickets import (
    MAX_TICKET_LENGTH,
    Tickets,
    TicketsExhausted,
    identity_from_json,
    identity_to_json,
    owner,
)
from tests.unit.bridge.identity.conftest import Clock, People


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(30, 3, "replica-1", clock)


def test_a_ticket_is_good_once(tickets: Tickets, people: People) -> None:
    """The first who brings it gets the identity it was issued to, the second is refused."""
    identity = people.make()
    ticket = tickets.issue(identity)
    assert tickets.redeem(ticket) is identity
    with pytest.raises(TicketError):
        tickets.redeem(ticket)


def test_a_ticket_is_good_for_its_time(tickets: Tickets, people: People, clock: Clock) -> None:
    """At the end of its life it is refused, with the words that an unknown one gets."""
    early, late = tickets.issue(people.make()), tickets.issue(people.make())
    clock.now += 29.9
    tickets.redeem(early)
    clock.now += 0.1
    with pytest.raises(TicketError) as too_old:
        tickets.redeem(late)
    with pytest.raises(TicketError) as unknown:
        tickets.redeem("replica-1.x")
    assert str(too_old.value) == str(unknown.value)


def test_capacity_refuses_and_evicts_nobody(tickets: Tickets, people: People, clock: Clock) -> None:
    """At capacity no ticket is issued, those that wait stay good, and room comes with time."""
    waiting = [tickets.issue(people.make()) for _ in range(3)]
    with pytest.raises(TicketsExhausted):
        tickets.issue(people.make())
    tickets.redeem(waiting[1])
    tickets.issue(people.make())
    with pytest.raises(TicketsExhausted):
        tickets.issue(people.make())
    tickets.redeem(waiting[0])
    tickets.redeem(waiting[2])
    clock.now += 30
    assert [owner(tickets.issue(people.make())) for _ in range(3)] == ["replica-1"] * 3


def test_expired_ones_are_forgotten(tickets: Tickets, people: People, clock: Clock) -> None:
    """What nobody redeemed does not stay in memory."""
    tickets.issue(people.make())
    clock.now += 20
    tickets.issue(people.make())
    clock.now += 10
    assert tickets.purge() == 1
    assert len(tickets) == 1


def test_tickets_differ_and_name_their_replica(tickets: Tickets, people: People) -> None:
    """Each is a new secret of 32 bytes, behind the id of the replica that issued it."""
    first, second = tickets.issue(people.make()), tickets.issue(people.make())
    assert first != second
    assert owner(first) == "replica-1"
    assert len(first.partition(".")[2]) == 43
    assert len(first) <= MAX_TICKET_LENGTH


@pytest.mark.parametrize(
    "ticket",
    ["", "x", ".", "a.b", f"a.{'x' * 44}", f"a.b.{'x' * 43}", f"*.{'x' * 43}", f"a b.{'x' * 43}",
     f"{'a' * 65}.{'x' * 43}", f"a.{'x' * 43}\n", f"é.{'x' * 43}"],
)  # fmt: skip
def test_what_is_no_ticket_names_no_replica(ticket: str) -> None:
    """No text of a client's becomes part of a subject unless it has the form of a ticket."""
    with pytest.raises(TicketError):
        owner(ticket)


@pytest.mark.parametrize("replica", ["", "a.b", "a b", "*", "é", "x" * 65])
def test_a_replica_id_is_a_plain_token(replica: str) -> None:
    """An id that would not stand in a subject is refused when the bridge starts."""
    with pytest.raises(ValueError, match="replica id"):
        Tickets(30, 1, replica)


@pytest.mark.parametrize(
    "claim", [None, {"subscribe": {"allow": ["review.*.{user_id}"], "deny": ["review.deleted"]}}]
)
@pytest.mark.parametrize("issued_at", [None, 17.5])
def test_an_identity_survives_the_way_to_another_replica(
    people: People, policy: GrantPolicy, claim: object, issued_at: float | None
) -> None:
    """Written as JSON text and read back, an identity is equal, grants and all."""
    identity = people.make("a.b@example.com", issued_at, claim)
    text = json.dumps(identity_to_json(identity))
    back = identity_from_json(json.loads(text), policy)
    assert back == identity
    assert (back.grants is identity.grants) is (claim is None)


@pytest.mark.parametrize(
    "wrong",
    [{"user_id": ""}, {"user_id": 7}, {"role": None, "grants": 5}, {"email": 5}, {"name": []},
     {"expires_at": "soon"}, {"issued_at": "x"}, {"grants": {}}, {"grants": None},
     {"grants": {"subscribe": {"allow": ["a..b"], "deny": []}}}, {"token_id": {}}],
)  # fmt: skip
def test_a_malformed_identity_is_refused(
    people: People, policy: GrantPolicy, wrong: dict[str, Any]
) -> None:
    """What another replica sends is read with care all the same, and refused in one way."""
    value = {**identity_to_json(people.make()), **wrong}
    with pytest.raises(TicketError):
        identity_from_json(value, policy)
    with pytest.raises(TicketError):
        identity_from_json({}, policy)
