"""The HTTP side: admin endpoints with the answers of the protocol's first version, and health."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote
from uuid import uuid4

import pytest

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus
from tests.support.clients import Clients, http, mint, new_user

ADMIN_ONLY = [
    ("GET", "/ws/stats"),
    ("GET", "/ws/connections"),
    ("GET", "/ws/connections/some-id"),
    ("DELETE", "/ws/connections/some-id"),
    ("POST", "/ws/users/some-user/disconnect"),
    ("POST", "/ws/broadcast"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """With the documentation, which is off by default."""
    return {"BRIDGE_DOCS": "true"}


def admin() -> str:
    """Return an admin's token."""
    return mint(new_user("admin"), role="admin")


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
async def test_admin_only(bridge: BridgeProcess, method: str, path: str) -> None:
    """401 without a token that is good, 403 with one of somebody who is no admin."""
    wrong = mint(new_user(), role="admin", secret="another-secret-of-more-than-32-bytes-00")
    tokens = {
        None: 401,
        "garbage": 401,
        wrong: 401,
        mint(new_user(), role="admin", lifetime=-10): 401,
        mint(new_user()): 403,
        mint(new_user(), role="administrator"): 403,
        mint(new_user(), roles=["editor"]): 403,
    }
    for token, status in tokens.items():
        async with http(bridge.url, token) as client:
            body = {"type": "system.notification", "data": {}} if method == "POST" else None
            answer = await client.request(method, path, json=body)
            assert answer.status_code == status, (token, answer.text)
            assert token is None or token not in answer.text


async def test_inactive_admin(bridge: BridgeProcess) -> None:
    """A deactivated admin is nobody."""
    async with http(bridge.url, mint(new_user(), role="admin", active=False)) as client:
        assert (await client.get("/ws/stats")).status_code in (401, 403)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_unknown_connection(bridge: BridgeProcess, method: str) -> None:
    """404 for a connection that is not there."""
    async with http(bridge.url, admin()) as client:
        answer = await client.request(method, f"/ws/connections/{uuid4()}")
        assert answer.status_code == 404
        assert answer.headers["Content-Type"].startswith("application/json")


async def test_stats(bridge: BridgeProcess) -> None:
    """The answer of the first version: the limits as ``server_info``, and the numbers of now."""
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:

        async def stats() -> dict[str, object]:
            answer = await client.get("/ws/stats")
            assert answer.status_code == 200
            body = answer.json()
            assert body["status"] == "success"
            data: dict[str, object] = body["data"]
            return data

        before = await stats()
        assert before["server_info"] == {
            "max_connections_per_user": 3,
            "max_total_connections": 1000,
            "rate_limit_messages": 100,
            "rate_limit_window": 60,
            "heartbeat_interval": 30,
            "connection_timeout": 60,
        }
        user = new_user()
        for _ in range(2):
            await clients.join(user)
        await clients.join()
        after = await stats()
        # The protocol names these numbers but not their fields: some field counts 3, another 2.
        grown = {
            new - old
            for old, new in ((before[name], after[name]) for name in before)
            if type(old) is int and type(new) is int
        }
        assert {3, 2} <= grown, (before, after)


async def test_roles_list_makes_an_admin(bridge: BridgeProcess) -> None:
    """``roles`` with ``admin`` among them counts like ``role``."""
    async with http(bridge.url, mint(new_user(), roles=["editor", "admin"])) as client:
        assert (await client.get("/ws/stats")).status_code == 200


async def test_connections(bridge: BridgeProcess) -> None:
    """Connections are listed, and each one's details can be read."""
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        first, second = await clients.join(), await clients.join()
        await first.subscribe("review.updated")
        listed = (await client.get("/ws/connections")).json()
        assert listed["status"] == "success"
        for each in (first, second):
            assert each.id in str(listed["data"])
            answer = await client.get(f"/ws/connections/{each.id}")
            assert answer.status_code == 200
            body = answer.json()
            assert body["status"] == "success"
            assert body["data"]["connection_id"] == each.id
            assert body["data"]["user_id"] == each.user
            assert each.token not in answer.text
        detail = (await client.get(f"/ws/connections/{first.id}")).json()["data"]
        assert list(detail["subscriptions"]) == ["review.updated"]
        await first.socket.close()
        assert (await client.get(f"/ws/connections/{first.id}")).status_code == 404


