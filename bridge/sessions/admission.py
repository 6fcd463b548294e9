"""Who may come in: from a handshake to a session, a close code, or an HTTP answer.

A refused token is told after the upgrade, as a close code, since a browser can't read the status
of a refused upgrade. A foreign origin, a full process and an address whose handshakes keep failing
are told before it, as HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, unquote

from bridge.errors import TicketError, TokenError
from bridge.identity.origins import address_block, client_address, host_allowed, origin_allowed
from bridge.identity.tokens import Identity, KeyNeeded
from bridge.limits.rates import SlidingWindow
from bridge.sessions.session import Session, close_code_of
from bridge.sessions.surroundings import Introduction, Surroundings
from bridge.settings import ServerSettings
from bridge.sockets.socket import Socket
from bridge.sockets.upgrade import Admitted, Handshake, Refused
from schemas import codes
from schemas.codes import CloseCode, ErrorCode

SUBPROTOCOL: Final = "bridge.v1"
RETRY_FULL: Final = 5
"""Seconds after which a client that found the process full may try again."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What admission needs of the rest of the bridge."""

    verify: Callable[[str], Identity]
    """Takes a token; raises :class:`TokenError`, or :class:`KeyNeeded` when it must be fetched."""
    verify_or_fetch: Callable[[str], Awaitable[Identity]]
    redeem: Callable[[str], Identity | None]
    """Takes a ticket; None when another replica has it; raises :class:`TicketError`."""
    redeem_elsewhere: Callable[[str], Awaitable[Identity]]
    is_draining: Callable[[], bool]


class Admission:
    """The ``admit`` of the upgrade."""

    def __init__(
        self, settings: ServerSettings, doors: Doors, env: Surroundings, failures: SlidingWindow
    ) -> None:
        self._settings: Final = settings
        self._networks: Final = settings.proxy_networks
        self._doors: Final = doors
        self._env: Final = env
        self._failures: Final = failures

    def failed(self, address: str) -> None:
        """Count a handshake of this address that failed."""
        self._failures.record(address_block(address), self._env.wall())

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
        address = client_address(
            handshake.peer, handshake.headers.get("x-forwarded-for"), self._networks
        )
        refused = self._refused(handshake, address)
        if refused is not None:
            return refused
        asked = parse_qs(query, keep_blank_values=True) if query else {}
        intro = Introduction(
            address=address,
            direct=asked.get("direct", ["on"])[-1] != "off",
            cursor=asked.get("cursor", [None])[-1],
        )
        offered = _subprotocols(handshake.headers.get("sec-websocket-protocol"))
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        ticket = asked.get("ticket", [""])[-1]
        token = _bearer(handshake.headers.get("authorization"))
        if token is None:
            token = next((each[7:] for each in offered if each.startswith("bearer.")), None)
            if token is not None and chosen is None:
                # Nothing could be selected, and clients take that for a failure of their own.
                return Refused(
                    HTTPStatus.BAD_REQUEST,
                    "BAD_REQUEST",
                    f"Offer {SUBPROTOCOL} with bearer.<token>",
                )
        if token is None and "ticket" in asked:
            return Admitted(partial(self._with_ticket, ticket, intro), chosen, greets=True)
        if token is None and path_token:
            token = path_token
        if token is None:
            return (
                self._full()
                if self._env.registry.is_crowded
                else Admitted(partial(self._unknown, intro), chosen)
            )
        return Admitted(partial(self._with_token, token, intro), chosen, greets=True)

    def _refused(self, handshake: Handshake, address: str) -> Refused | None:
        env, headers = self._env, handshake.headers
        now = env.wall()
        block = address_block(address)
        if self._failures.exceeded(block, now):
            reset = self._failures.reset_time(block) or now
            return Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                ErrorCode.RATE_LIMIT_EXCEEDED,
                "Too many failed handshakes",
                (("Retry-After", str(max(1, math.ceil(reset - now)))),),
            )
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
        if env.registry.is_full:
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

    # What happens with the connection once it is upgraded.

    def _with_token(self, token: str, intro: Introduction, socket: Socket) -> None:
        try:
            identity = self._doors.verify(token)
        except KeyNeeded:
            self._later(self._doors.verify_or_fetch(token), intro, socket)
        except TokenError as problem:
            self._fail(intro, socket, close_code_of(problem), problem.reason)
        else:
            self._known(identity, intro, socket)

    def _with_ticket(self, ticket: str, intro: Introduction, socket: Socket) -> None:
        try:
            identity = self._doors.redeem(ticket)
        except TicketError as problem:
            self._fail(intro, socket, codes.INVALID_TOKEN, str(problem))
            return
        if identity is None:
            self._later(self._doors.redeem_elsewhere(ticket), intro, socket)
        else:
            self._known(identity, intro, socket)

    def _later(self, answer: Awaitable[Identity], intro: Introduction, socket: Socket) -> None:
        socket.put()  # that may take a while
        Session(self._env, socket, intro).identify_later(answer)

    def _unknown(self, intro: Introduction, socket: Socket) -> None:
        Session(self._env, socket, intro)

    def _known(self, identity: Identity, intro: Introduction, socket: Socket) -> None:
        if self._env.is_revoked(identity):
            self._fail(intro, socket, codes.REVOKED, "the token is revoked")
            return
        Session(self._env, socket, intro).identify(identity)

    def _fail(self, intro: Introduction, socket: Socket, close: CloseCode, reason: str) -> None:
        self.failed(intro.address)
        self._env.observer.token_refused(reason, intro.address, code=close.code)
        socket.close(close)


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _subprotocols(header: str | None) -> list[str]:
    return [each.strip() for each in header.split(",")] if header else []
