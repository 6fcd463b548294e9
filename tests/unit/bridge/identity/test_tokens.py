"""Tokens: what is accepted and what is refused, with which reason, and never with a value."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natsbridge.bridge.errors import StartError, TokenError
from natsbridge.bridge.identity.grants import ADMIN
from natsbridge.bridge.identity.keys import VerifyingKey, load_keys
from natsbridge.bridge.identity.minting import mint
from natsbridge.bridge.identity.tokens import (
    MAX_TOKEN_BYTES,
    Deactivated,
    KeyNeeded,
    NotYetValid,
    TokenVerifier,
)
from natsbridge.bridge.settings import IdentitySettings
from natsbridge.schemas.catalogue import Catalogue
from tests.unit.bridge.identity.conftest import Clock

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than thirty-two bytes"
CATALOGUE = Catalogue.load()
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def public_pem(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Private) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Bench:
    """A verifier at a time of the test's choosing, and tokens that it accepts."""

    def __init__(self, clock: Clock, **chosen: Any) -> None:
        self.settings = IdentitySettings(**{"jwt_secret": SECRET, "jwt_leeway": 0.0, **chosen})
        self.clock = clock
        self.verifier = TokenVerifier(
            self.settings, CATALOGUE, load_keys(self.settings), clock=clock
        )
        self.verify = self.verifier.verify

    def token(self, **claims: Any) -> str:
        """Return a token; a claim that is None is left out."""
        return mint(self.settings, "u1", extra=claims, clock=self.clock)

    def refuse(self, token: str) -> TokenError:
        with pytest.raises(TokenError) as refused:
            self.verify(token)
        return refused.value


@pytest.fixture
def bench(clock: Clock) -> Bench:
    return Bench(clock)


def coded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(payload: bytes, header: dict[str, Any] | None = None) -> str:
    """Return any bytes under a good signature."""
    return jwt.PyJWS().encode(payload, SECRET, "HS256", headers=header)


def test_a_good_token_says_who_and_until_when(bench: Bench, clock: Clock) -> None:
    """Every claim that is known ends up in the identity."""
    now = int(clock.now)
    token = bench.token(
        sub="a.b", email="a@example.com", name="A", jti="t1", iat=now - 5, exp=now + 60
    )
    identity = bench.verify(token)
    assert (identity.user_id, identity.user) == ("a.b", "a=2Eb")
    assert (identity.email, identity.name, identity.token_id) == ("a@example.com", "A", "t1")
    assert (identity.issued_at, identity.expires_at) == (now - 5.0, now + 60.0)
    assert (identity.role, identity.admin) == ("user", False)
    assert identity.grants.unrestricted


def test_a_bare_token_is_enough(bench: Bench, clock: Clock) -> None:
    """``sub`` and ``exp`` are all that a token needs."""
    token = jwt.encode({"sub": "1", "exp": clock.now + 1}, SECRET, "HS256")
    identity = bench.verify(token)
    assert identity.issued_at is None
    assert identity.token_id is identity.email is identity.name is None


@pytest.mark.parametrize(("sub", "user_id"), [("7", "7"), (7, "7"), (-7, "-7"), ("é", "é")])
def test_a_subject_is_text_or_a_whole_number(bench: Bench, sub: object, user_id: str) -> None:
    """Issuers send numbers too: they are taken as their decimal text."""
    assert bench.verify(bench.token(sub=sub)).user_id == user_id


@pytest.mark.parametrize("sub", ["", True, 7.5, [], {}, ["7"], "x" * 129, "é" * 43, 10**200])
def test_a_subject_that_is_no_id_is_refused(bench: Bench, sub: object) -> None:
    """What can't become a subject token, and what is neither text nor a whole number."""
    assert bench.refuse(bench.token(sub=sub)).reason.startswith("the token's sub is no id")


@pytest.mark.parametrize("sub", ["x" * 129, "é" * 22])
def test_a_subject_that_is_too_long_is_told_so(bench: Bench, sub: str) -> None:
    """The reason names the bound, so that an issuer can mend it."""
    assert "over 128 bytes when encoded" in bench.refuse(bench.token(sub=sub)).reason


