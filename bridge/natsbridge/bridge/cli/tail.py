"""``natsbridge tail``: a client in the terminal. Events go to standard output, the rest beside it.

It is a whole client of the protocol: it comes back by itself after close codes below 4500, with
full-jitter back-off, and ends at those from 4500 on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

from natsbridge.bridge.cli.terminal import FAILED, CommandError, Paint, note, printable, reason, say
from natsbridge.bridge.cli.token import configured, demo_identity
from natsbridge.bridge.identity.minting import mint
from natsbridge.schemas.bus import BusSettings
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import CLOSE_CODES, TOKEN_EXPIRED

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
TOKEN_LIFE: Final = 3600.0
FROM_THE_BRIDGE: Final = frozenset(
    {
        "connection.established",
        "connection.draining",
        "subscription.acknowledged",
        "error",
        "auth.expiring",
        "grants.changed",
        "gap",
        "resume.completed",
    }
)
"""What the bridge says itself to a client that only subscribes; all else is an event."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="what to subscribe to: upload.*, review.updated.77, '>'; without any, what is sent "
        "to the user and to all",
    )
    parser.add_argument(
        "--url", help="default: ws://127.0.0.1:8000/ws, with BRIDGE_HOST and BRIDGE_PORT if set"
    )
    parser.add_argument("--token", help="default: BRIDGE_TOKEN, else one is made for --user")
    parser.add_argument("--user", default="42", metavar="ID", help="default: %(default)s")
    parser.add_argument("--count", type=_positive, metavar="N", help="end after this many events")
    parser.add_argument("--json", action="store_true", help="one event a line as it was received")
    parser.add_argument("--no-color", action="store_true", help="as NO_COLOR=1 does")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(
        options.patterns,
        url=options.url,
        token=options.token,
        user=options.user,
        count=options.count,
        raw=options.json,
        colour=not options.no_color,
    )


def run(
    patterns: Sequence[str],
    *,
    url: str | None,
    token: str | None,
    user: str,
    count: int | None,
    raw: bool,
    colour: bool,
) -> int:
    """Show events until ``count`` is reached, the bridge ends it for good, or Ctrl-C."""
    url = default_url(os.environ) if url is None else url
    if urlsplit(url).scheme not in ("ws", "wss"):
        raise CommandError(f"--url {url}: write ws://host:port/ws or wss://…")
    if patterns:
        # Events to the user and to all would come unasked for; here the patterns say what is shown.
        url += ("&" if urlsplit(url).query else "?") + "direct=off"
    given = token or os.environ.get("BRIDGE_TOKEN")
    view = View(Catalogue.load(BusSettings.from_environment(os.environ).catalogue), raw, colour)
    client = Tail(
        url,
        list(patterns),
        token=(lambda: given) if given else minting(user),
        renews=not given,
        view=view,
        count=count,
    )
    try:
        return asyncio.run(client.run())
    except InvalidURI as error:
        raise CommandError(str(error)) from None


def default_url(environment: Mapping[str, str]) -> str:
    """Return where a bridge with these variables listens, as seen from this machine."""
    host = environment.get("BRIDGE_HOST") or "127.0.0.1"
    port = environment.get("BRIDGE_PORT") or "8000"
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(f"BRIDGE_PORT={port} is no port to connect to; use --url")
    if host in ("0.0.0.0", "::"):  # noqa: S104  # what it listens on, not where it is reached
        host = "::1" if host == "::" else "127.0.0.1"
    scheme = "wss" if environment.get("BRIDGE_TLS_CERT") else "ws"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/ws"


def minting(user: str) -> Callable[[], str]:
    """Return what makes a new token of this user, with the configured or the demo secret."""
    identity = configured() or demo_identity()
    return lambda: mint(identity, user, ttl=TOKEN_LIFE)


class View:
    """Turns events into lines."""

    def __init__(self, catalogue: Catalogue, raw: bool, colour: bool) -> None:
        self._catalogue: Final = catalogue
        self._raw: Final = raw
        self._paint: Final = Paint(sys.stdout, wanted=colour)
        self._notes: Final = Paint(sys.stderr, wanted=colour)

    def event(self, message: dict[str, Any], text: str) -> None:
        """Print one event."""
        if self._raw:
            # A foreign publisher may write its JSON over several lines.
            say(text if "\n" not in text and "\r" not in text else compact(message))
            return
        kind = str(message.get("type"))
        data = message.get("data")
        resource = "-"
        if isinstance(data, dict):
            known = self._catalogue.get(kind)
            field = known.traits.resource if known else None
            if field in data:
                resource = str(data[field])
            data = {name: value for name, value in data.items() if name not in (field, "timestamp")}
        say(
            "  ".join(
                (
                    self._paint(printable(clock(message.get("timestamp"))), "dim"),
                    self._paint(f"{printable(kind):<20}", colour_of(kind)),
                    self._paint(f"{printable(resource):<16}", "bold"),
                    printable(compact(data)),
                )
            )
        )

    def note(self, text: str, colour: str = "dim") -> None:
        """Say something about the connection, on standard error."""
        note(self._notes(printable(f"- {text}"), colour))


