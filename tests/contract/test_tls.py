"""wss without a proxy: the socket changes hands under TLS too."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from natsbridge.schemas import codes
from natsbridge.schemas.subjects import Root
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
            subject = bus.subjects.event(Root.SERVICE, address)
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


async def test_the_internal_address_is_under_tls_too(
    start_bridge: StartBridge, certificate: tuple[Path, Path]
) -> None:
    """Where clients are served under TLS, admins' tokens do not cross the network readable."""
    cert, key = certificate
    bridge = start_bridge(
        BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key), BRIDGE_INTERNAL_PORT="0"
    )
    url = bridge.wait_for_line(re.compile(r"internal address: (https://\S+)"), 5)[1]
    trust = ssl.create_default_context(cafile=str(cert))
    async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
        assert (await client.get(f"{url}/metrics")).status_code == 200


def test_tail_says_that_a_certificate_is_not_trusted(
    start_bridge: StartBridge, certificate: tuple[Path, Path]
) -> None:
    """Not that an operation is not permitted; with the CA named, by the bridge's own variables."""
    cert, key = certificate
    bridge = start_bridge(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "SSL_"))}

    def run_tail(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "natsbridge.bridge.cli", "tail", "--token", "none"],
            env={
                **inherited,
                "BRIDGE_PORT": str(bridge.port),
                "BRIDGE_TLS_CERT": str(cert),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    untrusted = run_tail()
    assert untrusted.returncode == 1
    assert f"wss://127.0.0.1:{bridge.port}" in untrusted.stderr
    assert "certificate is not trusted" in untrusted.stderr
    assert "permitted" not in untrusted.stderr
    trusted = run_tail(SSL_CERT_FILE=str(cert))
    assert "4500 INVALID_TOKEN" in trusted.stderr, trusted.stderr