def test_numbers_without_bounds_are_refused_or_cut(bench: Bench) -> None:
    """A number that JSON may hold and a clock may not is the end of time, or no token at all."""
    for exp in (b"9" * 4000, b"1e300", b"1e999"):
        identity = bench.verify(signed(b'{"sub":"1","exp":%s}' % exp))
        assert identity.expires_at == 253402300799.0
    for digits in (b"9" * 4000, b"9" * 5000):
        bench.refuse(signed(b'{"sub":%s,"exp":9e9}' % digits))
    assert bench.refuse(signed(b'{"sub":"1","exp":-1e999}')).expired


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"sub":"1"}', "the token has no exp"),
        (b'{"exp":9e9}', "the token has no sub"),
        (b'{"sub":null,"exp":9e9}', "the token has no sub"),
        (b'{"sub":"1","exp":null}', "the token has no exp"),
        (b'{"sub":"1","exp":"9000000000"}', "the token's exp is no time"),
        (b'{"sub":"1","exp":true}', "the token's exp is no time"),
        (b'{"sub":"1","exp":NaN}', "the token is malformed"),
        (b'{"sub":"1","exp":9e9,"iat":"1"}', "the token's iat is no time"),
        (b'{"sub":"1","exp":9e9,"nbf":[]}', "the token's nbf is no time"),
        (b'{"sub":"\\ud800","exp":9e9}', "the token is malformed"),
        (b"[]", "the token is malformed"),
        (b"null", "the token is malformed"),
        (b"", "the token is malformed"),
        (b"\xff", "the token is malformed"),
        (b"[" * 4000, "the token is malformed"),
    ],
)
def test_claims_have_their_types(bench: Bench, payload: bytes, reason: str) -> None:
    """A good signature does not excuse claims that are missing or of the wrong type."""
    assert bench.refuse(signed(payload)).reason == reason


