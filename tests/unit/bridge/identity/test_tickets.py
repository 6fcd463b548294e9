"""Tickets: used once, in time, by whoever holds them; and what waits for other replicas."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from natsbridge.bridge.errors import BrokerUnavailable, BucketFull, TicketError
from natsbridge.bridge.identity.grants import GrantPolicy
from natsbridge.bridge.identity.tickets import (
    LocalTickets,
    Tickets,
    TicketsExhausted,
    identity_from_json,
    identity_to_json,
    key_of,
)
from tests.unit.bridge.identity.conftest import Clock, People

pytestmark = pytest.mark.anyio


@pytest.fixture
def local(clock: Clock) -> LocalTickets:
    return LocalTickets(30, 3, "replica-1", clock)


class Shelf:
    """A bucket in memory that can be full or away."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.problem: Exception | None = None

    async def create(self, key: str, value: bytes) -> None:
        if self.problem is not None:
            raise self.problem
        self.values[key] = value

    async def take(self, key: str) -> bytes | None:
        if self.problem is not None:
            raise self.problem
        return self.values.pop(key, None)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def tickets(shelf: Shelf, local: LocalTickets, policy: GrantPolicy) -> Tickets:
    return Tickets(shelf, local, policy)


async def test_a_ticket_waits_in_the_bucket(tickets: Tickets, shelf: Shelf, people: People) -> None:
    """Under a key that does not tell it, for whichever replica it comes to, once."""
    identity = people.make()
    first, second = await tickets.issue(identity), await tickets.issue(identity)
    assert first != second
    assert len(first) == 43
    assert set(shelf.values) == {key_of(first), key_of(second)}
    assert not any(first in text for text in (*shelf.values, *map(str, shelf.values.values())))
    assert await tickets.redeem(first) == identity
    with pytest.raises(TicketError):
        await tickets.redeem(first)


async def test_a_full_bucket_issues_none(tickets: Tickets, shelf: Shelf, people: People) -> None:
    """Nor does the memory of the replica take what the bucket has no room for."""
    shelf.problem = BucketFull("full")
    with pytest.raises(TicketsExhausted):
        await tickets.issue(people.make())


async def test_without_the_bucket_a_ticket_is_good_here(
    tickets: Tickets, shelf: Shelf, people: People, clock: Clock, policy: GrantPolicy
) -> None:
    """It names its issuer: elsewhere, and for one in a bucket that can't be read, nobody can tell
    whether it is good, until its time is over.
    """
    identity = people.make()
    kept = await tickets.issue(identity)
    shelf.problem = BrokerUnavailable("away")
    ticket = await tickets.issue(identity)
    other = Tickets(shelf, LocalTickets(30, 3, "replica-2", clock), policy)
    for word in (ticket, kept):
        with pytest.raises(BrokerUnavailable):
            await other.redeem(word)
    assert await tickets.redeem(ticket) is identity
    clock.now += 95
    with pytest.raises(TicketError):
        await other.redeem(ticket)


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"null", b"\xff", b"NaN", b"[" * 4000])
async def test_a_value_of_another_form_is_no_ticket(
    tickets: Tickets, shelf: Shelf, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever else writes to the bucket makes no identity, and the log says that somebody does."""
    ticket = "A" * 43
    shelf.values[key_of(ticket)] = value
    with caplog.at_level(logging.ERROR), pytest.raises(TicketError):
        await tickets.redeem(ticket)
    assert "who else writes there" in caplog.text
    assert ticket not in caplog.text


def test_a_local_ticket_is_good_once(local: LocalTickets, people: People) -> None:
    """The first who brings it gets the identity it was issued to, the second is refused."""
    identity = people.make()
    ticket = local.issue(identity)
    assert local.redeem(ticket) is identity
    with pytest.raises(TicketError):
        local.redeem(ticket)


def test_a_local_ticket_is_good_for_its_time(
    local: LocalTickets, people: People, clock: Clock
) -> None:
    """At the end of its life it is refused, with the words that an unknown one gets."""
    early, late = local.issue(people.make()), local.issue(people.make())
    clock.now += 29.9
    local.redeem(early)
    clock.now += 0.1
    with pytest.raises(TicketError) as too_old:
        local.redeem(late)
    with pytest.raises(TicketError) as unknown:
        local.redeem(f"replica-1.{int(clock.now):x}.{'x' * 43}")
    assert str(too_old.value) == str(unknown.value)


def test_capacity_refuses_and_evicts_nobody(
    local: LocalTickets, people: People, clock: Clock
) -> None:
    """At capacity no ticket is issued, those that wait stay good, and room comes with time."""
    waiting = [local.issue(people.make()) for _ in range(3)]
    with pytest.raises(TicketsExhausted):
        local.issue(people.make())
    local.redeem(waiting[1])
    local.issue(people.make())
    with pytest.raises(TicketsExhausted):
        local.issue(people.make())
    local.redeem(waiting[0])
    local.redeem(waiting[2])
    clock.now += 30
    assert all(local.issue(people.make()).startswith("replica-1.") for _ in range(3))


def test_expired_ones_are_forgotten(local: LocalTickets, people: People, clock: Clock) -> None:
    """What nobody redeemed does not stay in memory."""
    local.issue(people.make())
    clock.now += 20
    local.issue(people.make())
    clock.now += 10
    assert local.purge() == 1
    assert len(local) == 1


@pytest.mark.parametrize(
    "ticket",
    ["", "x", ".", "a.b", f"a.1.{'x' * 44}", f"a.b.c.{'x' * 43}", f"*.1.{'x' * 43}",
     f"{'a' * 65}.1.{'x' * 43}", f"a.1.{'x' * 43}\n", f"é.1.{'x' * 43}", f"a.g.{'x' * 43}",
     f"a.{'f' * 12}.{'x' * 43}", f"a.1.{'x' * 43}", f"a.{'x' * 43}"],
)  # fmt: skip
def test_what_is_no_ticket_is_not_waited_for(local: LocalTickets, ticket: str) -> None:
    """A text that can't be a ticket of any replica now is one that is not there."""
    with pytest.raises(TicketError):
        local.redeem(ticket)


@pytest.mark.parametrize("replica", ["", "a.b", "a b", "*", "é", "x" * 65])
def test_a_replica_id_is_a_plain_token(replica: str) -> None:
    """An id that could not be read out of a ticket again is refused when the bridge starts."""
    with pytest.raises(ValueError, match="replica id"):
        LocalTickets(30, 1, replica, lambda: 0.0)


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
     {"expires_at": "soon"}, {"issued_at": "x"}, {"grants": {}}, {"grants": None}, {"role": 5},
     {"grants": {"subscribe": {"allow": ["a..b"], "deny": []}}}, {"token_id": {}}, {"more": 1},
     {"expires_at": True}, {"expires_at": float("inf")}, {"grants": {"subscribe": 1}}],
)  # fmt: skip
def test_a_malformed_identity_is_refused(
    people: People, policy: GrantPolicy, wrong: dict[str, Any]
) -> None:
    """What waits for another replica is read with care, and refused in one way."""
    value = {**identity_to_json(people.make()), **wrong}
    with pytest.raises(TicketError):
        identity_from_json(value, policy)
    with pytest.raises(TicketError):
        identity_from_json({}, policy)
