"""Keys: what a PEM or a JWKS may serve, and fetching from a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from natsbridge.bridge.errors import StartError
from natsbridge.bridge.identity.fetching import MAX_JWKS_BYTES, JwksError
from natsbridge.bridge.identity.keys import (
    JwksKeys,
    StaticKeys,
    VerifyingKey,
    load_keys,
    parse_jwks,
    usable_algorithms,
)
from natsbridge.bridge.settings import ASYMMETRIC, IdentitySettings

pytestmark = pytest.mark.anyio

ALL = tuple(sorted(ASYMMETRIC))
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECRET = SecretStr("a secret of more than thirty-two bytes")


def member(kid: str | None = "a", **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = {**ECAlgorithm.to_jwk(P256.public_key(), as_dict=True), **fields}
    return found if kid is None else {**found, "kid": kid}


def jwks(*members: object) -> bytes:
    return json.dumps({"keys": members}).encode()


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Issuer:
    """A real HTTP server that serves a JWKS: what it answers, and when, is the test's to say."""

    def __init__(self) -> None:
        self.status = 200
        self.body = jwks(member())
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.reached = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.reached.set()
                issuer.gate.wait(30)
                self.send_response(issuer.status)
                for name, value in issuer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                # A client that has had enough hangs up.
                try:
                    self.wfile.write(issuer.body)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self._open = True

    def close(self) -> None:
        self.gate.set()
        if self._open:
            self._open = False
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(issuer: Issuer, clock: Clock) -> JwksKeys:
    return JwksKeys(issuer.url, ALL, pause=10, clock=clock)


async def test_keys_come_with_the_first_fetch(keys: JwksKeys) -> None:
    """Nothing is at hand before the first fetch, and the issuer's keys are after it."""
    assert keys.get("a") is None
    assert await keys.fetch()
    found = keys.get("a")
    assert found is not None
    assert found.algorithms == ("ES256",)
    assert keys.get("b") is None


async def test_known_keys_serve_while_the_source_is_down(keys: JwksKeys, issuer: Issuer) -> None:
    """An issuer that answers errors, rubbish or not at all takes no key from anybody."""
    assert await keys.refresh()
    for status, body in ((500, b""), (404, jwks(member("b"))), (200, b"<html>"), (200, jwks())):
        issuer.status, issuer.body = status, body
        assert not await keys.refresh()
        assert keys.get("a") is not None
    issuer.close()
    assert not await keys.refresh()
    assert keys.get("a") is not None
    assert (keys.fetches, keys.failures) == (6, 5)


async def test_a_source_that_is_back_serves_again(keys: JwksKeys, issuer: Issuer) -> None:
    """After an outage the next fetch brings what the issuer has then."""
    issuer.status = 503
    assert not await keys.refresh()
    issuer.status, issuer.body = 200, jwks(member("b"))
    assert await keys.refresh()
    assert keys.get("b") is not None


async def test_what_the_issuer_withdraws_is_refused(keys: JwksKeys, issuer: Issuer) -> None:
    """A good answer replaces all keys: an old one that is not in it is gone."""
    await keys.refresh()
    issuer.body = jwks(member("b"))
    await keys.refresh()
    assert keys.get("a") is None
    assert keys.get("b") is not None


async def test_a_flood_of_unknown_ids_asks_once_in_the_pause(
    keys: JwksKeys, issuer: Issuer, clock: Clock
) -> None:
    """A thousand unknown key ids within ten seconds cost the issuer one request."""
    answers = await asyncio.gather(*(keys.fetch() for _ in range(500)))
    assert all(answers)
    clock.now += 9.9
    assert not any([await keys.fetch() for _ in range(500)])
    assert issuer.asked == 1
    clock.now += 0.2
    assert await keys.fetch()
    assert issuer.asked == 2


async def test_the_pause_holds_after_a_failure_too(
    keys: JwksKeys, issuer: Issuer, clock: Clock
) -> None:
    """An issuer that is down is not asked more often than one that is up."""
    issuer.status = 500
    assert not await keys.fetch()
    assert not await keys.fetch()
    assert issuer.asked == 1


