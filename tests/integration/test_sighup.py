"""SIGHUP: certificates and public keys are read again, without an end to any connection."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
import termios
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from natsbridge.schemas.codes import INVALID_TOKEN
from tests.contract.test_keys import pem, signed
from tests.support.bridge import BridgeProcess, StartBridge, settings_of, start_bridge
from tests.support.certificates import self_signed
from tests.support.clients import Client, Clients, mint, new_user
from tests.support.faulty import eventually
from tests.support.nats_server import EmbeddedNats, NatsServer

__all__ = ["start_bridge"]


def hang_up(bridge: BridgeProcess, line: str) -> None:
    """Send SIGHUP and wait for what the log says of it."""
    before = bridge.lines
    os.kill(bridge.pid, signal.SIGHUP)
    bridge.wait_for_line(re.compile(line), 10, before)


def shown(bridge: BridgeProcess) -> int:
    """Return the serial number of the certificate that a new handshake shows."""
    text = ssl.get_server_certificate(("127.0.0.1", bridge.port), timeout=5)
    return x509.load_pem_x509_certificate(text.encode()).serial_number


def serial(cert: Path) -> int:
    """Return the serial number of a certificate in a file."""
    return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number


async def test_a_new_certificate(start_bridge: StartBridge, tmp_path: Path) -> None:
    """New handshakes show it, open connections stay; a file that is broken, or a key that is
    another's, changes nothing and is logged.
    """
    cert, key = self_signed(tmp_path)
    first = serial(cert)
    bridge = start_bridge(BRIDGE_TLS_CERT=str(cert), BRIDGE_TLS_KEY=str(key))
    trust = ssl.create_default_context(cafile=cert)
    user = new_user()
    url = f"{bridge.ws_url}/ws/{mint(user)}"
    async with connect(url, ssl=trust, proxy=None, ping_interval=None) as socket:
        client = Client(socket, user)
        await client.expect("connection.established")
        self_signed(tmp_path)
        second = serial(cert)
        assert second != first
        assert shown(bridge) == first
        hang_up(bridge, "BRIDGE_TLS_CERT, BRIDGE_TLS_KEY: read again, good until")
        assert shown(bridge) == second
        await client.ping()
        good = key.read_bytes()
        elsewhere = tmp_path / "other"
        elsewhere.mkdir()
        foreign = self_signed(elsewhere)[1].read_bytes()
        for broken in (b"", b"no key", foreign):
            key.write_bytes(broken)
            hang_up(bridge, "BRIDGE_TLS_CERT, BRIDGE_TLS_KEY: not read again")
            assert shown(bridge) == second
        key.write_bytes(good)
        cert.unlink()
        hang_up(bridge, "BRIDGE_TLS_CERT, BRIDGE_TLS_KEY: not read again")
        assert shown(bridge) == second
        await client.ping()


async def test_a_new_public_key(start_bridge: StartBridge, tmp_path: Path) -> None:
    """First beside the old one, then alone: at no time is a token refused that should not be."""
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    file = tmp_path / "public.pem"
    file.write_bytes(pem(old))
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256", BRIDGE_JWT_PUBLIC_KEY=str(file), BRIDGE_JWT_SECRET=""
    )
    async with Clients(bridge.url) as clients:

        async def taken(key: ec.EllipticCurvePrivateKey) -> bool:
            client = await clients.connect(signed(key, "ES256"), "header")
            first = await client.receive()
            if first["type"] == "connection.established":
                return True
            assert await client.closed() == (INVALID_TOKEN.code, INVALID_TOKEN.name)
            return False

        assert [await taken(key) for key in (old, new)] == [True, False]
        file.write_bytes(pem(new) + pem(old))
        hang_up(bridge, "BRIDGE_JWT_PUBLIC_KEY: read again, two keys")
        assert [await taken(key) for key in (old, new)] == [True, True]
        file.write_bytes(pem(new))
        hang_up(bridge, "BRIDGE_JWT_PUBLIC_KEY: read again, one key")
        assert [await taken(key) for key in (old, new)] == [False, True]
        file.write_bytes(b"no key")
        hang_up(bridge, "BRIDGE_JWT_PUBLIC_KEY: not read again")
        assert [await taken(key) for key in (old, new)] == [False, True]


async def test_a_new_certificate_for_nats(start_bridge: StartBridge, tmp_path: Path) -> None:
    """The next connection to NATS shows it, where the old one is not trusted any more."""
    folders = [tmp_path / name for name in ("server", "client", "other")]
    for folder in folders:
        folder.mkdir()
    (server_cert, server_key), (cert, key), (other_cert, other_key) = map(self_signed, folders)
    config = tmp_path / "nats.conf"

    def trust(client: Path) -> None:
        config.write_text(
            f'tls {{ cert_file: "{server_cert}", key_file: "{server_key}", ca_file: "{client}", '
            "verify: true, timeout: 5 }"
        )

    mine = tmp_path / "trusted.pem"
    mine.write_bytes(cert.read_bytes())
    trust(mine)
    server = EmbeddedNats(tmp_path / "nats", arguments=("-c", str(config)))
    server.start()
    try:
        bridge = start_bridge(
            server.url.replace("nats://", "tls://"),
            BRIDGE_NATS_TLS_CA=str(server_cert),
            BRIDGE_NATS_TLS_CERT=str(cert),
            BRIDGE_NATS_TLS_KEY=str(key),
        )
        cert.write_bytes(other_cert.read_bytes())
        key.write_bytes(other_key.read_bytes())
        hang_up(bridge, "BRIDGE_NATS_TLS_.: read again, good until")
        trust(other_cert)
        server.stop()
        server.start()
        async with Clients(bridge.url) as clients:

            async def comes_in() -> bool:
                client = await clients.connect(mint(new_user()), "header")
                heard = await client.until_closed_or("connection.established", 10)
                return bool(heard)

            await eventually(comes_in, "NATS is back", 30)
    finally:
        server.close()


def test_the_end_of_its_terminal_stops_it(nats_server: NatsServer) -> None:
    """The SIGHUP of a terminal that is closed is no wish to go on without one."""
    master, slave = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    bridge = subprocess.Popen(
        [sys.executable, "-m", "natsbridge.bridge.cli", "serve"],
        env={**os.environ, **settings_of(nats_server.url)},
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    try:
        assert bridge.stdout is not None
        assert "ready" in bridge.stdout.readline()
        os.close(master)
        assert bridge.wait(20) == 0
        bridge.stdout.close()
    finally:
        bridge.kill()
        bridge.wait()
