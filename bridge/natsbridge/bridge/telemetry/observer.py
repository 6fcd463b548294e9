"""What happens to connections and messages, counted and said: one object, told by the parts.

Each method is called where something happens, and never waits. Counts are plain integers, which
``/metrics`` reads; labels are of closed or bounded sets. Lines are bounded by
:class:`~natsbridge.bridge.telemetry.lines.Lines`. Nothing here is on the way of an event.

No token, ticket or secret is given to it. What a peer chose (an origin, a path, an id) is cut, and
escaped by the log's formatter.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, Protocol

from natsbridge.bridge.identity.origins import Network, client_address
from natsbridge.bridge.telemetry.histograms import Histogram
from natsbridge.bridge.telemetry.lines import INTERVAL, OTHER, Lines, Tally, cut
from natsbridge.schemas.codes import CLOSE_CODES, INVALID_TOKEN, SLOW_CONSUMER, ErrorCode
from natsbridge.schemas.commands import CLIENT_MESSAGE_TYPES
from natsbridge.schemas.trace import well_formed

log = logging.getLogger("natsbridge.clients")
admins = logging.getLogger("natsbridge.admin")

FROM_PEERS: Final = frozenset({1000, 1001, 1002, 1005, 1006, 1007, 1009, 1011})
"""Codes of a client's close that are counted apart; it may send any other."""
MAX_PATTERNS: Final = 10
"""Patterns of a ``subscribe`` that a line names."""

_SEGMENT: Final = re.compile(r"/[A-Za-z0-9_.-]{0,31}")
_TOKEN: Final = re.compile(r"eyJ|\..*\.")


class Line(StrEnum):
    """The messages of the lines that are written here; docs/operations.md explains each."""

    OPENED = "connection opened"
    CLOSED = "connection closed"
    HANDSHAKE_REFUSED = "handshake refused"
    TOKEN_REFUSED = "token refused"
    REQUEST_REFUSED = "request refused"
    SUBSCRIBED = "subscriptions changed"
    MESSAGE_REFUSED = "message refused"
    RATE_LIMITED = "rate limit exceeded"
    HEARTBEAT = "heartbeat"
    COMMAND = "command"
    COMMAND_ANSWER = "command answered out of order"
    STALLED = "client reads too slowly"
    TICKET_ISSUED = "ticket issued"
    TICKET_REFUSED = "ticket refused"
    ADMINISTRATOR = "administrator action"
    EVICTED = "connections evicted"


class Client(Protocol):
    """What is said of a connection."""

    id: str
    message_count: int
    error_count: int
    connected_at: float

    @property
    def user_id(self) -> str | None: ...

    @property
    def address(self) -> str: ...


class Spans(Protocol):
    """Makes spans of what is over; ``took`` is in seconds, ``trace`` the client's ``traceparent``,
    empty without one, and ``error`` is empty where all is well.
    """

    def connected(
        self, took: float, trace: bytes, *, status: int = 101, code: int = 0, error: str = ""
    ) -> None: ...

    def subscribed(self, trace: bytes, patterns: int, took: float, error: str) -> None: ...

    def resumed(self, trace: bytes, took: float, replayed: int, reason: str | None) -> None: ...


