"""What an operator reads: who came, who was refused and why, who went, and what admins did."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from natsbridge.bridge.telemetry.observer import Line
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, to_user
from tests.support.clients import Clients, http, mint, new_user

SECRETS = "another-secret-of-more-than-32-bytes-00"


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """Lines that a test can read, at the level that a service runs with."""
    return {"BRIDGE_LOG_FORMAT": "json", "BRIDGE_LOG_LEVEL": "INFO"}


def lines(bridge: BridgeProcess, message: str, **fields: object) -> list[dict[str, Any]]:
    """Return the lines with this message and these fields that were written so far."""
    found = []
    for text in bridge.output.splitlines():
        if text.startswith("{"):
            line = json.loads(text)
            if line["message"] == message and fields.items() <= line.items():
                found.append(line)
    return found


async def wait_line(bridge: BridgeProcess, message: str, **fields: object) -> dict[str, Any]:
    """Return the first line with this message and these fields, when it is there."""
    parts = "".join(
        f"(?=.*{re.escape(json.dumps(name))}: {re.escape(json.dumps(value))})"
        for name, value in fields.items()
    )
    pattern = re.compile(rf'^{{{parts}(?=.*"message": {re.escape(json.dumps(message))})')
    found = await asyncio.to_thread(bridge.wait_for_line, pattern, 5)
    line: dict[str, Any] = json.loads(found.string)
    return line


async def test_a_connection_comes_and_goes(bridge: BridgeProcess) -> None:
    """Who connected, what they subscribed to, and how it ended: by user and connection."""
    user = new_user()
    async with Clients(bridge.url) as clients:
        client = await clients.join(user, email="ann@example.com")
        await client.subscribe("upload.*")
        await client.ping()
        await client.socket.close(1000)
        opened = await wait_line(bridge, Line.OPENED, user_id=user)
        assert opened["connection_id"] == client.id
        assert opened["user_email"] == "ann@example.com"
        assert opened["address"] == "127.0.0.1"
        assert opened["user_connections"] == 1
        subscribed = await wait_line(bridge, Line.SUBSCRIBED, user_id=user)
        assert subscribed["events"] == ["upload.*"]
        closed = await wait_line(bridge, Line.CLOSED, user_id=user)
    assert (closed["code"], closed["by"]) == (1000, "client")
    assert closed["connection_id"] == client.id
    assert closed["message_count"] == 2
    assert closed["error_count"] == 0
    assert 0 < closed["duration"] < 60
    assert closed["sent_bytes"] > 500


async def test_a_cut_connection_is_1006(bridge: BridgeProcess) -> None:
    """A connection that breaks without a close frame is told as such."""
    user = new_user()
    async with Clients(bridge.url) as clients:
        client = await clients.join(user)
        client.socket.transport.abort()
        assert (await wait_line(bridge, Line.CLOSED, user_id=user))["code"] == 1006


async def test_each_refusal_names_its_reason(bridge: BridgeProcess) -> None:
    """A bad token says which check failed, a foreign origin which it was, a wrong path where."""
    wrong = {
        "the token's signature is wrong": mint(new_user(), secret=SECRETS),
        "the token has expired": mint(new_user(), lifetime=-10),
        "the token is malformed": "garbage",
    }
    async with Clients(bridge.url) as clients:
        for reason, token in wrong.items():
            client = await clients.connect(token, "header")
            await client.until_closed()
            line = await wait_line(bridge, Line.TOKEN_REFUSED, reason=reason)
            assert line["address"] == "127.0.0.1"
        await clients.rejected(origin="https://evil.example")
        refused = await wait_line(bridge, Line.HANDSHAKE_REFUSED, reason="ORIGIN_NOT_ALLOWED")
        assert (refused["status"], refused["origin"]) == (403, "https://evil.example")
        await clients.rejected(f"/socket.io/{mint(new_user())}")
        refused = await wait_line(bridge, Line.HANDSHAKE_REFUSED, reason="NOT_FOUND")
        assert (refused["status"], refused["path"]) == (404, "/socket.io/…")
    assert not re.search(r"eyJ[\w-]{8,}", bridge.output)


async def test_messages_that_are_refused(bridge: BridgeProcess) -> None:
    """A message that can't be read is told with its code, its words and its sender."""
    user = new_user()
    async with Clients(bridge.url) as clients:
        client = await clients.join(user)
        await client.send("no.such\n{type")
        await client.expect_error("INVALID_MESSAGE_TYPE")
        line = await wait_line(bridge, Line.MESSAGE_REFUSED, user_id=user)
    assert line["code"] == "INVALID_MESSAGE_TYPE"
    assert line["connection_id"] == client.id