def test_expiry_is_told_apart(bench: Bench, clock: Clock) -> None:
    """A token is good until its ``exp`` and not at it, and only that refusal says expired."""
    token = bench.token(exp=clock.now + 10)
    clock.now += 9.9
    bench.verify(token)
    clock.now += 0.1
    refused = bench.refuse(token)
    assert refused.expired
    assert refused.reason == "the token has expired"
    assert not bench.refuse(bench.token(exp=-(10**400))).reason.count("1000")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused(
    bench: Bench, clock: Clock, claim: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before ``nbf``, and before it was even issued, a token is not valid yet: a clock may be
    wrong, which is logged, once a minute. Not so for one that is a day ahead.
    """
    token = bench.token(**{claim: clock.now + 10})
    for _ in range(3):
        refused = bench.refuse(token)
        assert isinstance(refused, NotYetValid)
        assert refused.reason == "the token is not valid yet"
        assert not refused.expired
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "clock" in caplog.text
    far = bench.refuse(bench.token(**{claim: clock.now + 24 * 3600}))
    assert not isinstance(far, NotYetValid)
    assert far.reason == "the token is not valid for a day yet"
    clock.now += 10
    bench.verify(token)


def test_leeway_moves_both_ends(clock: Clock) -> None:
    """The skew allowed counts before ``nbf`` and after ``exp``; ``expires_at`` stays ``exp``."""
    bench = Bench(clock, jwt_leeway=5)
    token = bench.token(nbf=clock.now + 5, exp=clock.now + 10)
    assert bench.verify(token).expires_at == clock.now + 10
    clock.now += 14.9
    bench.verify(token)
    clock.now += 0.1
    assert bench.refuse(token).expired


def test_the_issuer_is_checked_when_set(clock: Clock) -> None:
    """With an issuer in the settings, another one or none is refused; without, any passes."""
    bench = Bench(clock, jwt_issuer="https://issuer.example")
    bench.verify(bench.token())
    wrong: object
    for wrong in ("https://issuer.example/", "HTTPS://ISSUER.EXAMPLE", ["https://issuer.example"]):
        token = signed(json.dumps({"sub": "1", "exp": clock.now + 9, "iss": wrong}).encode())
        assert bench.refuse(token).reason == "the token's issuer is wrong"
    assert bench.refuse(bench.token(iss=None)).reason == "the token's issuer is wrong"
    Bench(clock).verify(bench.token())


def test_the_audience_is_checked_when_set(clock: Clock) -> None:
    """One of the configured audiences must be named; without a setting, any or none passes."""
    bench = Bench(clock, jwt_audience=("bridge", "other"))
    good: object
    wrong: object
    for good in ("bridge", ["x", "other"], ["bridge", 7]):
        bench.verify(bench.token(aud=good))
    for wrong in ("x", "bridg", [], ["x"], None, 7, {"bridge": 1}, [["bridge"]]):
        assert bench.refuse(bench.token(aud=wrong)).reason == "the token's audience is wrong"
    free = Bench(clock)
    free.verify(free.token(aud="anything"))


def test_an_inactive_user_is_told_apart(bench: Bench) -> None:
    """Only ``false`` deactivates; what is no boolean is a malformed token, and null is absence."""
    bench.verify(bench.token(active=True))
    bench.verify(signed(b'{"sub":"1","exp":9e9,"active":null}'))
    assert isinstance(bench.refuse(bench.token(active=False)), Deactivated)
    wrong: object
    for wrong in (0, 1, "true", "false", []):
        refused = bench.refuse(bench.token(active=wrong))
        assert not isinstance(refused, Deactivated)
        assert refused.reason == "the token's active is neither true nor false"


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({}, "user"), ({"role": "admin"}, ADMIN), ({"role": "reviewer"}, "reviewer"),
        ({"roles": ["a", "admin"]}, ADMIN), ({"role": "a", "roles": ["admin"]}, ADMIN),
        ({"roles": ["a", "b"]}, "a"), ({"role": "a", "roles": ["b"]}, "a"), ({"roles": []}, "user"),
        ({"role": "Admin"}, "Admin"),
    ],
)  # fmt: skip
def test_roles(bench: Bench, claims: dict[str, Any], role: str) -> None:
    """``admin`` in either claim makes an admin; else ``role`` counts, then the first of many."""
    identity = bench.verify(bench.token(**claims))
    assert identity.role == role
    assert identity.admin is (role == ADMIN)


@pytest.mark.parametrize("claims", [{"role": 1}, {"role": ["admin"]}, {"roles": "admin"},
                                    {"roles": ["admin", 1]}])  # fmt: skip
def test_malformed_roles_are_refused(bench: Bench, claims: dict[str, Any]) -> None:
    """A role that is no name is not guessed at."""
    assert "role" in bench.refuse(bench.token(**claims)).reason


def test_the_grants_claim_counts(bench: Bench) -> None:
    """A claim makes the grants, with the subject in it; a malformed one refuses the token."""
    token = bench.token(
        sub="a.b", grants={"subscribe": {"allow": ["user.status_changed.{user_id}"]}}
    )
    grants = bench.verify(token).grants
    assert grants.permits("user.status_changed", "a=2Eb")
    assert not grants.permits("user.status_changed", "other")
    begin = "the token's grants are"
    assert bench.refuse(bench.token(grants=["all"])).reason.startswith(begin)
    assert bench.refuse(signed(b'{"sub":"1","exp":9e9,"grants":null}')).reason.startswith(begin)
    assert bench.refuse(bench.token(grants={"subscribe": {"deny": None}})).reason == (
        "the token's grants are malformed: subscribe.deny"
    )
    assert bench.refuse(bench.token(grants={"hemlig": {}})).reason == (
        "the token's grants are malformed: a part of them"
    )
    many = {"subscribe": {"allow": [f"review.*.{number}" for number in range(257)]}}
    assert (
        bench.refuse(bench.token(grants=many)).reason == "the token's grants have over 256 patterns"
    )


def test_the_size_is_checked_before_anything_else(bench: Bench) -> None:
    """A token of 8 KiB is looked at, a longer one is not."""
    token = bench.token(name="x" * 4000)
    bench.verify(token)
    assert bench.refuse(token + "x" * MAX_TOKEN_BYTES).reason == "the token is over 8 KiB"


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\ud800.a.b", "eyJ.eyJ.",
     " " * 20, "\n", "null", "e30.e30.e30"],
)  # fmt: skip
def test_rubbish_is_malformed(bench: Bench, token: str) -> None:
    """What is no token is refused like any other."""
    assert bench.refuse(token).reason in (
        "the token is malformed",
        "the token's algorithm is not allowed",
    )


def test_a_token_without_a_signature_is_refused(bench: Bench, clock: Clock) -> None:
    """``alg: none`` is refused in every spelling, with and without a signature."""
    claims = {"sub": "1", "exp": clock.now + 60}
    name: object
    for name in ("none", "None", "NONE", "", None, [], 7):
        for signature in ("", bench.token().split(".")[2]):
            token = f"{coded({'alg': name})}.{coded(claims)}.{signature}"
            assert bench.refuse(token).reason == "the token's algorithm is not allowed"


def test_only_configured_algorithms_count(clock: Clock, bench: Bench) -> None:
    """Another HMAC with the right secret is refused: the header does not choose."""
    secret = SECRET * 2
    bench = Bench(clock, jwt_secret=secret)
    claims = {"sub": "1", "exp": clock.now + 60}
    for name in ("HS384", "HS512"):
        refused = bench.refuse(jwt.encode(claims, secret, name))
        assert refused.reason == "the token's algorithm is not allowed"
    wide = Bench(clock, jwt_secret=secret, jwt_algorithms=("HS256", "HS512"))
    wide.verify(jwt.encode(claims, secret, "HS512"))


def test_a_wrong_secret_is_refused(bench: Bench, clock: Clock) -> None:
    """The signature must be of this secret, over these claims."""
    token = jwt.encode({"sub": "1", "exp": clock.now + 9}, SECRET + "x", "HS256")
    assert bench.refuse(token).reason == "the token's signature is wrong"
    head, _, signature = bench.token().split(".")
    other = bench.token(sub="admin").split(".")[1]
    assert bench.refuse(f"{head}.{other}.{signature}").reason == "the token's signature is wrong"


def test_two_secrets_while_one_replaces_the_other(clock: Clock) -> None:
    """Tokens of the previous secret are good beside those of the new one, and nobody else's; what
    is minted here is signed with the new one.
    """
    new, old = "n" * 32, "o" * 32
    bench = Bench(clock, jwt_secret=new, jwt_previous_secret=old)
    claims = {"sub": "1", "exp": clock.now + 9}
    for secret in (new, old):
        assert bench.verify(jwt.encode(claims, secret, "HS256")).user_id == "1"
    foreign = jwt.encode(claims, "f" * 32, "HS256")
    assert bench.refuse(foreign).reason == "the token's signature is wrong"
    assert bench.refuse(jwt.encode(claims, old * 2, "HS512")).reason.endswith("is not allowed")
    minted = jwt.decode(
        bench.token(), new, ["HS256"], options={"verify_exp": False, "verify_iat": False}
    )
    assert minted["sub"] == "u1"
    assert Bench(clock, jwt_secret=new).refuse(jwt.encode(claims, old, "HS256"))


def test_two_public_keys_while_one_replaces_the_other(clock: Clock, tmp_path: Path) -> None:
    """A file may hold the new key and the one before it, also of another type; not a third."""
    file = tmp_path / "public.pem"
    file.write_bytes(public_pem(P256) + public_pem(RSA))
    chosen: dict[str, Any] = {"jwt_secret": None, "jwt_public_key": file}
    bench = Bench(clock, jwt_algorithms=("RS256", "ES256", "EdDSA"), **chosen)
    claims = {"sub": "1", "exp": clock.now + 9}
    assert bench.verify(jwt.encode(claims, P256, "ES256")).user_id == "1"
    assert bench.verify(jwt.encode(claims, RSA, "RS256")).user_id == "1"
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert bench.refuse(jwt.encode(claims, other, "RS256")).reason.endswith("signature is wrong")
    assert bench.refuse(jwt.encode(claims, ED, "EdDSA")).reason.endswith("is not allowed")
    file.write_bytes(public_pem(P256) + public_pem(RSA) + public_pem(ED))
    with pytest.raises(StartError, match="over 2 keys"):
        Bench(clock, jwt_algorithms=("RS256", "ES256", "EdDSA"), **chosen)


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"kid": 7}])
def test_headers_that_must_be_understood_are_refused(bench: Bench, header: dict[str, Any]) -> None:
    """Critical extensions that nobody knows (RFC 7515 §4.1.11) and a bad key id are refused."""
    claims = coded({"sub": "1", "exp": 9e9})
    head = coded({"alg": "HS256", **header})
    algorithm = jwt.PyJWS().get_algorithm_by_name("HS256")
    signature = algorithm.sign(f"{head}.{claims}".encode(), SECRET.encode())
    assert bench.refuse(f"{head}.{claims}.{coded(signature)}").reason == "the token is malformed"


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", RSA), ("PS256", RSA), ("RS512", RSA), ("ES256", P256), ("EdDSA", ED)],
)
def test_asymmetric_algorithms(clock: Clock, tmp_path: Path, algorithm: str, key: Private) -> None:
    """With a public key in PEM, tokens of its private key are good, and nobody else's."""
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_bytes(public_pem(key))
    private.write_bytes(private_pem(key))
    bench = Bench(clock, jwt_secret=None, jwt_public_key=public, jwt_algorithms=(algorithm,))
    token = mint(bench.settings, "u1", private_key=private, clock=clock)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert bench.verify(token).user_id == "u1"
    head, body, signature = token.split(".")
    swapped = signature[:-8] + ("A" * 4 if signature[-8:-4] != "AAAA" else "B" * 4) + signature[-4:]
    assert bench.refuse(f"{head}.{body}.{swapped}").reason == "the token's signature is wrong"


def test_a_public_key_is_no_secret(clock: Clock, tmp_path: Path) -> None:
    """A token that is HMACed with the public key (RFC 8725 §2.1) is refused by its algorithm."""
    public = tmp_path / "public.pem"
    public.write_bytes(public_pem(RSA))
    bench = Bench(clock, jwt_secret=None, jwt_public_key=public, jwt_algorithms=("RS256", "ES256"))
    head, body = coded({"alg": "HS256"}), coded({"sub": "1", "exp": clock.now + 9})
    algorithm = jwt.PyJWS().get_algorithm_by_name("HS256")
    signature = coded(algorithm.sign(f"{head}.{body}".encode(), public.read_bytes()))
    assert bench.refuse(f"{head}.{body}.{signature}").reason == (
        "the token's algorithm is not allowed"
    )
    claims = {"sub": "1", "exp": clock.now + 9}
    other_type = jwt.encode(claims, P256, "ES256")
    assert bench.refuse(other_type).reason == "the token's algorithm is not allowed"


class Source:
    """Keys by id: those at hand, those that a fetch brings, and whether it answers."""

    by_id = True

    def __init__(self, fetched: dict[str | None, VerifyingKey], *, answers: bool = True) -> None:
        self.at_hand: dict[str | None, VerifyingKey] = {}
        self._fetched = fetched
        self._answers = answers
        self.asked = 0

    def get(self, kid: str | None) -> VerifyingKey | None:
        return self.at_hand.get(kid)

    async def fetch(self) -> bool:
        self.asked += 1
        if self._answers:
            self.at_hand.update(self._fetched)
        return self._answers


KEY = VerifyingKey(P256.public_key(), ("ES256",))


def by_id(source: Source, clock: Clock) -> TokenVerifier:
    chosen = IdentitySettings(jwt_algorithms=("ES256",), jwks_url="https://issuer.example/jwks")
    return TokenVerifier(chosen, CATALOGUE, source, clock=clock)


def es256(clock: Clock, kid: object) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "1", "exp": clock.now + 60}, P256, "ES256", headers=headers)