async def test_broadcast(bridge: BridgeProcess) -> None:
    """A broadcast reaches every connection, whatever it subscribed to, and says how many."""
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        crowd = [
            await clients.join(),
            await clients.join(grants={"subscribe": {"allow": []}}),
            await clients.join(query={"direct": "off"}),
        ]
        data = {"message": "down at noon", "level": "warning"}
        body = {"type": "system.notification", "data": data, "id": "mine", "source": "mine"}
        answer = await client.post("/ws/broadcast", json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["status"] == "success"
        assert set(told["data"]) == {"message_sent", "connections_reached", "message_id"}
        assert told["data"]["message_sent"] is True
        assert told["data"]["connections_reached"] == len(crowd)
        for each in crowd:
            message = await each.expect("system.notification")
            assert message["data"] == data
            assert message["source"] == "admin_broadcast"
            assert message["id"] == told["data"]["message_id"] != "mine"
            assert message["timestamp"]


NONSENSE = [
    b"",
    b"not json",
    b"[]",
    b'"text"',
    b'{"type": "system.notification", "data": {"a": NaN}}',
    b'{"type": "system.notification", "data": {"a": "\\ud800"}}',
    b'{"type": "system.notification", "data": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
    b'{"type": "system.notification", "data": {"a": "' + b"x" * 70_000 + b'"}}',
]


@pytest.mark.parametrize("body", NONSENSE)
async def test_broadcast_of_nonsense(bridge: BridgeProcess, body: bytes) -> None:
    """What is no JSON object, or more than one message may hold, is refused and reaches nobody."""
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        listener = await clients.join()
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/ws/broadcast", content=body, headers=headers)
        assert answer.status_code in (400, 413, 422), answer.text
        await listener.ping()


async def test_disconnect_one(bridge: BridgeProcess) -> None:
    """``DELETE`` sends one connection away with 4003, to come back if it likes."""
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        going = await clients.join()
        staying = await clients.join(going.user)
        answer = await client.delete(f"/ws/connections/{going.id}")
        assert answer.is_success, answer.text
        await going.expect_close(codes.RECONNECT)
        await staying.ping()
        assert (await client.delete(f"/ws/connections/{going.id}")).status_code == 404
        await clients.join(going.user)


async def test_disconnect_user(bridge: BridgeProcess) -> None:
    """All connections of a user are closed with 4003, and nobody else's."""
    user = new_user("a.b@example.com")
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        going = [await clients.join(user) for _ in range(2)]
        staying = await clients.join()
        answer = await client.post(f"/ws/users/{user}/disconnect")
        assert answer.is_success, answer.text
        assert answer.json()["status"] == "success"
        for each in going:
            await each.expect_close(codes.RECONNECT)
        await staying.ping()


@pytest.mark.parametrize("body", [{"revoked": True}, {"revoke": "please"}, [True]])
async def test_a_mistyped_revocation_is_told(bridge: BridgeProcess, body: object) -> None:
    """It is 422, and nobody is sent away: whoever meant to revoke would believe it done."""
    async with Clients(bridge.url) as clients, http(bridge.url, admin()) as client:
        staying = await clients.join()
        answer = await client.post(f"/ws/users/{staying.user}/disconnect", json=body)
        assert answer.status_code == 422, answer.text
        await staying.ping()


async def test_health(bridge: BridgeProcess) -> None:
    """Both probes answer anybody."""
    async with http(bridge.url) as client:
        for path in ("/livez", "/readyz"):
            assert (await client.get(path)).status_code == 200


async def test_openapi(bridge: BridgeProcess) -> None:
    """The HTTP side describes itself, and what it describes is there."""
    async with http(bridge.url) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path, method in (
        ("/ws/stats", "get"),
        ("/ws/connections", "get"),
        ("/ws/connections/{connection_id}", "get"),
        ("/ws/connections/{connection_id}", "delete"),
        ("/ws/users/{user_id}/disconnect", "post"),
        ("/ws/broadcast", "post"),
        ("/ws/tickets", "post"),
    ):
        assert method in paths.get(path, {}), (path, list(paths))


@pytest.mark.parametrize("path", ["/ws", "/nothing", "/ws/stats/more"])
async def test_plain_requests(bridge: BridgeProcess, path: str) -> None:
    """A plain request where only a WebSocket or nothing is gets a client error."""
    async with http(bridge.url) as client:
        answer = await client.get(path)
        assert 400 <= answer.status_code < 500, answer.text


async def test_events_go_on(bridge: BridgeProcess) -> None:
    """HTTP and sockets share one port without disturbing each other."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus, http(bridge.url) as client:
        listener = await clients.join()
        for _ in range(20):
            event = await bus.marker(listener.user)
            assert (await client.get("/livez")).status_code == 200
            await listener.expect_event(event)


@pytest.mark.parametrize(
    "user",
    [
        "a/b",
        "ü",
        "a%2Fb",
        "a%b",
        "..",
        ".",
        "/",
        "a b?c#d",
        "../../stats",
        "x/disconnect",
        "+&=;",
        "日本",
    ],
)
async def test_any_id_can_be_disconnected(bridge: BridgeProcess, user: str) -> None:
    """An id of any characters, percent-encoded in the path, names that user and nobody else."""
    async with Clients(bridge.url) as clients:
        client = await clients.join(user)
        status, body = await raw_request(
            bridge, "POST", f"/ws/users/{quote(user, safe='').replace('.', '%2E')}/disconnect"
        )
        assert status == 200, body
        assert json.loads(body)["data"] == {
            "user_id": user, "connections_closed": 1, "revoked": False,
        }  # fmt: skip
        await client.expect_close(codes.RECONNECT)


async def test_an_id_that_a_proxy_has_decoded(bridge: BridgeProcess) -> None:
    """An id with a slash that came decoded is still that id: what follows it is always the same."""
    async with Clients(bridge.url) as clients:
        client = await clients.join("team/ann")
        status, body = await raw_request(bridge, "POST", "/ws/users/team/ann/disconnect")
        assert (status, json.loads(body)["data"]["user_id"]) == (200, "team/ann")
        await client.expect_close(codes.RECONNECT)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ws/users//disconnect", 422),  # an empty id
        ("/ws/users/%FF/disconnect", 422),  # no UTF-8
        ("/ws/users/" + "x" * 200 + "/disconnect", 422),  # longer than any id
        ("/ws/connections/a%2Fb", 405),
        ("/ws/users/a%2Fdisconnect", 405),
    ],
)
async def test_ids_that_are_none(bridge: BridgeProcess, path: str, expected: int) -> None:
    """What can be nobody's id is refused, and no other route is reached by it."""
    status, body = await raw_request(bridge, "POST", path)
    assert status == expected, body


async def raw_request(bridge: BridgeProcess, method: str, path: str) -> tuple[int, bytes]:
    """Send a request whose path no client library has touched; return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin()}\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body