async def test_admins_leave_a_trace(bridge: BridgeProcess) -> None:
    """Who did what to whom: each action is a line."""
    admin, user = new_user("admin"), new_user()
    token = mint(admin, role="admin")
    async with Clients(bridge.url) as clients, http(bridge.url, token) as client:
        await clients.join(user)
        await client.post("/ws/broadcast", json={"type": "system.notification", "data": {}})
        await client.post(f"/ws/users/{user}/disconnect", json={"revoke": True})
        broadcast = await wait_line(bridge, Line.ADMINISTRATOR, action="broadcast")
        assert broadcast["user_id"] == admin
        assert broadcast["reached"] >= 1
        revoked = await wait_line(bridge, Line.ADMINISTRATOR, action="revoke user")
        assert (revoked["user_id"], revoked["target"], revoked["closed"]) == (admin, user, 1)
        assert (await wait_line(bridge, Line.CLOSED, user_id=user))["code"] == 4501
        async with http(bridge.url, mint(user)) as other:
            await other.get("/ws/stats")
        assert (await wait_line(bridge, Line.REQUEST_REFUSED, status=401))["path"] == "/ws/stats"


async def test_a_storm_leaves_few_lines(start_bridge: StartBridge) -> None:
    """Hundreds of refusals are a few lines and one that sums them up, and all are counted."""
    bridge = start_bridge(BRIDGE_LOG_FORMAT="json", BRIDGE_LOG_LEVEL="info", BRIDGE_LOG_RATE="2")
    async with Clients(bridge.url) as clients:
        for _ in range(100):
            await clients.rejected(origin="https://evil.example")
    # The sum comes within ten seconds or so, and not only at the end.
    more = re.compile(rf"{Line.HANDSHAKE_REFUSED} \(\d+ more\)")
    await asyncio.to_thread(bridge.wait_for_line, more, 20)
    bridge.terminate()
    assert bridge.wait() == 0
    written = lines(bridge, Line.HANDSHAKE_REFUSED, status=403)
    summed = [
        json.loads(text)
        for text in bridge.output.splitlines()
        if f"{Line.HANDSHAKE_REFUSED} (" in text
    ]
    assert len(written) + len(summed) < 40
    assert len(written) + sum(each["count"] for each in summed) == 100
    assert summed[0]["addresses"] == {"127.0.0.1": summed[0]["count"]}


async def test_a_client_that_does_not_read(start_bridge: StartBridge) -> None:
    """Its stall is counted, its close is a warning with 4002, and until it has gone it is told as
    a connection on its way out.
    """
    bridge = start_bridge(
        BRIDGE_LOG_FORMAT="json", BRIDGE_LOG_LEVEL="info", BRIDGE_STALL_TIMEOUT="0.5"
    )
    admin = mint("admin", role="admin")
    user = new_user()
    async with Clients(bridge.url) as clients, Bus(bridge) as bus, http(bridge.url, admin) as api:
        client = await clients.join(user)
        client.socket.transport.pause_reading()

        async def number(name: str) -> float:
            text = (await api.get("/metrics")).text
            [found] = re.findall(rf"^bridge_{re.escape(name)} (\S+)$", text, re.MULTILINE)
            return float(found)

        while not await number("stalls_total"):
            data = {"upload_id": "u", "result": {"x": "x" * 50_000}}
            for _ in range(50):
                await bus.publish(to_user(user, "upload.completed", "u"), data=data)
        line = await wait_line(bridge, Line.CLOSED, user_id=user)
        assert (line["level"], line["code"], line["by"]) == ("warning", 4002, "bridge")
        assert await number("connections_closing") == 1
        assert await number('connections_closed_total{by="bridge",code="4002"}') == 1
        client.socket.transport.abort()
        async with asyncio.timeout(10):
            while await number("connections_closing"):
                pass  # asking takes a while