async def test_a_key_that_is_not_at_hand_is_fetched(clock: Clock) -> None:
    """``verify`` says which key it needs; ``verify_or_fetch`` gets it, once."""
    source = Source({"a": KEY})
    verifier = by_id(source, clock)
    token = es256(clock, "a")
    with pytest.raises(KeyNeeded) as needed:
        verifier.verify(token)
    assert needed.value.kid == "a"
    assert (await verifier.verify_or_fetch(token)).user_id == "1"
    assert (await verifier.verify_or_fetch(token)).user_id == "1"
    assert source.asked == 1


async def test_a_key_that_the_source_does_not_know_is_refused(clock: Clock) -> None:
    """After an answer without the key the refusal is final, not a missing key."""
    verifier = by_id(Source({"a": KEY}), clock)
    for kid in ("b", None):
        with pytest.raises(TokenError, match="key is unknown") as refused:
            await verifier.verify_or_fetch(es256(clock, kid))
        assert not isinstance(refused.value, KeyNeeded)


async def test_a_source_that_is_down_is_told_apart(clock: Clock) -> None:
    """Without an answer nobody knows whether the token is good: the client may come again."""
    with pytest.raises(KeyNeeded):
        await by_id(Source({}, answers=False), clock).verify_or_fetch(es256(clock, "a"))


