"""The internal address: what is for operators is there and nowhere else."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest

from tests.support.bridge import BridgeProcess, StartBridge, delete_stream
from tests.support.clients import Clients, http, mint, new_user

INTERNAL = re.compile(r"internal address: (http://\S+)")
FOR_OPERATORS = ["/metrics", "/docs", "/openapi.json", "/ws/stats", "/ws/connections"]


def admin() -> str:
    """Return an admin's token."""
    return mint(new_user("admin"), role="admin")


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """Another port beside the public one."""
    return {"BRIDGE_INTERNAL_PORT": "0", "BRIDGE_DOCS": "true"}


@pytest.fixture(scope="module")
def internal(bridge: BridgeProcess) -> str:
    """The base URL of the internal address."""
    return bridge.wait_for_line(INTERNAL, 5)[1]


async def test_operators_find_it_at_the_internal_address(internal: str) -> None:
    """Admin endpoints still need an admin's token there; metrics, documentation, health none."""
    async with http(internal) as client, http(internal, admin()) as privileged:
        for path in ("/metrics", "/docs", "/openapi.json", "/livez", "/readyz"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/ws/stats", "/ws/connections"):
            assert (await client.get(path)).status_code == 401, path
            assert (await privileged.get(path)).status_code == 200, path


async def test_the_public_address_has_none_of_it(bridge: BridgeProcess) -> None:
    """404 whoever asks; what clients need is there."""
    token = admin()
    async with http(bridge.url) as client, http(bridge.url, token) as privileged:
        for path in FOR_OPERATORS:
            for each in (client, privileged):
                answer = await each.get(path, headers={"Host": "localhost"})
                # Below /ws/ everything else may be a token in the path: 426, as for the WebSocket.
                assert answer.status_code in (404, 426), path
                assert "bridge_" not in answer.text
        for path in ("/ws/broadcast", "/ws/users/ann/disconnect"):
            assert (await privileged.post(path, json={})).status_code in (404, 405, 426)
        assert (await client.get("/livez")).status_code == 200
        assert (await privileged.post("/ws/tickets")).status_code == 200
    async with Clients(bridge.url) as clients:
        await clients.join()


async def test_there_is_no_websocket_at_the_internal_address(internal: str) -> None:
    """An upgrade is not taken there, and the connection serves HTTP as before."""
    async with Clients(internal) as clients:
        for path in ("/ws", "/livez"):
            refused = await clients.rejected(path, headers={"Authorization": f"Bearer {admin()}"})
            assert refused.status_code == (404 if path == "/ws" else 200)


async def test_its_bounds_are_those_of_the_public_port(internal: str) -> None:
    """Headers without end are cut there too."""
    host, _, port = internal.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
    async with asyncio.timeout(10):
        assert (await reader.read(100)).startswith(b"HTTP/1.1 431")
    writer.close()


async def test_without_it_metrics_and_docs_are_guarded(start_bridge: StartBridge) -> None:
    """By default metrics are for admins' tokens, and there is no documentation."""
    bridge = start_bridge()
    async with http(bridge.url) as client, http(bridge.url, mint(new_user())) as somebody:
        assert (await client.get("/metrics")).status_code == 401
        assert (await somebody.get("/metrics")).status_code == 403
    async with http(bridge.url, admin()) as privileged:
        assert (await privileged.get("/metrics")).status_code == 200
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            assert (await privileged.get(path)).status_code == 404, path


async def test_the_documentation_loads_nothing(internal: str) -> None:
    """The page stands alone: no script, no style sheet, nothing from another host."""
    async with http(internal) as client:
        answer = await client.get("/docs")
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|src=|@import|url\(|https?://", answer.text)
    for path in paths:
        assert path in answer.text


async def test_a_taken_internal_port_is_told(
    bridge: BridgeProcess, start_bridge: StartBridge
) -> None:
    """Its port is named in the one line with which the start ends, and the code is 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = BridgeProcess(bridge.nats_url, {"BRIDGE_INTERNAL_PORT": str(port)})
        assert await asyncio.to_thread(process.wait, 20) == 2
    assert f"port {port} on 127.0.0.1: address already in use" in process.output


async def test_both_addresses_at_one_port(bridge: BridgeProcess) -> None:
    """Linux lets both take it, and refuses the second when it listens: told in the same way, and
    nothing of the bridge stays behind, although it has been at NATS by then.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    settings = {"BRIDGE_PORT": port, "BRIDGE_INTERNAL_PORT": port}
    process = BridgeProcess(bridge.nats_url, settings)
    assert await asyncio.to_thread(process.wait, 20) == 2, process.output
    assert f"natsbridge: port {port} on 127.0.0.1: address already in use" in process.output
    assert "Traceback" not in process.output
    delete_stream(bridge.nats_url, process.settings["BRIDGE_STREAM"])
