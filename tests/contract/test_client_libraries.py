"""One story for WebSocket libraries of Python, Node and C, over ``ws`` and ``wss``.

Each library runs in a program of its own (``tests/libraries``). ``make test`` takes the one that
the project's environment has; ``make clients`` installs the others, and names them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import httpx
import pytest

from natsbridge.schemas import codes
from natsbridge.schemas.codes import CloseCode
from natsbridge.schemas.subjects import Root
from tests.support.blocking_peer import UNCHECKED
from tests.support.bridge import BridgeProcess, StartBridge, finish
from tests.support.bus import Bus, to_user
from tests.support.certificates import self_signed
from tests.support.clients import WAYS, Way, mint, new_user
from tests.support.libraries import LIBRARIES, Connection, Library, Program
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

REPETITIONS: Final = int(os.environ.get("CLOSE_REPETITIONS", "3"))
"""How many connections of each library meet each close code."""
AT_ONCE: Final = 10
"""How many of them at a time."""
BURST: Final = 470
RESETS: Final = (90, 210, 330)
"""After how many events that came the connection is reset."""
LIMIT: Final = 65_536
SETTINGS: Final = {
    "BRIDGE_RATE_LIMIT_MESSAGES": "1000000000",
    "BRIDGE_HEARTBEAT_INTERVAL": "1",
    "BRIDGE_CONNECTION_TIMEOUT": "5",
    "BRIDGE_ALLOWED_ORIGINS": "https://app.example.com",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["ws", "wss"])
def tls(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> dict[str, str]:
    """The settings of a bridge without TLS, and of one with its own."""
    cert, key = map(str, certificate)
    return {} if request.param == "ws" else {"BRIDGE_TLS_CERT": cert, "BRIDGE_TLS_KEY": key}


@pytest.fixture(scope="module")
def spoken_to(nats_server: NatsServer, tls: dict[str, str]) -> Iterator[BridgeProcess]:
    """A bridge that the tests of one scheme share."""
    process = BridgeProcess(nats_server.url, SETTINGS | tls)
    process.wait_ready()
    yield process
    finish([process])


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
async def program(
    request: pytest.FixtureRequest, certificate: tuple[Path, Path]
) -> AsyncIterator[Program]:
    """The program of each library, see ``CLIENT_LIBRARIES``."""
    library: Library = request.param
    async with Program(library, certificate[0]) as running:
        yield running


async def ticket(bridge: BridgeProcess, token: str) -> str:
    """Exchange a token for a ticket."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(verify=UNCHECKED, trust_env=False, headers=headers) as client:
        answer = await client.post(f"{bridge.url}/ws/tickets")
    value: str = answer.json()["data"]["ticket"]
    return value


async def joined(program: Program, bridge: BridgeProcess, **claims: float) -> Connection:
    """Return a connection that is established."""
    connection = program.connect(f"{bridge.ws_url}/ws/{mint(new_user(), **claims)}")
    await connection.expect("connection.established")
    return connection


@pytest.mark.parametrize("way", WAYS)
async def test_connecting(program: Program, spoken_to: BridgeProcess, way: Way) -> None:
    """Each way to bring a token that the library can go, to a pong and to a close in order."""
    user, url = new_user(), f"{spoken_to.ws_url}/ws"
    token = mint(user)
    match way:
        case "header":
            assert "header" in program.can
            connection = program.connect(url, token=token)
        case "subprotocol":
            connection = program.connect(url, protocols=f"bridge.v1,bearer.{token}")
        case "ticket":
            query = urlencode({"ticket": await ticket(spoken_to, token)})
            connection = program.connect(f"{url}?{query}")
        case "message":
            connection = program.connect(url)
            connection.send("authenticate", {"token": token})
        case "path":
            connection = program.connect(f"{url}/{token}")
    assert (await connection.expect("connection.established"))["data"]["user_id"] == user
    await connection.until(lambda: connection.opened)
    assert connection.opened == ("bridge.v1" if way == "subprotocol" else "-")
    connection.send("ping", {"pingId": 7})
    assert (await connection.expect("pong"))["data"]["pingId"] == 7
    connection.do("close")
    await connection.closed()