@pytest.mark.parametrize("head", ["!", "e30", coded([]), coded({"alg": "ES256", "kid": 7}),
                                  coded(b"[" * 3000), coded(b"\xff"), "a", ""])  # fmt: skip
async def test_a_bad_header_asks_no_source(clock: Clock, head: str) -> None:
    """A header that names no key id in text costs the issuer nothing, or one look at most."""
    source = Source({"a": KEY})
    with pytest.raises(TokenError):
        await by_id(source, clock).verify_or_fetch(f"{head}.e30.e30")
    assert source.asked == (1 if head in ("e30", coded([])) else 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
def test_no_text_gets_more_than_a_typed_refusal(bench: Bench, text: str) -> None:
    """Whatever comes as a token, the only exception is the typed one."""
    bench.refuse(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(
    st.sampled_from(("sub", "exp", "iat", "nbf", "jti", "role", "roles", "active", "grants",
                     "email", "name", "iss", "aud")),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                 lambda inner: st.lists(inner) | st.dictionaries(
                     st.sampled_from(("subscribe", "command", "allow", "deny", "x")), inner)),
))  # fmt: skip
def test_no_claims_get_more_than_a_typed_refusal(bench: Bench, claims: dict[str, Any]) -> None:
    """Whatever an issuer signs, a token gives an identity that makes sense, or a refusal."""
    try:
        identity = bench.verify(signed(json.dumps(claims).encode()))
    except TokenError:
        return
    assert identity.user_id
    assert identity.expires_at > bench.clock.now


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_changed_character_is_refused(bench: Bench, data: st.DataObject) -> None:
    """No character of a token can be another one."""
    token = bench.token()
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("AZaz09-_.").filter(lambda each: each != token[place]))
    bench.refuse(token[:place] + other + token[place + 1 :])


