"""Tokens: a JWT becomes an identity, or is refused with a reason.

``verify`` is synchronous and runs once a connect, so what can be prepared is prepared. The JWS side
(signature, algorithm, critical headers) is PyJWT's; the claims are checked here, against one clock
and with stricter types. Rules: RFC 7519 §4.1 and §7.2, RFC 8725 §3.

No reason ever contains the token or the value of a claim.
"""

from __future__ import annotations

import binascii
import logging
import time
from base64 import urlsafe_b64decode
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.algorithms import Algorithm, get_default_algorithms
from pydantic_core import from_json

from natsbridge.bridge.errors import TokenError
from natsbridge.bridge.identity.grants import ADMIN, GrantPolicy, Grants
from natsbridge.bridge.identity.keys import Keys, VerifyingKey
from natsbridge.bridge.settings import IdentitySettings
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.errors import IdError
from natsbridge.schemas.subjects import encode_id

log = logging.getLogger(__name__)

MAX_TOKEN_BYTES: Final = 8 * 1024
"""Longest token that is looked at, in bytes."""

A_CLOCKS_FAULT: Final = 24 * 3600.0
"""Seconds. A token that is valid sooner than this may be good, and a clock wrong."""
TELL_EVERY: Final = 60.0
"""Seconds between two lines about tokens that are not valid yet."""

USER: Final = "user"
"""The role of a token that names none."""

_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

_LAST_SECOND: Final = 253402300799.0
"""9999-12-31T23:59:59Z, the last time that RFC 3339 can write."""


class KeyNeeded(TokenError):
    """No key is at hand for the token's key id, and the source could not be asked for it.

    The token may be good: whoever sent it should try again later.
    """

    def __init__(self, kid: str | None) -> None:
        super().__init__("no key for the token is at hand")
        self.kid = kid


class Deactivated(TokenError):
    """The token says that its user is not active."""

    def __init__(self) -> None:
        super().__init__("the user is not active")


class Revoked(TokenError):
    """The token, or its user, was revoked after it was issued."""

    def __init__(self) -> None:
        super().__init__("the token is revoked")


class NotYetValid(TokenError):
    """``iat`` or ``nbf`` is ahead of this machine's clock, by less than a day.

    The token may be good, and a clock wrong: whoever sent it should try again later.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("the token is not valid yet")
        self.seconds = seconds
        """How far ahead, in seconds."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for, until when, and what it may do.

    ``user`` is the subject token of ``user_id``. ``expires_at`` is the Unix time in seconds of
    ``exp``, ``issued_at`` that of ``iat``.
    """

    user_id: str
    user: str
    role: str
    admin: bool
    email: str | None
    name: str | None
    expires_at: float
    issued_at: float | None
    token_id: str | None
    grants: Grants


class _Prepared(Algorithm):
    """An algorithm that takes keys as :class:`VerifyingKey` holds them.

    PyJWT prepares a key for each token anew, which costs as much as the rest of an HMAC check. The
    keys were prepared, and checked to be of the right kind, when they were loaded.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm

    def prepare_key(self, key: Any) -> Any:
        return key

    def check_key_length(self, key: Any) -> str | None:
        return self._algorithm.check_key_length(key)

    def sign(self, msg: bytes, key: Any) -> bytes:
        raise NotImplementedError

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        return self._algorithm.verify(msg, key, sig)

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: str | dict[str, Any]) -> Any:
        raise NotImplementedError


class _Jws(jwt.PyJWS):
    """PyJWT's, which looks at each character of a token in Python: a third of all it does."""

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        if not segment.endswith(b"="):  # some issuers pad, and PyJWT knows how far that may go
            padding = b"=" * (-len(segment) % 4)
            try:
                decoded = a2b_base64(segment.translate(_STANDARD) + padding)
            except binascii.Error:
                raise jwt.DecodeError(f"Invalid {name} padding") from None
            # What is outside the alphabet, or not the one way to write these bytes, is not the same
            # when it is written anew (GHSA-hxm8-2xgr-2p9m).
            if b2a_base64(decoded, newline=False).translate(_URL_SAFE).rstrip(b"=") == segment:
                return decoded
        return jwt.PyJWS._decode_base64url_segment(segment, name)


