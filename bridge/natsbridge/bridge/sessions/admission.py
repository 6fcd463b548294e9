"""Who may come in: from a handshake to a session, a close code, or an HTTP answer.

A refused token is told after the upgrade, as a close code, since a browser can't read the status
of a refused upgrade. A foreign origin, a full process, and what fails from an address whose
handshakes keep failing are told before it, as HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, unquote

from natsbridge.bridge.delivery.frames import text_frame
from natsbridge.bridge.errors import TokenError
from natsbridge.bridge.identity.failures import Failures
from natsbridge.bridge.identity.origins import client_address, host_allowed, origin_allowed
from natsbridge.bridge.identity.tokens import Identity, KeyNeeded, Revoked
from natsbridge.bridge.sessions.context import Introduction, Surroundings
from natsbridge.bridge.sessions.session import Session, close_code_of
from natsbridge.bridge.settings import ServerSettings
from natsbridge.bridge.websocket.socket import Socket
from natsbridge.bridge.websocket.upgrade import Admitted, Handshake, Refused
from natsbridge.schemas import codes
from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.replies import error
from natsbridge.schemas.trace import well_formed

SUBPROTOCOL: Final = "bridge.v1"
RETRY_FULL: Final = 5
"""Seconds after which a client that found the process full may try again."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What admission needs of the rest of the bridge."""

    verify: Callable[[str], Identity]
    """Takes a token; raises :class:`TokenError`, or :class:`KeyNeeded` when it must be fetched."""
    verify_or_fetch: Callable[[str], Awaitable[Identity]]
    want_keys: Callable[[], None]
    """A token named a key that is not at hand, and nobody waits for it."""
    redeem: Callable[[str], Awaitable[Identity]]
    """Takes a ticket; raises :class:`TicketError` or :class:`BrokerUnavailable`."""
    is_draining: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Brought:
    """How a client says who it is: a token, a ticket, or neither yet."""

    token: str | None
    ticket: str | None
    subprotocol: str | None