async def test_a_proxy_that_drops_the_upgrade_is_found(bridge: BridgeProcess) -> None:
    """A request for the WebSocket without an upgrade is a line, without what stood in its path."""
    token = mint(new_user())
    async with http(bridge.url) as client:
        assert (await client.get(f"/ws/{token}")).status_code == 426
    line = await wait_line(bridge, Line.REQUEST_REFUSED, status=426)
    assert (line["reason"], line["path"]) == ("no upgrade", "/ws")
    assert token not in bridge.output


async def test_rate_limiting_is_told_and_counted(start_bridge: StartBridge) -> None:
    """Who sends too much: a line with the user, and each refusal in the count."""
    bridge = start_bridge(
        BRIDGE_LOG_FORMAT="json", BRIDGE_LOG_LEVEL="info", BRIDGE_RATE_LIMIT_MESSAGES="5"
    )
    user = new_user()
    async with Clients(bridge.url) as clients:
        client = await clients.join(user)
        for _ in range(8):
            await client.send("heartbeat")
        for _ in range(3):
            await client.expect_error("RATE_LIMIT_EXCEEDED")
        line = await wait_line(bridge, Line.RATE_LIMITED, user_id=user)
        assert line["connection_id"] == client.id
    async with http(bridge.url, mint("admin", role="admin")) as api:
        text = (await api.get("/metrics")).text
    assert 'bridge_errors_total{code="RATE_LIMIT_EXCEEDED"} 3.0' in text
    assert 'bridge_client_messages_total{type="heartbeat"} 5.0' in text


HOSTILE = "x\n2026-01-01T00:00:00.000Z ERROR bridge: forged\x1b[31m\u2028\x00"


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_nobody_forges_a_line(start_bridge: StartBridge, format_: str) -> None:
    """Line breaks and controls in a user id, an e-mail address, a pattern, a message's type, a
    header, a path: each record stays one line, and none is of their making.
    """
    bridge = start_bridge(BRIDGE_LOG_FORMAT=format_, BRIDGE_LOG_LEVEL="debug")
    async with Clients(bridge.url) as clients:
        client = await clients.join(HOSTILE, email=HOSTILE)
        await client.ask("subscribe", {"events": ["upload.*", HOSTILE]})
        await client.send(HOSTILE)
        await client.expect("error")
        await client.send("upload.cancel", {"upload_id": HOSTILE})
        await client.expect("error")
        # What a header may hold: NEL and CSI, as bytes.
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: h\x85\x9b\r\nOrigin: https://e\x85\x9b31m\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        async with asyncio.timeout(5):
            assert (await reader.read(100)).startswith(b"HTTP/1.1 403")
        writer.close()
        await clients.rejected("/%0a2026-01-01T00:00:00.000Z%20ERROR")
        admin = mint(HOSTILE, role="admin")
        async with http(bridge.url, admin) as api:
            await api.post("/ws/broadcast", json={"type": HOSTILE, "data": 1})
    bridge.terminate()
    assert bridge.wait() == 0
    lines_ = [each for each in bridge.output.splitlines() if "bridge ready on" not in each]
    assert len(lines_) > 8
    for line in lines_:
        if format_ == "json":
            assert json.loads(line)["logger"] != "bridge"
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ [\w.]+: ", line), line
            assert "ERROR bridge: forged" not in line[:60]
            assert line.isprintable(), line