def _verifier(algorithms: tuple[str, ...]) -> jwt.PyJWS:
    known: dict[str, Algorithm] = get_default_algorithms()
    jws = _Jws(algorithms=[], options={"enforce_minimum_key_length": True})
    for name in algorithms:
        jws.register_algorithm(name, _Prepared(known[name]))
    return jws


class TokenVerifier:
    """Checks tokens as the settings say. Algorithms come from there, never from a token."""

    def __init__(
        self,
        settings: IdentitySettings,
        catalogue: Catalogue,
        keys: Keys,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` gives Unix seconds. Raises :class:`StartError` for default grants of no use."""
        self.policy: Final = GrantPolicy(settings.grants, catalogue)
        self._keys: Final = keys
        self._clock: Final = clock
        self._jws: Final = _verifier(settings.jwt_algorithms)
        self._issuer: Final = settings.jwt_issuer
        self._audience: Final = frozenset(settings.jwt_audience)
        self._leeway: Final = settings.jwt_leeway
        self._told_at = 0.0

    def verify(self, token: str) -> Identity:
        """Return whom the token speaks for.

        Raises :class:`KeyNeeded` when its key is not at hand, :class:`Deactivated`,
        :class:`NotYetValid`, and :class:`TokenError` for every other refusal, with ``expired`` set
        for that one.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError(f"the token is over {MAX_TOKEN_BYTES // 1024} KiB")
        if not token.isascii():
            raise TokenError("the token is malformed")
        kid = _key_id(token) if self._keys.by_id else None
        key = self._keys.get(kid)
        if key is None:
            raise KeyNeeded(kid)
        return self._identity(self._claims(token, key))

    async def verify_or_fetch(self, token: str) -> Identity:
        """Like :meth:`verify`, but ask the source for a key that is not at hand, and wait for it.

        Raises :class:`KeyNeeded` when the source did not answer or may not be asked again yet, and
        a plain :class:`TokenError` when it answered and does not know the key.
        """
        try:
            return self.verify(token)
        except KeyNeeded:
            if not await self._keys.fetch():
                raise
        try:
            return self.verify(token)
        except KeyNeeded:
            raise TokenError("the token's key is unknown") from None

    def _claims(self, token: str, key: VerifyingKey) -> dict[str, Any]:
        signed = self._signed(token, key)
        try:
            claims = from_json(signed["payload"], allow_inf_nan=False, cache_strings="keys")
        except ValueError:
            raise TokenError("the token is malformed") from None
        if not isinstance(claims, dict):
            raise TokenError("the token is malformed")
        return claims

    def _signed(self, token: str, key: VerifyingKey) -> dict[str, Any]:
        reason = "the token's algorithm is not allowed"
        each: VerifyingKey | None = key
        while each is not None:
            try:
                return self._jws.decode_complete(token, each.material, algorithms=each.algorithms)
            except jwt.InvalidAlgorithmError:
                pass
            except jwt.InvalidSignatureError:
                reason = "the token's signature is wrong"
            except jwt.PyJWTError:
                raise TokenError("the token is malformed") from None
            each = each.previous
        raise TokenError(reason)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        expires_at, issued_at = self._times(claims)
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise TokenError("the token's issuer is wrong")
        if self._audience and not _names_one(claims.get("aud"), self._audience):
            raise TokenError("the token's audience is wrong")
        active = claims.get("active")
        if active is False:
            raise Deactivated
        if active is not None and active is not True:
            raise TokenError("the token's active is neither true nor false")
        user_id, user = _subject(claims)
        role = _role(claims)
        if "grants" in claims:
            grants = self.policy.claimed(claims["grants"], role, user)
        else:
            grants = self.policy.default(role, user)
        return Identity(
            user_id=user_id,
            user=user,
            role=role,
            admin=role == ADMIN,
            email=_text(claims, "email"),
            name=_text(claims, "name"),
            expires_at=expires_at,
            issued_at=issued_at,
            token_id=_text(claims, "jti"),
            grants=grants,
        )

    def _times(self, claims: dict[str, Any]) -> tuple[float, float | None]:
        now = self._clock()
        expires_at = _seconds(claims, "exp")
        if expires_at is None:
            raise TokenError("the token has no exp")
        expires_at = min(expires_at, _LAST_SECOND)
        if expires_at + self._leeway <= now:
            raise TokenError("the token has expired", expired=True)
        latest = now + self._leeway
        issued_at = _seconds(claims, "iat")
        for moment in (issued_at, _seconds(claims, "nbf")):
            if moment is not None and moment > latest:
                raise self._early(moment - now)
        return expires_at, issued_at

    def _early(self, seconds: float) -> TokenError:
        if seconds >= A_CLOCKS_FAULT:
            return TokenError("the token is not valid for a day yet")
        now = self._clock()
        if abs(now - self._told_at) >= TELL_EVERY:
            self._told_at = now
            log.warning(
                "a token is valid in %.0f s only: the clock of this machine, or of the issuer of "
                "tokens, is wrong; such clients are told to come back (1013)",
                seconds,
            )
        return NotYetValid(seconds)


def _key_id(token: str) -> str | None:
    """Return the key id of a token's header (RFC 7515 §4.1.4), which nothing vouches for yet."""
    head = token.partition(".")[0]
    try:
        header = from_json(urlsafe_b64decode(head + "=" * (-len(head) % 4)), cache_strings="keys")
    except ValueError:
        raise TokenError("the token is malformed") from None
    kid = header.get("kid") if isinstance(header, dict) else None
    if kid is not None and not isinstance(kid, str):
        raise TokenError("the token is malformed")
    return kid


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 §2), or None where the claim is not there or null."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"the token's {name} is no time")
    # An integer of JSON has no bounds: cut before it becomes a float.
    return float(max(0, min(value, _LAST_SECOND)))


def _names_one(audience: object, wanted: frozenset[str]) -> bool:
    """Whether an ``aud`` (RFC 7519 §4.1.3), one text or a list of them, names one of these."""
    if isinstance(audience, str):
        return audience in wanted
    return isinstance(audience, list) and any(
        isinstance(each, str) and each in wanted for each in audience
    )


def _subject(claims: dict[str, Any]) -> tuple[str, str]:
    """Return the user's id and its subject token. RFC 7519 wants text; issuers send numbers too."""
    subject = claims.get("sub")
    if subject is None:
        raise TokenError("the token has no sub")
    if isinstance(subject, bool) or not isinstance(subject, str | int):
        raise TokenError("the token's sub is no id")
    try:
        user_id = str(subject)
        return user_id, encode_id(user_id)
    except IdError as problem:
        raise TokenError(f"the token's sub is no id: {problem}") from None
    except ValueError:  # what Python says of an integer with thousands of digits
        raise TokenError("the token's sub is no id: it is too long") from None


def _role(claims: dict[str, Any]) -> str:
    """Return ``admin`` if ``role`` or one of ``roles`` is that, else ``role``, else the first."""
    roles = claims.get("roles")
    if roles is None:
        roles = []
    role = claims.get("role")
    if not isinstance(roles, list) or not all(isinstance(each, str) for each in roles):
        raise TokenError("the token's roles are no list of names")
    if not isinstance(role, str | None):
        raise TokenError("the token's role is no name")
    if role is not None:
        roles = [role, *roles]
    return ADMIN if ADMIN in roles else roles[0] if roles else USER


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) else None