async def test_one_fetch_at_a_time(keys: JwksKeys, issuer: Issuer, clock: Clock) -> None:
    """Whoever wants keys while a fetch is under way waits for it, however long ago it began."""
    issuer.gate.clear()
    first = asyncio.ensure_future(keys.fetch())
    await asyncio.to_thread(issuer.reached.wait, 10)
    clock.now += 60
    rest = [asyncio.ensure_future(keys.fetch()) for _ in range(20)]
    rest.append(asyncio.ensure_future(keys.refresh()))
    await asyncio.sleep(0)
    issuer.gate.set()
    assert all(await asyncio.gather(first, *rest))
    assert issuer.asked == 1


async def test_a_caller_that_leaves_does_not_stop_the_fetch(keys: JwksKeys, issuer: Issuer) -> None:
    """A client that hangs up cancels its own wait and nobody else's."""
    issuer.gate.clear()
    leaver = asyncio.ensure_future(keys.fetch())
    await asyncio.to_thread(issuer.reached.wait, 10)
    stayer = asyncio.ensure_future(keys.fetch())
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    issuer.gate.set()
    assert await stayer
    assert keys.get("a") is not None


async def test_a_silent_source_does_not_hold_anybody(issuer: Issuer, clock: Clock) -> None:
    """A wait is over after the timeout, though nothing has been answered."""
    keys = JwksKeys(issuer.url, ALL, timeout=0.05, clock=clock)
    issuer.gate.clear()
    assert not await keys.refresh()
    assert keys.get("a") is None


@pytest.mark.parametrize("length", [MAX_JWKS_BYTES + 1, 4 * MAX_JWKS_BYTES])
async def test_an_answer_has_a_bounded_size(keys: JwksKeys, issuer: Issuer, length: int) -> None:
    """A good answer that is too long is not read to its end, and brings nothing."""
    issuer.body = jwks(member()) + b" " * length
    assert not await keys.refresh()
    assert keys.get("a") is None


async def test_a_redirect_is_not_followed(keys: JwksKeys, issuer: Issuer) -> None:
    """Keys come from the address that was configured, and from no other that it names."""
    issuer.status, issuer.headers = 302, {"Location": "/elsewhere"}
    assert not await keys.refresh()
    assert issuer.asked == 1