async def test_refusals(program: Program, spoken_to: BridgeProcess) -> None:
    """Tokens that are refused are told as close codes, a foreign origin as HTTP."""
    url = f"{spoken_to.ws_url}/ws"
    bad = program.connect(url, token=mint(new_user(), secret="x" * 64))
    assert (await bad.expect("error"))["data"]["code"] == "TOKEN_INVALID"
    assert await bad.closed() == (4500, "INVALID_TOKEN")
    expired = program.connect(f"{url}/{mint(new_user(), lifetime=-10)}")
    assert await expired.closed() == (4001, "TOKEN_EXPIRED")
    foreign = program.connect(url, token=mint(new_user()), origin="https://evil.example")
    assert await foreign.refused() == (403 if "status" in program.can else 0)
    ours = program.connect(url, token=mint(new_user()), origin="https://app.example.com")
    await ours.expect("connection.established")
    await ours.leave()


async def test_sizes(program: Program, spoken_to: BridgeProcess) -> None:
    """The limit itself passes, one byte more is an error, and four times as much the last."""
    connection = await joined(program, spoken_to)
    for size, answer in ((LIMIT, "pong"), (LIMIT + 1, "error"), (4 * LIMIT, "error")):
        connection.do("fill", size)
        message = await connection.expect(answer)
        assert message["data"].get("code", "MESSAGE_TOO_LARGE") == "MESSAGE_TOO_LARGE"
    connection.do("fill", 4 * LIMIT + 1)
    assert await connection.closed() == (1009, "MESSAGE_TOO_BIG")


async def test_large_events(program: Program, spoken_to: BridgeProcess) -> None:
    """An event close to the limit comes whole."""
    user = new_user()
    connection = program.connect(f"{spoken_to.ws_url}/ws/{mint(user)}")
    await connection.expect("connection.established")
    async with Bus(spoken_to) as bus:
        data = {"upload_id": "1", "result": {"more": "é€😀" * 2_500}}
        event = await bus.publish(to_user(user, "upload.completed", "1"), data, root=Root.EVENTS)
    message = await connection.expect("upload.completed")
    assert (message["id"], message["data"]) == (event, data)
    await connection.leave()


async def test_fragments(program: Program, spoken_to: BridgeProcess) -> None:
    """A message in pieces is one message, where the library can send one so."""
    if "parts" not in program.can:
        pytest.skip("the library sends whole messages only")
    connection = await joined(program, spoken_to)
    text = '{"type":"ping","data":{"pingId":"in pieces"}}'
    for count in (2, 3, len(text)):
        connection.do("parts", count, text)
        assert (await connection.expect("pong"))["data"]["pingId"] == "in pieces"
    await connection.leave()


async def test_pings(program: Program, spoken_to: BridgeProcess) -> None:
    """The bridge's pings keep a silent connection alive, and it answers the library's own."""
    connection = await joined(program, spoken_to)
    if "ping" in program.can:
        connection.do("ping")
        await connection.until(lambda: connection.pongs)
    # Time is what is tested: longer than the connection timeout of 5 s.
    await asyncio.sleep(6)
    connection.send("ping", {})
    await connection.expect("pong")
    await connection.leave()


async def test_resume_after_resets(program: Program, spoken_to: BridgeProcess) -> None:
    """Three resets in the middle of a burst: nothing is lost and nothing comes twice."""
    user = new_user()
    got: list[str] = []
    async with Bus(spoken_to) as bus:
        with Proxy(spoken_to.url) as proxy:
            url = proxy.url.replace("http", "ws", 1)
            query = ""
            sent: list[str] = []
            first = program.connect(f"{url}/ws", token=mint(user))
            await first.expect("connection.established")

            async def publish() -> None:
                for _ in range(BURST):
                    address = to_user(user, "upload.completed", "1")
                    sent.append(await bus.publish(address, root=Root.EVENTS))

            publishing = asyncio.create_task(publish())
            connection, resets = first, list(RESETS)
            while len(got) < BURST:
                await connection.until(
                    lambda c=connection: c.is_over or len(c.texts) > c.taken, deadline=30
                )
                for message in connection.messages():
                    if message["type"] == "upload.completed":
                        got.append(message["id"])
                        query = "?" + urlencode({"cursor": message["cursor"]})
                if resets and len(got) >= resets[0]:
                    resets.pop(0)
                    assert proxy.cut(reset=True) == 1
                if connection.is_over:
                    connection = program.connect(f"{url}/ws{query}", token=mint(user))
            await publishing
            await connection.leave()
    assert not resets
    assert got == sent


