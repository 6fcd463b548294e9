"""wss without a proxy: the socket changes hands under TLS too."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from schemas import codes
from schemas.subjects import Root
from tests.support.bridge import StartBridge
from tests.support.bus import Bus, envelope, to_user
from tests.support.certificates import self_signed
from tests.support.clients import Client, mint, new_user


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


async def test_wss(start_bridge: StartBridge, certificate: tuple[Path, Path]) -> None:
    """Messages both ways, large ones among them, HTTPS beside them, and the drain at the end."""
    cert, key = certificate
    bridge = start_bridge(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key))
    assert bridge.url.startswith("https://127.0.0.1:")
    trust = ssl.create_default_context(cafile=str(cert))
    user = new_user()
    url = f"{bridge.ws_url}/ws/{mint(user)}"
    async with connect(url, ssl=trust, proxy=None, compression=None, max_size=None) as socket:
        client = Client(socket, user)
        await client.expect("connection.established")
        await client.send_raw(json.dumps({"type": "ping", "padding": "x" * 60_000}))
        await client.expect("pong")
        async with Bus(bridge) as bus:
            address = to_user(user, "upload.completed", "1")
            subject = bus.subjects.event(Root.LIVE, address)
            payloads = []
            for number in range(50):
                data = {"upload_id": "1", "result": {"number": number, "more": "x" * 50_000}}
                payloads.append(json.dumps(envelope(address, data)).encode())
                await bus.connection.publish(subject, payloads[-1])
            await bus.settle()
            for payload in payloads:
                assert (await client.receive_text()).encode() == payload
        async with httpx.AsyncClient(verify=trust, trust_env=False) as plain:
            assert (await plain.get(f"{bridge.url}/readyz")).status_code == 200
        bridge.terminate()
        await client.expect("connection.draining", 10)
        await client.expect_close(codes.GOING_AWAY, 10)