async def test_outages_are_logged_once_and_without_the_url(
    keys: JwksKeys, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says that an outage began, one line that it is over; neither shows the URL."""
    caplog.set_level("INFO", "natsbridge")
    issuer.status = 500
    await keys.refresh()
    await keys.refresh()
    issuer.status = 200
    await keys.refresh()
    await keys.refresh()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "127.0.0.1" not in caplog.text


async def test_tokens_without_an_id_get_the_single_key(issuer: Issuer) -> None:
    """Without a key id the configured PEM serves, else the only key of the set, else none."""
    keys = JwksKeys(issuer.url, ALL)
    await keys.refresh()
    assert keys.get(None) is keys.get("a")
    issuer.body = jwks(member("a"), member("b"))
    await keys.refresh()
    assert keys.get(None) is None
    single = VerifyingKey(RSA.public_key(), ("RS256",))
    assert JwksKeys(issuer.url, ALL, single=single).get(None) is single


@pytest.mark.parametrize(
    "unusable",
    [
        "a", None, {}, {"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, {"kty": "EC", "kid": "x"},
        member(use="enc"), member(key_ops=["sign"]), member(key_ops="verify"), member(alg="RS256"),
        member(alg="HS256"), member(alg="none"), member(alg=1), member(kty="RSA"), member(d="x"),
        {**member(), "kid": 7}, member(crv="P-999"), member(x="!"), member(x=5),
    ],
)  # fmt: skip
def test_members_of_no_use_are_left_out(unusable: object) -> None:
    """A key for something else, a private or symmetric or broken one, stands in for nothing."""
    assert set(parse_jwks(jwks(unusable, member("good"), member("too")), ALL)) == {"good", "too"}
    with pytest.raises(JwksError):
        parse_jwks(jwks(unusable), ALL)


def test_a_key_serves_what_it_says_and_what_is_allowed() -> None:
    """``alg`` narrows a key to one algorithm; what the settings do not allow is out either way."""
    wide: dict[str, Any] = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
    narrow = {**wide, "alg": "PS256", "kid": "narrow"}
    found = parse_jwks(jwks({**wide, "kid": "wide"}, narrow), ("RS256", "PS256", "ES256"))
    assert found["wide"].algorithms == ("RS256", "PS256")
    assert found["narrow"].algorithms == ("PS256",)
    with pytest.raises(JwksError):
        parse_jwks(jwks(narrow), ("RS256",))


def test_the_first_of_two_keys_with_one_id_counts() -> None:
    """A second key under a known id does not replace the first."""
    other: dict[str, Any] = OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True)
    found = parse_jwks(jwks(member("a"), {**other, "kid": "a"}, {**other, "kid": "b"}), ALL)
    assert found["a"].algorithms == ("ES256",)
    assert found["b"].algorithms == ("EdDSA",)


@given(st.one_of(st.binary(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(("keys", "kty", "kid", "crv", "x", "y", "n", "e", "alg", "use")),
        inner | st.sampled_from(("RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB")),
    ),
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_rubbish_is_refused_with_one_error(text: bytes) -> None:
    """Whatever a source answers, keys come out of it or a typed error."""
    with contextlib.suppress(JwksError):
        assert parse_jwks(text, ALL)


def test_a_key_fits_its_type_curve_and_length() -> None:
    """RSA keys of 2048 bits serve RS and PS, curves their own algorithm, everything else none."""
    assert usable_algorithms(RSA.public_key(), ALL) == tuple(
        name for name in ALL if name[:2] in ("RS", "PS")
    )
    assert usable_algorithms(P256.public_key(), ALL) == ("ES256",)
    assert usable_algorithms(ED.public_key(), ALL) == ("EdDSA",)
    assert usable_algorithms(ec.generate_private_key(ec.SECP256K1()).public_key(), ALL) == ()
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # must be refused
    assert usable_algorithms(short.public_key(), ALL) == ()
    assert usable_algorithms(b"secret", ALL) == ()


async def test_a_secret_serves_symmetric_algorithms() -> None:
    """With HS algorithms the secret is the key of every token, and there is nothing to fetch."""
    keys = load_keys(IdentitySettings(jwt_secret=SECRET))
    assert isinstance(keys, StaticKeys)
    assert keys.get("any") == VerifyingKey(SECRET.get_secret_value().encode(), ("HS256",))
    assert await keys.fetch()
    assert SECRET.get_secret_value() not in repr(keys.get(None))


def test_a_secret_must_be_long_enough_and_none_in_public() -> None:
    """A secret too short for its algorithm, or one that is a public key, stops the start."""
    with pytest.raises(StartError, match="too short for HS512"):
        load_keys(IdentitySettings(jwt_secret=SECRET, jwt_algorithms=("HS256", "HS512")))
    with pytest.raises(StartError, match="public key"):
        load_keys(IdentitySettings(jwt_secret=SecretStr(pem(RSA).decode())))


def test_a_pem_must_be_a_public_key_that_fits(tmp_path: Path) -> None:
    """A PEM that is none, or fits no allowed algorithm, stops the start; a good one serves all."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"no key")
    with pytest.raises(StartError, match="PEM"):
        load_keys(IdentitySettings(jwt_algorithms=("RS256",), jwt_public_key=path))
    path.write_bytes(pem(P256))
    with pytest.raises(StartError, match="fits none"):
        load_keys(IdentitySettings(jwt_algorithms=("RS256",), jwt_public_key=path))
    path.write_bytes(pem(RSA))
    found = load_keys(IdentitySettings(jwt_algorithms=("RS256",), jwt_public_key=path)).get("any")
    assert found is not None
    assert found.algorithms == ("RS256",)


def test_a_pem_beside_a_jwks_serves_tokens_without_an_id(tmp_path: Path) -> None:
    """With both configured, a token that names a key is looked up, one that does not is not."""
    path = tmp_path / "key.pem"
    path.write_bytes(pem(RSA))
    settings = IdentitySettings(
        jwt_algorithms=("RS256",), jwt_public_key=path, jwks_url="http://127.0.0.1:1/jwks"
    )
    keys = load_keys(settings)
    assert keys.get(None) is not None
    assert keys.get("a") is None