async def test_drain(program: Program, start_bridge: StartBridge, tls: dict[str, str]) -> None:
    """The bridge stops: clients that are sending hear so first, and are then closed with 1001."""
    bridge = start_bridge(**SETTINGS, **tls)
    connections = [await joined(program, bridge) for _ in range(AT_ONCE)]
    for connection in connections:
        connection.do("flood")
    bridge.terminate()
    for connection in connections:
        await connection.expect("connection.draining")
        assert await connection.closed() == (1001, "GOING_AWAY")
    assert await asyncio.to_thread(bridge.wait) == 0


async def sent_away(program: Program, bridge: BridgeProcess, body: object) -> Connection:
    """Send until an administrator has sent the user away."""
    user = new_user()
    connection = program.connect(f"{bridge.ws_url}/ws/{mint(user)}")
    await connection.expect("connection.established")
    connection.do("flood")
    headers = {"Authorization": f"Bearer {mint('root', role='admin')}"}
    async with httpx.AsyncClient(verify=UNCHECKED, trust_env=False, headers=headers) as client:
        path = f"{bridge.url}/ws/users/{user}/disconnect"
        assert (await client.post(path, json=body)).status_code == 200
    return connection


async def replaced(program: Program, bridge: BridgeProcess) -> Connection:
    """Send until newer connections have taken the place."""
    token = mint(new_user())
    connection = program.connect(f"{bridge.ws_url}/ws/{token}")
    await connection.expect("connection.established")
    connection.do("flood")
    for _ in range(3):
        newer = program.connect(f"{bridge.ws_url}/ws/{token}")
        await newer.expect("connection.established")
    return connection


async def meets(program: Program, bridge: BridgeProcess, row: CloseCode) -> Connection:
    """Return a connection that is to meet this close while it sends."""
    url = f"{bridge.ws_url}/ws"
    if row is codes.MESSAGE_TOO_BIG:
        connection = await joined(program, bridge)
        connection.do("fill", 8_000_000)
        return connection
    if row is codes.RECONNECT:
        return await sent_away(program, bridge, None)
    if row is codes.REVOKED:
        return await sent_away(program, bridge, {"revoke": True})
    if row is codes.REPLACED:
        return await replaced(program, bridge)
    if row is codes.TOKEN_EXPIRED:
        connection = await joined(program, bridge, lifetime=3)
    elif row is codes.TOO_MANY_ERRORS:
        connection = await joined(program, bridge)
        for _ in range(25):
            connection.do("send", "{}")
    elif row is codes.INVALID_TOKEN:
        connection = program.connect(url, token=mint(new_user(), secret="x" * 64))
    else:
        assert row is codes.NOT_AUTHENTICATED
        connection = program.connect(url)
    connection.do("flood")
    return connection


MET: Final = (
    codes.MESSAGE_TOO_BIG,
    codes.TOKEN_EXPIRED,
    codes.RECONNECT,
    codes.INVALID_TOKEN,
    codes.REVOKED,
    codes.REPLACED,
    codes.TOO_MANY_ERRORS,
    codes.NOT_AUTHENTICATED,
)


@pytest.mark.parametrize("row", MET, ids=lambda row: str(row.code))
async def test_codes_while_sending(
    program: Program, spoken_to: BridgeProcess, row: CloseCode
) -> None:
    """A client that is still sending reads why it was closed; others are served meanwhile."""

    turns = asyncio.Semaphore(AT_ONCE)

    async def once() -> tuple[int, str]:
        async with turns:
            connection = await meets(program, spoken_to, row)
            return await connection.closed()

    met = await asyncio.gather(*(once() for _ in range(REPETITIONS)))
    assert met == [(row.code, row.name)] * REPETITIONS


async def test_no_upgrade(spoken_to: BridgeProcess) -> None:
    """A proxy that drops the upgrade: 426, whether or not a token is in the path."""
    async with httpx.AsyncClient(verify=UNCHECKED, trust_env=False) as client:
        for path in ("/ws", f"/ws/{mint(new_user())}"):
            assert (await client.get(f"{spoken_to.url}{path}")).status_code == 426
