"""Tokens signed with private keys: the public ones come from a file or from a JWKS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.clients import Clients, http, mint, new_user

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def private_key(algorithm: str) -> PrivateKey:
    """Return a new key of this algorithm."""
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def pem(key: PrivateKey) -> bytes:
    """Return the public key as PEM."""
    public = key.public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def signed(key: PrivateKey, algorithm: str, kid: str | None = None) -> str:
    """Return a good token of a new user, signed with this key."""
    claims = {"sub": new_user(), "exp": int(time.time()) + 600}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


async def is_taken(bridge: BridgeProcess, token: str) -> bool:
    """Whether a token opens a connection; where not, it is told as 4500.

    1013 is as good where the bridge could not ask for a key that it does not know.
    """
    async with Clients(bridge.url) as clients:
        client = await clients.connect(token, "header")
        messages = await client.until_closed_or("connection.established")
        if messages and messages[-1]["type"] == "connection.established":
            return True
        unknown = "kid" in jwt.get_unverified_header(token)
        refusals = {codes.INVALID_TOKEN.code, *([codes.TRY_AGAIN_LATER.code] if unknown else [])}
        assert client.socket.close_code in refusals
        return False


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_public_key_file(start_bridge: StartBridge, tmp_path: Path, algorithm: str) -> None:
    """With a public key in a file its tokens are good, and no trick makes others good.

    The public key is no HMAC secret, whatever algorithm a token names.
    """
    key = private_key(algorithm)
    file = tmp_path / "public.pem"
    file.write_bytes(pem(key))
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS=algorithm, BRIDGE_JWT_PUBLIC_KEY=str(file), BRIDGE_JWT_SECRET=""
    )
    assert await is_taken(bridge, signed(key, algorithm))
    assert not await is_taken(bridge, signed(private_key(algorithm), algorithm))
    assert not await is_taken(bridge, mint(new_user()))
    assert not await is_taken(bridge, forged(pem(key)))


def forged(public: bytes) -> str:
    """Return a token that is "signed" by HMAC with a public key (RFC 8725 §2.1)."""

    def coded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": "1", "exp": int(time.time()) + 600}
    text = b".".join(coded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    return (text + b"." + coded(hmac.digest(public, text, hashlib.sha256))).decode()


class Issuer:
    """A token issuer's JWKS, which can change and be away."""

    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.away = False
        self.drips = False
        self.fetched = 0
        self.gate = threading.Event()
        self.gate.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetched += 1
                issuer.gate.wait(20)
                if issuer.drips:
                    self.drip()
                    return
                body = json.dumps(issuer.document()).encode()
                self.send_response(500 if issuer.away else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def drip(self) -> None:
                # A header without an end, for longer than any deadline.
                self.close_connection = True
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                for _ in range(200):
                    try:
                        self.wfile.write(b"x")
                    except ConnectionError:
                        return
                    time.sleep(0.1)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"

    def document(self) -> dict[str, Any]:
        """Return the key set."""
        keys = []
        for kid, key in self.keys.items():
            each = json.loads(ECAlgorithm.to_jwk(key.public_key()))
            keys.append({**each, "kid": kid, "alg": "ES256", "use": "sig"})
        return {"keys": keys}

    def add(self, kid: str) -> str:
        """Add a key and return its id."""
        self.keys[kid] = ec.generate_private_key(ec.SECP256R1())
        return kid

    def token(self, kid: str) -> str:
        """Return a token signed with this key."""
        return signed(self.keys[kid], "ES256", kid)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer on a port of its own."""
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever, args=(0.05,))
    thread.start()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()
    thread.join()


async def test_jwks(start_bridge: StartBridge, issuer: Issuer) -> None:
    """Keys come from the issuer; one that appears later is found, unknown ones are refused."""
    issuer.add("one")
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256", BRIDGE_JWKS_URL=issuer.url, BRIDGE_JWT_SECRET=""
    )
    assert await is_taken(bridge, issuer.token("one"))
    foreign = ec.generate_private_key(ec.SECP256R1())
    assert not await is_taken(bridge, signed(foreign, "ES256", "one"))
    fetched = issuer.fetched
    for number in range(10):
        assert not await is_taken(bridge, signed(foreign, "ES256", f"unknown-{number}"))
    assert issuer.fetched - fetched <= 3, "unknown key ids must not make the bridge fetch each time"


async def test_unknown_keys_count_as_failures(start_bridge: StartBridge, issuer: Issuer) -> None:
    """Whoever keeps naming keys that nobody knows gets 429, also while the issuer is down; known
    keys open connections from that address all the same.
    """
    issuer.add("one")
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256",
        BRIDGE_JWKS_URL=issuer.url,
        BRIDGE_JWT_SECRET="",
        BRIDGE_FAILED_HANDSHAKES="5",
    )
    issuer.away = True
    foreign = ec.generate_private_key(ec.SECP256R1())
    async with Clients(bridge.url) as clients:
        for number in range(5):
            client = await clients.connect(signed(foreign, "ES256", f"unknown-{number}"))
            await client.expect_close(codes.TRY_AGAIN_LATER)
        refusal = await clients.rejected("/ws/" + signed(foreign, "ES256", "unknown"))
        assert refusal.status_code == 429
    assert await is_taken(bridge, issuer.token("one"))


async def test_who_waits_for_a_key_is_of_the_crowd(
    start_bridge: StartBridge, issuer: Issuer
) -> None:
    """A quarter of the places is for those who have not shown who they are, with those who wait
    for a key among them; a known key gets in beside them at once.
    """
    issuer.add("one")
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256",
        BRIDGE_JWKS_URL=issuer.url,
        BRIDGE_JWT_SECRET="",
        BRIDGE_MAX_CONNECTIONS="20",
    )
    foreign = ec.generate_private_key(ec.SECP256R1())
    issuer.gate.clear()
    async with Clients(bridge.url) as clients:
        fetched = issuer.fetched
        while issuer.fetched == fetched:  # not within ten seconds after the last one
            client = await clients.connect(signed(foreign, "ES256", "unknown"))
            await asyncio.sleep(0.2)
        waiting = [client] + [
            await clients.connect(signed(foreign, "ES256", f"unknown-{number}"))
            for number in range(4)
        ]
        refusal = await clients.rejected("/ws/" + signed(foreign, "ES256", "unknown"))
        assert refusal.status_code == 503
        assert await is_taken(bridge, issuer.token("one"))
        issuer.gate.set()
        for client in waiting:
            await client.expect_close(codes.INVALID_TOKEN, 10)


async def test_an_issuer_that_drips(start_bridge: StartBridge, issuer: Issuer) -> None:
    """A fetch has a deadline as a whole: one that never ends is cut, known keys serve meanwhile,
    and once the issuer is healthy again a new key is found.
    """
    issuer.add("one")
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256", BRIDGE_JWKS_URL=issuer.url, BRIDGE_JWT_SECRET=""
    )
    issuer.drips = True
    new = issuer.add("two")
    assert not await is_taken(bridge, issuer.token(new))
    assert await is_taken(bridge, issuer.token("one"))
    issuer.drips = False
    deadline = time.monotonic() + 20
    while not await is_taken(bridge, issuer.token(new)):
        assert time.monotonic() < deadline, "no new fetch began"
        await asyncio.sleep(0.5)


async def test_not_ready_without_a_key(start_bridge: StartBridge, issuer: Issuer) -> None:
    """Until the issuer has answered no client can come in: ``/readyz`` is 503 and names it. Once it
    has, it may go away again.
    """
    issuer.add("one")
    issuer.away = True
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256", BRIDGE_JWKS_URL=issuer.url, BRIDGE_JWT_SECRET=""
    )
    async with http(bridge.url) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["keys"] == "none yet from BRIDGE_JWKS_URL"
        assert answer.json()["checks"]["nats"] == "ok"
        issuer.away = False
        deadline = time.monotonic() + 20
        while (await client.get("/readyz")).status_code == 503:
            assert time.monotonic() < deadline, "it was not asked again"
            await asyncio.sleep(0.2)
        issuer.away = True
        assert await is_taken(bridge, issuer.token("one"))
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]["keys"]) == (200, "ok")


async def test_issuer_goes_away(start_bridge: StartBridge, issuer: Issuer) -> None:
    """Known keys serve on while the issuer is down."""
    issuer.add("one")
    bridge = start_bridge(
        BRIDGE_JWT_ALGORITHMS="ES256", BRIDGE_JWKS_URL=issuer.url, BRIDGE_JWT_SECRET=""
    )
    assert await is_taken(bridge, issuer.token("one"))
    issuer.away = True
    for _ in range(3):
        assert await is_taken(bridge, issuer.token("one"))
