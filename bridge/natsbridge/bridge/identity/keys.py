"""Keys that tokens are verified with: a secret, a PEM file, or a JWKS that is fetched.

``get`` is synchronous and never waits. Only :class:`JwksKeys` does I/O, in a thread of its own:
known keys go on serving while their source is down, at most one fetch runs at a time, and key ids
that nobody knows can't make the bridge ask more often than once in ``pause`` seconds (RFC 8725
§3.10: what a token's header says is not trusted).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm, get_default_algorithms
from pydantic import SecretStr

from natsbridge.bridge.errors import StartError
from natsbridge.bridge.identity.fetching import Fetch, JwksError
from natsbridge.bridge.settings import ASYMMETRIC, SYMMETRIC, IdentitySettings

log = logging.getLogger(__name__)

FETCH_TIMEOUT: Final = 5.0
"""Longest wait for the source of a JWKS, in seconds."""

FETCH_PAUSE: Final = 10.0
"""Shortest time between two fetches that unknown key ids ask for, in seconds."""

REFRESH: Final = 300.0
"""Seconds between two looks at a source that answers; one that does not is asked after a pause."""

MAX_JWKS_KEYS: Final = 64
MAX_PEM_KEYS: Final = 2
"""A new key and the one before it: every token of the old one costs a look at both."""

_PEM: Final = re.compile(rb"-----BEGIN [^-]+-----.*?-----END [^-]+-----", re.DOTALL)

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key in the form its algorithms take, and those of the allowed ones that it may serve."""

    material: Any = field(repr=False)
    algorithms: tuple[str, ...]
    previous: VerifyingKey | None = None
    """The key before it, which tokens may still be signed with."""


class Keys(Protocol):
    """Where a verifier gets its keys. ``kid`` is the key id of a token's header, or None."""

    @property
    def by_id(self) -> bool:
        """Whether the key depends on the key id; without that, nobody need look for one."""

    def get(self, kid: str | None) -> VerifyingKey | None:
        """Return the key at hand for this id, at once."""

    async def fetch(self) -> bool:
        """Ask the source for keys; False when it was not asked or did not answer."""


class StaticKeys:
    """One key, or one and that before it, for all tokens, whatever key id they name."""

    __slots__ = ("_key",)

    by_id = False

    def __init__(self, key: VerifyingKey) -> None:
        self._key = key

    def replace(self, key: VerifyingKey) -> None:
        """Serve this key from now on."""
        self._key = key

    def get(self, kid: str | None) -> VerifyingKey | None:
        """Return the key."""
        return self._key

    async def fetch(self) -> bool:
        """Return True: there is no more to know."""
        return True