class Observer:
    """Counts and log lines of one process."""

    def __init__(
        self,
        *,
        rate: int = 10,
        clock: Callable[[], float] = time.monotonic,
        networks: Iterable[Network] = (),
    ) -> None:
        """``rate`` is that of :class:`Lines`; ``networks`` are the trusted proxies'."""
        self.spans: Spans | None = None
        """What makes spans of connections and their messages, while tracing is on."""
        self.lines: Final = Lines(log, rate=rate, clock=clock)
        self._networks: Final = tuple(networks)
        self._clock: Final = clock
        self._evicted = 0
        self._evictions_due = 0.0
        self.upgraded = 0
        """Handshakes that were answered with 101."""
        self.established = 0
        """Connections that got ``connection.established``."""
        self.stalls = 0
        """Times that a connection could not be written to."""
        self.closed: Final[dict[tuple[str, str], int]] = {}
        """Connections that ended, by close code and who closed: ``bridge`` or ``client``."""
        self.refused: Final = Tally(("0", OTHER))
        """Handshakes refused, by HTTP status and reason."""
        self.tokens: Final = Tally()
        """Tokens refused, wherever they came, by reason."""
        self.errors: Final = Tally()
        """Errors that answered a message, by code."""
        self.messages: Final = dict.fromkeys(sorted(CLIENT_MESSAGE_TYPES), 0)
        """Messages of clients that could be read, by type."""
        self.commands: Final = Tally((OTHER, OTHER))
        """Commands by type and outcome: ``accepted``, or an error code."""
        self.command_times: Final = Histogram()
        """How long services took to answer."""
        self.tickets: Final = Tally()
        """Tickets by what became of them."""
        self.actions: Final = Tally()
        """What administrators did, by action."""
        self.requests: Final = Tally()
        """HTTP answers by status."""

    # Connections.

    def opened(
        self, client: Client, total: int, of_user: int, email: str | None, trace: bytes = b""
    ) -> None:
        """A client is known and has got ``connection.established``; ``trace`` is its own."""
        self.established += 1
        if self.spans is not None:
            self.spans.connected(time.time() - client.connected_at, trace)
        self.lines.say(
            logging.INFO,
            Line.OPENED,
            lambda: {
                **_who(client),
                "user_email": None if email is None else cut(email),
                "address": client.address,
                "total_connections": total,
                "user_connections": of_user,
            },
            address=client.address,
        )

    def ended(
        self,
        client: Client,
        code: int,
        by: str,
        total: int,
        sent: int | None,
        never_open: bytes | None = None,
    ) -> None:
        """A connection is over; ``sent`` are the bytes that its client's system acknowledged, and
        ``never_open`` is the client's trace where it was never established.
        """
        told = self._count_close(code, by)
        row = CLOSE_CODES.get(code)
        if self.spans is not None and never_open is not None:
            why = told if row is None else row.name
            took = time.time() - client.connected_at
            self.spans.connected(took, never_open, code=code, error=why)
        self.lines.say(
            logging.WARNING if code == SLOW_CONSUMER.code and by == "bridge" else logging.INFO,
            Line.CLOSED,
            lambda: {
                **_who(client),
                "code": code,
                "reason": row.name if row is not None else "",
                "by": by,
                "duration": round(max(0.0, time.time() - client.connected_at), 3),
                "message_count": client.message_count,
                "error_count": client.error_count,
                "sent_bytes": sent,
                "address": client.address,
                "total_connections": total,
            },
            kind=told,
            address=client.address,
        )

    def _count_close(self, code: int, by: str) -> str:
        told = str(code) if code in (CLOSE_CODES if by == "bridge" else FROM_PEERS) else OTHER
        self.closed[told, by] = self.closed.get((told, by), 0) + 1
        return told

    def stalled(self, client: Client) -> None:
        """A connection can't be written to for now."""
        self.stalls += 1
        self.lines.say(
            logging.DEBUG,
            Line.STALLED,
            lambda: {**_who(client), "address": client.address},
            address=client.address,
        )

    # What is refused.

    def handshake_refused(
        self, status: int, reason: str, *, peer: str, target: str, headers: Mapping[str, str]
    ) -> None:
        """A handshake was answered by HTTP; ``peer`` is the other end of its connection."""
        if self.spans is not None:
            trace = well_formed(headers.get("traceparent"))
            self.spans.connected(0.0, trace, status=int(status), error=reason)
        self.refused.add((str(int(status)), reason))
        address = client_address(peer, headers.get("x-forwarded-for"), self._networks)
        self.lines.say(
            # The place is the owner's to give; everything else is for the client to mend.
            logging.WARNING if reason == ErrorCode.CONNECTION_LIMIT_EXCEEDED else logging.INFO,
            Line.HANDSHAKE_REFUSED,
            lambda: {
                "status": int(status),
                "reason": reason,
                "address": address,
                "origin": cut(headers["origin"]) if "origin" in headers else None,
                "host": cut(headers.get("host", "")),
                "path": shown_path(target),
            },
            kind=f"{int(status)} {reason}",
            address=address,
        )

    def token_refused(
        self, reason: str, address: str, *, code: int | None = None, connection_id: str = ""
    ) -> None:
        """A token or ticket that a client came with was not good; ``reason`` says which check."""
        self.count_token(reason)
        if code == INVALID_TOKEN.code:
            self.errors.add(str(ErrorCode.TOKEN_INVALID))  # which says why, before the close
        if code is not None and not connection_id:
            self._count_close(code, "bridge")  # else its session is told of
            if self.spans is not None:
                self.spans.connected(0.0, b"", code=code, error=CLOSE_CODES[code].name)
        self.lines.say(
            logging.INFO,
            Line.TOKEN_REFUSED,
            lambda: {
                "reason": cut(reason),
                "code": code,
                "address": address,
                "connection_id": connection_id or None,
            },
            kind=reason.partition(": ")[0],
            address=address,
        )

    def count_token(self, reason: str) -> None:
        """Count a token that was not good; what stands behind a colon is of that one token."""
        self.tokens.add(reason.partition(": ")[0])

    def request_refused(self, status: int, reason: str, address: str, path: str) -> None:
        """An HTTP call was refused for who made it; ``path`` is the route's template."""
        self.lines.say(
            logging.INFO,
            Line.REQUEST_REFUSED,
            lambda: {"status": status, "reason": cut(reason), "address": address, "path": path},
            kind=f"{status} {reason}",
            address=address,
        )

    def look_at_evictions(self, total: int) -> None:
        """So many connections of nobody known had to make room so far; called now and then."""
        now = self._clock()
        if total > self._evicted and now >= self._evictions_due:
            count, self._evicted, self._evictions_due = total - self._evicted, total, now + INTERVAL
            log.warning(Line.EVICTED, extra={"count": count})

    # Messages.

    def answered(self, client: Client, code: str, detail: str) -> None:
        """A message was answered with an error."""
        self.errors.add(str(code))
        if code == ErrorCode.CONNECTION_LIMIT_EXCEEDED:
            return  # a newer connection took its place, which the line of its close says
        is_rate = code == ErrorCode.RATE_LIMIT_EXCEEDED
        self.lines.say(
            logging.INFO,
            Line.RATE_LIMITED if is_rate else Line.MESSAGE_REFUSED,
            lambda: {**_who(client), "code": str(code), "detail": cut(detail)},
            kind=code,
            address=client.address,
        )

    def received(self, client: Client, message_type: str) -> None:
        """A message of a known type could be read."""
        self.messages[message_type] = self.messages.get(message_type, 0) + 1
        if message_type == "heartbeat":
            self.lines.say(logging.DEBUG, Line.HEARTBEAT, lambda: _who(client))

    def subscribed(self, client: Client, asked: Iterable[str], total: int) -> None:
        """What a client is subscribed to has changed, or was asked to."""
        self.lines.say(
            logging.INFO,
            Line.SUBSCRIBED,
            lambda: {
                **_who(client),
                "events": [cut(each, 64) for each in list(asked)[:MAX_PATTERNS]],
                "total_subscriptions": total,
            },
            address=client.address,
        )

    def acknowledged(self, trace: str | None, patterns: int, took: float, error: str) -> None:
        """A change of subscriptions was answered, with an ``error`` or without; ``took`` seconds
        after it was asked for.
        """
        if self.spans is not None:
            self.spans.subscribed(well_formed(trace), patterns, took, error)

    def resumed(self, trace: bytes, took: float, replayed: int, reason: str | None) -> None:
        """A replay is through: so many events in ``took`` seconds, and why not all came."""
        if self.spans is not None:
            self.spans.resumed(trace, took, replayed, reason)

    def commanded(self, client: Client, command: str, resource: str, outcome: str) -> None:
        """A command came back from its service: ``accepted``, or an error code."""
        self.commands.add((command, outcome))
        self.lines.say(
            logging.INFO,
            Line.COMMAND,
            lambda: {
                **_who(client),
                "command": command,
                "resource_id": cut(resource),
                "outcome": outcome,
            },
            kind=command,
            address=client.address,
        )

    # HTTP.

    def ticket(self, outcome: str, user_id: str, address: str) -> None:
        """A ticket was asked for: ``issued``, or why not."""
        self.tickets.add(outcome)
        issued = outcome == "issued"
        self.lines.say(
            logging.INFO,
            Line.TICKET_ISSUED if issued else Line.TICKET_REFUSED,
            lambda: {
                "user_id": user_id,
                "address": address,
                **({} if issued else {"reason": outcome}),
            },
            kind=outcome,
            address=address,
        )

    def administrator(self, action: str, admin: str, address: str, **what: Any) -> None:
        """An administrator did something: always a line of its own."""
        self.actions.add(action)
        admins.info(
            Line.ADMINISTRATOR,
            extra={"action": action, "user_id": admin, "address": address, **what},
        )


def _who(client: Client) -> dict[str, Any]:
    return {"connection_id": client.id, "user_id": client.user_id}


def shown_path(target: str) -> str:
    """Return what a log may show of a request's target: its first part, which holds no token."""
    path = target.partition("?")[0]
    found = _SEGMENT.match(path)
    if found is None or _TOKEN.search(found[0]):
        return "/…"
    shown, rest = found[0], path[found.end() :]
    if rest and not rest.startswith("/"):
        return "/…"  # a long or an odd first part may be a token
    return shown if rest in ("", "/") else f"{shown}/…"
