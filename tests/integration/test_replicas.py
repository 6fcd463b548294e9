"""Two bridges on one NATS: the corners of what they ask each other.

That events, broadcasts and tickets reach both is in the contract tests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from natsbridge.bridge.identity.tickets import key_of
from natsbridge.bridge.nats.buckets import bucket_name
from natsbridge.schemas.codes import RECONNECT, REVOKED, TOKEN_EXPIRED, TRY_AGAIN_LATER, CloseCode
from tests.support.bridge import BridgeProcess, finish
from tests.support.bus import Bus
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


async def test_a_ticket_outlives_its_issuer(
    nats_server: NatsServer, replicas: list[BridgeProcess]
) -> None:
    """Killed or drained, whoever issued it is not needed: another replica takes it, once."""
    shared = {
        name: replicas[0].settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")
    }
    issuers = [BridgeProcess(nats_server.url, shared) for _ in range(2)]
    for issuer in issuers:
        issuer.wait_ready()
    killed, drained = [await ticket(issuer.url, mint(new_user())) for issuer in issuers]
    issuers[0].kill()
    issuers[1].terminate()
    assert issuers[1].wait() == 0
    async with Clients(replicas[1].ws_url) as clients:
        for word in (killed, drained):
            client = await clients.open(query={"ticket": word})
            await client.expect("connection.established")
            again = await clients.open(query={"ticket": word})
            await again.expect_close(TOKEN_EXPIRED)


async def test_two_takers_at_two_replicas(
    replicas: list[BridgeProcess], sides: list[Clients]
) -> None:
    """Of two clients that bring one ticket to two replicas at once, one comes in."""
    for _ in range(20):
        word = await ticket(replicas[0].url, mint(new_user()))
        pair = await asyncio.gather(*(side.open(query={"ticket": word}) for side in sides))
        heard = [await each.until_closed_or("connection.established") for each in pair]
        assert sorted(map(len, heard)) == [0, 1]
        loser = pair[heard.index([])]
        assert loser.socket.close_code == TOKEN_EXPIRED.code
        await pair[1 - heard.index([])].socket.close()


async def test_a_forged_value_opens_nothing(
    replicas: list[BridgeProcess], sides: list[Clients]
) -> None:
    """What is no bridge's in the bucket is no identity; the log says that somebody writes there."""
    word = "F" * 43
    bucket = bucket_name(replicas[0].settings["BRIDGE_SUBJECT_PREFIX"], "bridge_tickets")
    await ticket(replicas[0].url, mint(new_user()))  # the bucket is there now
    forged = {"user_id": "admin", "role": "admin", "expires_at": 9e9}
    async with Bus(replicas[0]) as bus:
        subject = f"$KV.{bucket}.{key_of(word)}"
        await bus.connection.jetstream().publish(subject, json.dumps(forged).encode())
    client = await sides[1].open(query={"ticket": word})
    await client.expect_close(TOKEN_EXPIRED)
    assert "who else writes there" in replicas[1].output


async def test_tickets_without_jetstream(plain_nats_server: NatsServer) -> None:
    """A ticket is good at its issuer, once; elsewhere it can't be told: 1013, come back."""
    shared = {"BRIDGE_SUBJECT_PREFIX": "plain"}
    pair = [BridgeProcess(plain_nats_server.url, shared) for _ in range(2)]
    for bridge in pair:
        bridge.wait_ready()
    async with Clients(pair[0].ws_url) as here, Clients(pair[1].ws_url) as there:
        word = await ticket(pair[0].url, mint(new_user()))
        away = await there.open(query={"ticket": word})
        await away.expect_close(TRY_AGAIN_LATER)
        unreadable = await there.open(query={"ticket": "A" * 43})
        await unreadable.expect_close(TRY_AGAIN_LATER)
        client = await here.open(query={"ticket": word})
        await client.expect("connection.established")
        again = await here.open(query={"ticket": word})
        await again.expect_close(TOKEN_EXPIRED)
    finish(pair)
    for bridge in pair:
        assert word not in bridge.output


async def test_too_many_tickets(nats_server: NatsServer) -> None:
    """Over the bound a ticket is refused with 503, and those that wait stay good."""
    name = uuid4().hex[:12]
    shared = {
        "BRIDGE_SUBJECT_PREFIX": f"m{name}",
        "BRIDGE_STREAM": f"M{name}",
        "BRIDGE_MAX_TICKETS": "3",
    }
    bridge = BridgeProcess(nats_server.url, shared)
    bridge.wait_ready()
    async with http(bridge.url, mint(new_user())) as api, Clients(bridge.ws_url) as clients:
        words = [(await api.post("/ws/tickets")).json()["data"]["ticket"] for _ in range(3)]
        refused = await api.post("/ws/tickets")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        client = await clients.open(query={"ticket": words[0]})
        await client.expect("connection.established")
    finish([bridge])


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