def usable_algorithms(material: object, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return those of the allowed algorithms that a public key may serve, by type and curve.

    Keys under the minimum length of RFC 7518 §3.3 (RSA, 2048 bits) serve none.
    """
    fitting: frozenset[str] = frozenset()
    if isinstance(material, rsa.RSAPublicKey) and material.key_size >= 2048:
        fitting = _RSA
    elif isinstance(material, ec.EllipticCurvePublicKey) and material.curve.name in _CURVES:
        fitting = frozenset({_CURVES[material.curve.name]})
    elif isinstance(material, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        fitting = frozenset({"EdDSA"})
    return tuple(name for name in allowed if name in fitting)


def load_keys(settings: IdentitySettings) -> StaticKeys | JwksKeys:
    """Make the source that the settings name; raises :class:`StartError` for a key of no use.

    With both a JWKS and a PEM, the PEM serves the tokens that name no key id.
    """
    if SYMMETRIC.intersection(settings.jwt_algorithms):
        return StaticKeys(_secret(settings))
    single = _pem(settings)
    if settings.jwks_url is not None:
        return JwksKeys(settings.jwks_url, settings.jwt_algorithms, single=single)
    if single is None:
        raise StartError("BRIDGE_JWT_PUBLIC_KEY or BRIDGE_JWKS_URL is needed")
    return StaticKeys(single)


def reload_keys(keys: StaticKeys | JwksKeys, settings: IdentitySettings) -> str:
    """Read the file of public keys again, if there is one, and tell so.

    Raises :class:`StartError` for a file of no use, and the keys stay as they are.
    """
    found = None if SYMMETRIC.intersection(settings.jwt_algorithms) else _pem(settings)
    if found is None:
        return ""
    keys.replace(found)
    return "one key" if found.previous is None else "two keys"


def _secret(settings: IdentitySettings) -> VerifyingKey:
    if settings.jwt_secret is None:
        raise StartError("BRIDGE_JWT_SECRET is needed")
    before = settings.jwt_previous_secret
    algorithms = settings.jwt_algorithms
    return VerifyingKey(
        _material("BRIDGE_JWT_SECRET", settings.jwt_secret, algorithms),
        algorithms,
        None
        if before is None
        else VerifyingKey(_material("BRIDGE_JWT_PREVIOUS_SECRET", before, algorithms), algorithms),
    )


def _material(setting: str, secret: SecretStr, algorithms: Iterable[str]) -> Any:
    known: dict[str, Algorithm] = get_default_algorithms()
    for name in algorithms:
        try:
            material = known[name].prepare_key(secret.get_secret_value())
        except jwt.InvalidKeyError:
            raise StartError(f"{setting} is a public key, not a secret") from None
        if known[name].check_key_length(material):
            raise StartError(f"{setting} is too short for {name} (RFC 7518 §3.2)")
    return material


def _pem(settings: IdentitySettings) -> VerifyingKey | None:
    """Return the key of the file, and behind it the second one, if there are two."""
    if settings.jwt_public_key is None:
        return None
    try:
        text = settings.jwt_public_key.read_bytes()
        materials = [load_pem_public_key(each) for each in _PEM.findall(text) or [text]]
    except (OSError, ValueError) as error:
        raise StartError(f"BRIDGE_JWT_PUBLIC_KEY is no public key in PEM: {error}") from None
    if len(materials) > MAX_PEM_KEYS:
        raise StartError(f"BRIDGE_JWT_PUBLIC_KEY has over {MAX_PEM_KEYS} keys")
    found: VerifyingKey | None = None
    for material in reversed(materials):
        algorithms = usable_algorithms(material, settings.jwt_algorithms)
        if not algorithms:
            raise StartError("BRIDGE_JWT_PUBLIC_KEY fits none of BRIDGE_JWT_ALGORITHMS")
        found = VerifyingKey(material, algorithms, found)
    return found


def parse_jwks(text: bytes, allowed: Iterable[str]) -> dict[str | None, VerifyingKey]:
    """Read a JWK Set (RFC 7517 §5): the keys that may verify allowed algorithms, by key id.

    Left out are private and symmetric keys, those for another use than signatures, those of types
    or lengths of no use, and those past :data:`MAX_JWKS_KEYS`. Of two keys with one id the first
    counts. The id None is the only key of a set that has one, and every key without an id.
    Raises :class:`JwksError` when nothing is left.
    """
    try:
        document = json.loads(text)
        members = document["keys"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise JwksError("the answer is no JWK set") from None
    if not isinstance(members, list):
        raise JwksError("the answer is no JWK set")
    allowed = tuple(allowed)
    keys: dict[str | None, VerifyingKey] = {}
    for member in members[:MAX_JWKS_KEYS]:
        key = _member(member, allowed)
        if key is not None:
            keys.setdefault(member.get("kid"), key)
    if not keys:
        raise JwksError("the JWK set has no key of use for BRIDGE_JWT_ALGORITHMS")
    if len(keys) == 1:
        keys.setdefault(None, *keys.values())
    return keys


def _member(member: object, allowed: tuple[str, ...]) -> VerifyingKey | None:
    if not isinstance(member, dict) or member.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if member.get("use", "sig") != "sig" or "d" in member:
        return None
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if not isinstance(member.get("kid"), str | None):
        return None
    named = member.get("alg")
    if named is not None and named not in ASYMMETRIC:
        return None
    try:
        material = jwt.PyJWK(member).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    algorithms = usable_algorithms(material, allowed if named is None else (named,))
    algorithms = tuple(name for name in algorithms if name in allowed)
    return VerifyingKey(material, algorithms) if algorithms else None


class JwksKeys:
    """The keys of a JWKS URL, as they were when it last answered.

    A good answer replaces all keys, so what the issuer withdraws stops being accepted. No answer,
    or one without keys of use, changes nothing. Used from one event loop.
    """

    by_id = True

    def __init__(
        self,
        url: str,
        algorithms: Iterable[str],
        *,
        single: VerifyingKey | None = None,
        timeout: float = FETCH_TIMEOUT,
        pause: float = FETCH_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``single`` serves tokens without a key id; times are in seconds, of ``clock``."""
        self._url: Final = url
        self._algorithms: Final = tuple(algorithms)
        self._single = single
        self._timeout: Final = timeout
        self._pause: Final = pause
        self._clock: Final = clock
        self._keys: dict[str | None, VerifyingKey] = {}
        self._flight: asyncio.Future[bool] | None = None
        self._asked_at: float | None = None
        self._down = False
        self.fetches = 0
        """How often the source was asked."""
        self.failures = 0
        """How often it did not answer with keys of use."""

    def get(self, kid: str | None) -> VerifyingKey | None:
        """Return the key at hand for this id; without one, the single key, if there is one."""
        if kid is None and self._single is not None:
            return self._single
        return self._keys.get(kid)

    @property
    def problem(self) -> str:
        """Why no token at all can be checked, empty when some can."""
        if self._keys or self._single is not None:
            return ""
        return "none yet from BRIDGE_JWKS_URL"

    def replace(self, single: VerifyingKey) -> None:
        """Have this one serve tokens without a key id from now on."""
        self._single = single

    async def fetch(self) -> bool:
        """Ask for a key that is not at hand, at most once in ``pause``; True when it answered.

        Joins a fetch that is under way. Within the pause after one, nothing is asked and the
        answer is False: whether the source knows the key is then not known.
        """
        if self._flight is None and not self.may_ask:
            return False
        return await self.refresh()

    @property
    def may_ask(self) -> bool:
        """Whether no fetch is under way, and the last one began ``pause`` ago or earlier."""
        if self._flight is not None:
            return False
        return self._asked_at is None or self._clock() - self._asked_at >= self._pause

    async def refresh(self) -> bool:
        """Ask now, or join the fetch that is under way; True when the source answered in time.

        Never raises but for the caller's own cancellation, which leaves the fetch running.
        """
        flight = self._flight
        if flight is None:
            loop = asyncio.get_running_loop()
            flight = self._flight = loop.create_future()
            self._asked_at = self._clock()
            self.fetches += 1
            fetch = Fetch(self._url, self._timeout)
            # Whatever the source does, the fetch is over then, and another one can begin.
            loop.call_later(self._timeout, fetch.cut)
            # A thread that nobody joins: name resolution has no timeout, and a stop must not wait.
            threading.Thread(target=self._run, args=(loop, flight, fetch), daemon=True).start()
        done, _ = await asyncio.wait({flight}, timeout=self._timeout)
        return bool(done) and flight.result()

    async def landed(self) -> None:
        """Wait until no fetch is under way."""
        if self._flight is not None:
            await asyncio.wait({self._flight})

    @property
    def due(self) -> bool:
        """Whether it is time to look again: after a pause while it is down, else now and then."""
        if self._flight is not None or self._asked_at is None:
            return self._flight is None
        return self._clock() - self._asked_at >= (self._pause if self._down else REFRESH)

    def _run(
        self, loop: asyncio.AbstractEventLoop, flight: asyncio.Future[bool], fetch: Fetch
    ) -> None:
        outcome: dict[str | None, VerifyingKey] | str = "the fetch broke off"
        try:
            outcome = parse_jwks(fetch.read(), self._algorithms)
        except JwksError as error:
            outcome = str(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The words of urllib's errors may hold the URL, and the URL a credential.
            outcome = type(error).__name__
        finally:
            # Whatever happened, it must land: as long as it has not, no other fetch begins. A loop
            # that is closed means that the process stops, and nobody waits for keys.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._land, flight, outcome)

    def _land(
        self, flight: asyncio.Future[bool], outcome: dict[str | None, VerifyingKey] | str
    ) -> None:
        self._flight = None
        if isinstance(outcome, str):
            self.failures += 1
            level = logging.DEBUG if self._down else logging.WARNING
            log.log(level, "no keys from BRIDGE_JWKS_URL: %s", outcome)
            self._down = True
        else:
            if self._down:
                log.info("keys from BRIDGE_JWKS_URL are back")
            self._keys = outcome
            self._down = False
        if not flight.done():
            flight.set_result(not self._down)