class Tail:
    """One client over as many connections as it takes."""

    def __init__(
        self,
        url: str,
        patterns: list[str],
        *,
        token: Callable[[], str],
        renews: bool,
        view: View,
        count: int | None,
    ) -> None:
        self._url: Final = url
        self._patterns: Final = patterns
        self._token: Final = token
        self._renews: Final = renews
        self._view: Final = view
        self._left = count
        self._attempt = 0
        self._asked: float | None = None
        self._cursor: str | None = None
        self._was_connected = False

    async def run(self) -> int:
        """Connect, and again for as long as the bridge allows; returns the exit code."""
        while (ended := await self._connection()) is None:
            ceiling = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self._attempt, 10))
            delay = random.uniform(0, ceiling)  # noqa: S311  # spreads clients, guards nothing
            if self._asked is not None:
                delay, self._asked = self._asked, None
            self._attempt += 1
            self._view.note(f"connecting again in {delay:.1f} s")
            await asyncio.sleep(delay)
        return ended

    async def _connection(self) -> int | None:
        """Live through one connection; returns the exit code, or None to come back."""
        try:
            url = self._url
            if self._cursor is not None:
                url += f"{'&' if urlsplit(url).query else '?'}cursor={self._cursor}"
            async with connect(
                url,
                additional_headers={"Authorization": f"Bearer {self._token()}"},
                compression=None,
                max_size=None,
                close_timeout=2,
                # A proxy of the environment does not know this machine's own addresses.
                proxy=None if is_loopback(self._url) else True,
            ) as socket:
                return await self._attend(socket)
        except InvalidURI:
            raise
        except InvalidStatus as refused:
            return self._refused(refused)
        except (OSError, InvalidHandshake) as error:
            told = f"no bridge answers at {where(self._url)}: {reason(error)}"
            if not self._was_connected:
                raise CommandError(told, FAILED) from None
            self._view.note(told, "yellow")
            return None

    async def _attend(self, socket: ClientConnection) -> int | None:
        try:
            while True:
                text = await socket.recv(decode=True)
                message = json.loads(text)
                own = message["type"] in FROM_THE_BRIDGE
                self._cursor = (message["data"] if own else message).get("cursor") or self._cursor
                if own:
                    await self._heard(socket, message["type"], message["data"])
                    continue
                self._view.event(message, text)
                if self._left is not None:
                    self._left -= 1
                    if self._left == 0:
                        return 0
        except ConnectionClosed as closed:
            return self._closed(closed)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CommandError(
                f"{where(self._url)} sent what is no message of a bridge", FAILED
            ) from None

    async def _heard(self, socket: ClientConnection, kind: str, data: dict[str, Any]) -> None:
        view = self._view
        match kind:
            case "connection.established":
                self._was_connected, self._attempt = True, 0
                view.note(f"connected to {where(self._url)} as user {data['user_id']}", "green")
                if self._patterns:
                    wish: dict[str, Any] = {"events": self._patterns}
                    if data.get("resume") is not None:
                        wish["cursor"] = self._cursor
                    await socket.send(json.dumps({"type": "subscribe", "id": "1", "data": wish}))
            case "subscription.acknowledged":
                if data["events"]:
                    covered = ", ".join(data["effective"]) or "no event type that is permitted"
                    view.note(f"subscribed to {' '.join(data['events'])}: {covered}", "green")
                for pattern in data["invalid_events"]:
                    view.note(f"refused {pattern}: {data['reasons'].get(pattern, '')}", "red")
            case "resume.completed" if data["recovered"]:
                view.note(f"{data['replayed']} stored events came", "green")
            case "error":
                view.note(f"error {data['code']}: {data['message']}", "red")
            case "connection.draining":
                self._asked = data["reconnect_after_ms"] / 1000
                view.note("the bridge is about to stop and sends its clients away", "yellow")
            case "auth.expiring":
                view.note(f"the token expires at {data['expires_at']}", "yellow")
            case _:
                view.note(f"{kind} {compact(data)}", "yellow")

    def _closed(self, closed: ConnectionClosed) -> int | None:
        close = closed.rcvd
        if close is None:
            self._view.note("the connection broke", "yellow")
            return None
        row = CLOSE_CODES.get(close.code)
        name = close.reason or (row.name if row else "")
        told = f"closed by the bridge: {close.code} {name}".rstrip()
        if close.code >= 4500:
            self._view.note(f"{told}; it will not have this client back", "red")
            return FAILED
        if close.code == TOKEN_EXPIRED.code and not self._renews:
            self._view.note(f"{told}; get a new token", "red")
            return FAILED
        self._view.note(told, "yellow")
        return None

    def _refused(self, refused: InvalidStatus) -> int | None:
        status = refused.response.status_code
        told = f"refused by {where(self._url)}: HTTP {status} {refused.response.reason_phrase}"
        if status not in (429, 500, 502, 503, 504):
            raise CommandError(told, FAILED) from None
        after = refused.response.headers.get("Retry-After", "")
        if after.isdecimal():
            # Clients that were refused together must not come back together.
            self._asked = float(after) + random.uniform(0, FIRST_DELAY)  # noqa: S311
        self._view.note(told, "yellow")
        return None


def compact(value: object) -> str:
    """Return JSON without spaces, in the characters it was meant in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def clock(timestamp: object) -> str:
    """Return the local time of day of an RFC 3339 time; the text itself where it is no date."""
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):
        return str(timestamp)


def colour_of(event_type: str) -> str:
    """Return the colour of a type: what went wrong red, what is done green, else by domain."""
    domain, _, action = event_type.partition(".")
    if action in ("error", "deleted", "cancelled"):
        return "red"
    if action in ("completed", "ready", "created"):
        return "green"
    palette = {"upload": "cyan", "review": "magenta", "system": "yellow", "file": "blue"}
    return palette.get(domain, "bold")


def where(url: str) -> str:
    """Return an address without what may hold a token: ``ws://host:port``."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine's own."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
