"""What a browser does for a page of another origin that wants a ticket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bridge import BridgeProcess, StartBridge, finish
from tests.support.clients import Clients, http, mint, new_user
from tests.support.nats_server import NatsServer

APP = "https://app.example.com"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization",
}


@pytest.fixture(scope="module")
def open_to_app(nats_server: NatsServer) -> Iterator[BridgeProcess]:
    """A bridge that pages of one origin may use."""
    process = BridgeProcess(
        nats_server.url,
        {"BRIDGE_ALLOWED_ORIGINS": f"{APP}, http://localhost:5173", "BRIDGE_MAX_TICKETS": "2"},
    )
    process.wait_ready()
    yield process
    finish([process])


@pytest.mark.parametrize("origin", [APP, "http://localhost:5173"])
async def test_a_page_gets_a_ticket(open_to_app: BridgeProcess, origin: str) -> None:
    """The preflight allows the call with its token; the answer may be read, and its ticket opens
    the WebSocket from that page.
    """
    async with http(open_to_app.url) as browser:
        asked = await browser.options("/ws/tickets", headers={"Origin": origin, **PREFLIGHT})
        assert asked.status_code == 200
        assert asked.headers["Access-Control-Allow-Origin"] == origin
        assert "POST" in asked.headers["Access-Control-Allow-Methods"]
        allowed = asked.headers["Access-Control-Allow-Headers"].lower()
        assert "authorization" in allowed
        assert "Origin" in asked.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in asked.headers
        token = {"Origin": origin, "Authorization": f"Bearer {mint(new_user())}"}
        answer = await browser.post("/ws/tickets", headers=token)
        assert answer.headers["Access-Control-Allow-Origin"] == origin
    async with Clients(open_to_app.url) as clients:
        query = {"ticket": answer.json()["data"]["ticket"]}
        client = await clients.open(query=query, headers={"Origin": origin})
        await client.expect("connection.established")


async def test_a_page_reads_why_it_got_none(open_to_app: BridgeProcess) -> None:
    """A refusal is for the page to read too, and when to come back."""
    async with http(open_to_app.url) as browser:
        answer = await browser.post("/ws/tickets", headers={"Origin": APP})
        assert answer.status_code == 401
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.com", "http://app.example.com", "https://app.example.com.evil.com",
     "https://app.example.com:8443", "null", "https://APP.example.com/"],
)  # fmt: skip
async def test_other_pages_get_nothing(open_to_app: BridgeProcess, origin: str) -> None:
    """Neither does the preflight allow the call, nor may an answer be read."""
    async with http(open_to_app.url) as browser:
        asked = await browser.options("/ws/tickets", headers={"Origin": origin, **PREFLIGHT})
        assert asked.status_code == 400
        assert "Access-Control-Allow-Origin" not in asked.headers
        answer = await browser.post("/ws/tickets", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", ["/ws/stats", "/ws/connections", "/ws/broadcast", "/livez", "/ws"])
async def test_other_calls_are_no_pages(open_to_app: BridgeProcess, path: str) -> None:
    """Nothing else answers to CORS, for an allowed origin neither."""
    async with http(open_to_app.url) as browser:
        for answer in (
            await browser.options(path, headers={"Origin": APP, **PREFLIGHT}),
            await browser.get(path, headers={"Origin": APP}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_without_origins_only_the_bridges_own_pages(start_bridge: StartBridge) -> None:
    """They need no CORS, and get none; with ``*`` every page does, without credentials."""
    for origins, allowed in (("", None), ("*", "*")):
        bridge = start_bridge(BRIDGE_ALLOWED_ORIGINS=origins)
        async with http(bridge.url) as browser:
            asked = await browser.options("/ws/tickets", headers={"Origin": APP, **PREFLIGHT})
            assert asked.headers.get("Access-Control-Allow-Origin") == allowed
            assert "Access-Control-Allow-Credentials" not in asked.headers