class Admission:
    """The ``admit`` of the upgrade."""

    def __init__(
        self, settings: ServerSettings, doors: Doors, env: Surroundings, failures: Failures
    ) -> None:
        self._settings: Final = settings
        self._networks: Final = settings.proxy_networks
        self._doors: Final = doors
        self._env: Final = env
        self._failures: Final = failures

    def __call__(self, handshake: Handshake) -> Refused | Admitted:
        """Decide on one handshake; never blocks."""
        if not host_allowed(handshake.headers.get("host"), self._settings.allowed_hosts):
            return Refused(
                HTTPStatus.MISDIRECTED_REQUEST, "HOST_NOT_ALLOWED", "This host is not served here"
            )
        path, _, query = handshake.target.partition("?")
        if path in ("/ws", "/ws/"):
            path_token = ""
        elif path.startswith("/ws/") and self._settings.token_in_path:
            path_token = unquote(path[4:])
        else:
            return Refused(HTTPStatus.NOT_FOUND, "NOT_FOUND", "The WebSocket is at /ws")
        refused = self._refused(handshake)
        if refused is not None:
            return refused
        asked = parse_qs(query, keep_blank_values=True) if query else {}
        direct = asked.get("direct", ["on"])[-1]
        if direct not in ("on", "off"):
            # Passed over, it would send what its client means to have turned off.
            return Refused(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", "direct is on or off")
        intro = Introduction(
            address=client_address(
                handshake.peer, handshake.headers.get("x-forwarded-for"), self._networks
            ),
            direct=direct == "on",
            cursor=asked.get("cursor", [None])[-1],
            trace=well_formed(handshake.headers.get("traceparent")),
        )
        brought = _brought(handshake, asked.get("ticket", [None])[-1], path_token)
        if isinstance(brought, Refused):
            return brought
        if brought.token is not None:
            return self._with_token(brought.token, intro, brought.subprotocol)
        return self._without_token(brought, intro)

    def _refused(self, handshake: Handshake) -> Refused | None:
        headers = handshake.headers
        if not origin_allowed(
            headers.get("origin"),
            headers.get("host"),
            self._settings.allowed_origins,
            "wss" if handshake.secure else "ws",
        ):
            return Refused(
                HTTPStatus.FORBIDDEN, "ORIGIN_NOT_ALLOWED", "This origin may not connect"
            )
        if self._doors.is_draining():
            return self._full("Server is going away", reason="DRAINING")
        if self._env.registry.is_full:
            return self._full()
        return None

    def _full(self, message: str = "Server connection limit exceeded", reason: str = "") -> Refused:
        return Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            ErrorCode.CONNECTION_LIMIT_EXCEEDED,
            message,
            (("Retry-After", str(RETRY_FULL)),),
            reason,
        )

    def _over(self, address: str) -> Refused:
        return Refused(
            HTTPStatus.TOO_MANY_REQUESTS,
            ErrorCode.RATE_LIMIT_EXCEEDED,
            "Too many failed handshakes",
            (("Retry-After", str(self._failures.retry_after(address))),),
        )

    def _with_token(
        self, token: str, intro: Introduction, subprotocol: str | None
    ) -> Refused | Admitted:
        """Verify before the upgrade: from an address over its limit only what is good gets on."""
        address = intro.address
        over = self._failures.exceeded(address)
        if over and not self._failures.may_verify(address):
            return self._over(address)
        take: Callable[[Socket], None]
        try:
            identity = self._doors.verify(token)
        except KeyNeeded:
            if over:
                self._doors.want_keys()
                return self._over(address)
            if self._env.registry.is_crowded:
                return self._full()  # who waits for a key is nobody yet
            take = partial(self._later, partial(self._doors.verify_or_fetch, token), intro)
        except TokenError as problem:
            if over:
                self._failures.verified(address)
                return self._over(address)
            take = partial(self._fail, _alone(problem), intro)
        else:
            take = partial(self._known, identity, intro)
        return Admitted(take, subprotocol, greets=True)

    def _without_token(self, brought: Brought, intro: Introduction) -> Refused | Admitted:
        address, ticket = intro.address, brought.ticket
        if self._failures.exceeded(address) and (
            ticket is None or not self._failures.may_look_up(address)
        ):
            return self._over(address)
        if self._env.registry.is_crowded:
            return self._full()
        if ticket is None:
            return Admitted(partial(self._unknown, intro), brought.subprotocol)
        answer = partial(self._doors.redeem, ticket)
        return Admitted(partial(self._later, answer, intro), brought.subprotocol, greets=True)

    # What happens with the connection once it is upgraded.

    def _later(
        self, ask: Callable[[], Awaitable[Identity]], intro: Introduction, socket: Socket
    ) -> None:
        socket.put()  # that may take a while
        Session(self._env, socket, intro).identify_later(ask())

    def _unknown(self, intro: Introduction, socket: Socket) -> None:
        Session(self._env, socket, intro)

    def _known(self, identity: Identity, intro: Introduction, socket: Socket) -> None:
        if self._env.is_revoked(identity):
            self._fail(Revoked(), intro, socket)
            return
        Session(self._env, socket, intro).identify(identity)

    def _fail(self, problem: TokenError, intro: Introduction, socket: Socket) -> None:
        close = close_code_of(problem)
        if close is not codes.TRY_AGAIN_LATER:
            self._failures.failed(intro.address)
        self._env.observer.token_refused(problem.reason, intro.address, code=close.code)
        if close is codes.INVALID_TOKEN:
            socket.put(text_frame(error(ErrorCode.TOKEN_INVALID, problem.reason).to_bytes()))
        socket.close(close)


def _brought(handshake: Handshake, ticket: str | None, path_token: str) -> Brought | Refused:
    headers = handshake.headers
    offered = _subprotocols(headers.get("sec-websocket-protocol"))
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
    token = _bearer(headers.get("authorization"))
    if token is None:
        token = next((each[7:] for each in offered if each.startswith("bearer.")), None)
        if token is not None and chosen is None:
            # Nothing could be selected, and clients take that for a failure of their own.
            return Refused(
                HTTPStatus.BAD_REQUEST, "BAD_REQUEST", f"Offer {SUBPROTOCOL} with bearer.<token>"
            )
    if token is None and ticket is None and path_token:
        token = path_token
    return Brought(token, ticket, chosen)


def _alone(problem: TokenError) -> TokenError:
    """Take from an error what leads back to the frame that keeps it, which would keep itself."""
    problem.__cause__ = problem.__context__ = None
    return problem.with_traceback(None)


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _subprotocols(header: str | None) -> list[str]:
    return [each.strip() for each in header.split(",")] if header else []