def test_reasons_hold_no_value(bench: Bench, clock: Clock) -> None:
    """No refusal repeats what it refuses, in its words, arguments or chain."""
    marker = "xMARKERx"
    tokens = [
        bench.token(**{claim: value})
        for claim in ("sub", "exp", "iat", "nbf", "role", "roles", "active", "grants")
        for value in (
            [marker, 1.5],
            {marker: [marker]},
            {"subscribe": {"allow": [marker, f"{marker}."]}},
        )
    ]
    tokens.append(f"{marker}.{marker}.{marker}")
    tokens.append(jwt.encode({"sub": marker, "exp": clock.now + 9}, "y" * 40, "HS256"))
    for token in tokens:
        refused = bench.refuse(token)
        told = f"{refused} {refused.args} {refused.__cause__} {refused.reason}"
        assert marker not in told
        assert token not in told
        assert refused.__suppress_context__ or refused.__context__ is None


def test_mint_makes_what_the_settings_want(clock: Clock, tmp_path: Path) -> None:
    """A minted token has the issuer and audience that are configured, and the extra claims."""
    bench = Bench(clock, jwt_issuer="me", jwt_audience=("bridge",))
    token = mint(
        bench.settings, "u1", role="admin", grants={"subscribe": {"allow": ["a.b"]}}, ttl=60,
        extra={"name": "A"}, clock=clock,
    )  # fmt: skip
    identity = bench.verify(token)
    assert (identity.admin, identity.name, identity.expires_at) == (True, "A", clock.now + 60)
    assert not identity.grants.permits("review.updated", "1")


def test_mint_needs_a_key_of_use(tmp_path: Path) -> None:
    """Without a private key, with one that is none, or of another type, it says so plainly."""
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_bytes(public_pem(RSA))
    chosen = IdentitySettings(jwt_algorithms=("RS256",), jwt_public_key=public)
    with pytest.raises(StartError, match="private key"):
        mint(chosen, "u1")
    for content, words in ((b"x", "no private key"), (private_pem(ED), "fits none")):
        private.write_bytes(content)
        with pytest.raises(StartError, match=words):
            mint(chosen, "u1", private_key=private)
