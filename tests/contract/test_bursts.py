"""More messages than the rate allows: refused one by one and slowed down, and no attack by that."""

from __future__ import annotations

import asyncio
import json
import time

from natsbridge.bridge.sessions.intake import FIRST_PAUSE
from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.clients import Client, Clients, Message


async def _burst(client: Client, count: int) -> list[Message]:
    """Send pings as one piece and return the answers, one for each."""
    for number in range(count):
        await client.send("ping", id=str(number))
    return [await client.receive() for _ in range(count)]


async def test_a_burst_is_refused_message_by_message(bridge: BridgeProcess) -> None:
    """Of 125 pings at once 100 are answered, each one over it has its refusal with the time from
    which on the next may come, and the connection stays open.
    """
    async with Clients(bridge.url) as clients:
        client, other = await clients.join(), await clients.join()
        answers = await _burst(client, 125)
        assert [each["reply_to"] for each in answers] == [str(number) for number in range(125)]
        assert [each["type"] for each in answers] == ["pong"] * 100 + ["error"] * 25
        for refusal in answers[100:]:
            assert refusal["data"]["code"] == "RATE_LIMIT_EXCEEDED"
            assert refusal["data"]["reset_time"]
        await (await client.socket.ping())
        await other.ping()


async def test_a_larger_burst_is_read_more_slowly(bridge: BridgeProcess) -> None:
    """What is over the rate by more than a little is refused after a while, and still is."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await _burst(client, 100 + 32 + 32 + 1)
        assert [each["type"] for each in answers[100:]] == ["error"] * 65
        assert loop.time() - began >= 0.7
        assert client.socket.close_code is None


async def test_who_goes_on_is_sent_away(start_bridge: StartBridge) -> None:
    """A client that sends far more than its rate for longer than the window is closed with 1013,
    having had a bounded number of answers; others are not touched.
    """
    bridge = start_bridge(BRIDGE_RATE_LIMIT_MESSAGES="20", BRIDGE_RATE_LIMIT_WINDOW="1.5")
    async with Clients(bridge.url) as clients:
        client, other = await clients.join(), await clients.join()

        async def flood() -> None:
            while client.socket.close_code is None:
                for _ in range(50):
                    await client.send_raw('{"type":"ping"}')
                await asyncio.sleep(0.01)

        flooding = asyncio.ensure_future(flood())
        answers = await client.until_closed(15)
        flooding.cancel()
        await asyncio.wait([flooding])
        assert client.socket.close_code == codes.TRY_AGAIN_LATER.code
        assert client.socket.close_reason == codes.TRY_AGAIN_LATER.name
        assert len(answers) < 1000
        await other.ping()


async def test_refusals_do_not_make_an_error_of_a_client(start_bridge: StartBridge) -> None:
    """Only malformed messages count towards 4503: not those over the rate, and not those that are
    in order and not permitted.
    """
    bridge = start_bridge(BRIDGE_MAX_ERRORS="3", BRIDGE_RATE_LIMIT_MESSAGES="10")
    async with Clients(bridge.url) as clients:
        grants = {"command": {"allow": [], "deny": [">"]}}
        client = await clients.join(grants=grants)
        for _ in range(5):
            answer = await client.ask("upload.cancel", {"upload_id": "1"})
            assert answer["data"]["code"] == "NOT_PERMITTED"
        for _ in range(2):
            await client.send("nonsense")
            await client.expect_error("INVALID_MESSAGE_TYPE")
        for answer in await _burst(client, 10):
            assert (answer["type"] == "pong") or answer["data"]["code"] == "RATE_LIMIT_EXCEEDED"
        assert client.socket.close_code is None


async def test_pings_of_the_protocol_are_slowed_down_too(bridge: BridgeProcess) -> None:
    """A burst of several thousand WebSocket pings leaves the connection open, and waits."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        began = time.monotonic()
        for _ in range(3000):
            last = await client.socket.ping()
        await asyncio.wait_for(last, 10)
        assert time.monotonic() - began >= FIRST_PAUSE
        await client.ping()


async def test_json_is_strict(bridge: BridgeProcess) -> None:
    """NaN and the infinities are no JSON, in fields that nobody reads too; as text they are."""
    async with Clients(bridge.url) as clients:
        client = await clients.join()
        for name in ("NaN", "Infinity", "-Infinity"):
            await client.send_raw('{"type": "ping", "id": "m", "extra": [' + name + "]}")
            await client.expect_error("INVALID_MESSAGE_FORMAT", "m")
            await client.send_raw(json.dumps({"type": "ping", "id": name}))
            assert (await client.expect("pong"))["reply_to"] == name


async def test_limits_are_whole_numbers(start_bridge: StartBridge, bridge: BridgeProcess) -> None:
    """What is announced is an integer on the wire, ``60`` and not ``60.0``; a fraction of a second
    in a setting is rounded up.
    """
    fractions = start_bridge(
        BRIDGE_RATE_LIMIT_WINDOW="1.5",
        BRIDGE_HEARTBEAT_INTERVAL="0.5",
        BRIDGE_CONNECTION_TIMEOUT="2.5",
    )
    for place, expected in ((bridge, (60, 30, 60)), (fractions, (2, 1, 3))):
        async with Clients(place.url) as clients:
            client = await clients.join()
            limits = client.established["data"]["limits"]
            assert all(type(value) is int for value in limits.values()), limits
            names = ("rate_limit_window", "heartbeat_interval", "connection_timeout")
            assert tuple(limits[name] for name in names) == expected
