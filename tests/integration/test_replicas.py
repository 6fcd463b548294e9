"""Two bridges on one NATS: the corners of what they ask each other.

That events, broadcasts and tickets reach both is in the contract tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from schemas.codes import RECONNECT, REVOKED, TOKEN_EXPIRED, CloseCode
from tests.support.bridge import BridgeProcess, finish
from tests.support.clients import Clients, http, mint, new_user, ticket
from tests.support.nats_server import NatsServer


@pytest.fixture(scope="module")
def replicas(nats_server: NatsServer) -> Iterator[list[BridgeProcess]]:
    """Two bridges of one deployment."""
    name = uuid4().hex[:12]
    shared = {"BRIDGE_SUBJECT_PREFIX": f"r{name}", "BRIDGE_STREAM": f"R{name}"}
    bridges = [BridgeProcess(nats_server.url, shared) for _ in range(2)]
    try:
        for bridge in bridges:
            bridge.wait_ready()
        yield bridges
    finally:
        finish(bridges)


@pytest.fixture
async def sides(replicas: list[BridgeProcess]) -> AsyncIterator[list[Clients]]:
    """Clients of the one bridge and of the other."""
    async with Clients(replicas[0].ws_url) as one, Clients(replicas[1].ws_url) as two:
        yield [one, two]


@pytest.fixture
def admin() -> str:
    """An administrator's token."""
    return mint(new_user("admin"), role="admin")


async def test_a_ticket_keeps_its_grants_on_the_way(
    replicas: list[BridgeProcess], sides: list[Clients]
) -> None:
    """What the token may is what the connection may, at whichever replica it is redeemed."""
    grants = {"subscribe": {"allow": ["review.updated.77"], "deny": []}}
    word = await ticket(replicas[0].url, mint(new_user(), grants=grants))
    client = await sides[1].open(query={"ticket": word})
    await client.expect("connection.established")
    await client.subscribe("review.updated.77")
    data = await client.refused("upload.error")
    assert data["reasons"] == {"upload.error": "NOT_PERMITTED"}


async def test_a_ticket_of_a_replica_that_is_gone_is_told_so(sides: list[Clients]) -> None:
    """Nobody has it any more: the client is to come back with a new one."""
    client = await sides[0].open(query={"ticket": "0" * 12 + "." + "A" * 43})
    await client.expect_close(TOKEN_EXPIRED, 10)


async def test_a_connection_is_sent_away_from_the_other(
    replicas: list[BridgeProcess], sides: list[Clients], admin: str
) -> None:
    """``DELETE`` at one replica closes the connection at the other with 4003, and no other."""
    client, bystander = await sides[0].join(), await sides[0].join()
    async with http(replicas[1].url, admin) as api:
        answer = await api.delete(f"/ws/connections/{client.id}")
        assert answer.status_code == 200
        await client.expect_close(RECONNECT)
        again = await api.delete(f"/ws/connections/{client.id}")
    assert again.status_code == 404
    await bystander.ping()


@pytest.mark.parametrize(("revoke", "row"), [(False, RECONNECT), (True, REVOKED)])
async def test_a_user_is_disconnected_everywhere(
    replicas: list[BridgeProcess],
    sides: list[Clients],
    admin: str,
    revoke: bool,
    row: CloseCode,
) -> None:
    """All of a user's connections, at both replicas; with ``revoke`` its token is of no use."""
    user = new_user()
    token = mint(user, iat=1)
    clients = [await side.join(user, token=token) for side in sides]
    bystander = await sides[0].join()
    async with http(replicas[0].url, admin) as api:
        answer = await api.post(f"/ws/users/{user}/disconnect", json={"revoke": revoke})
    assert answer.json()["data"]["connections_closed"] == 2
    await asyncio.gather(*(client.expect_close(row) for client in clients))
    await bystander.ping()
    for side in sides:
        again = await side.connect(token)
        if revoke:
            await again.expect_close(REVOKED)
        else:
            await again.expect("connection.established")
