"""Subjects: how ids become tokens, and how an event's address is built and read.

::

    <root>.user.<user>.<domain>.<action>.<resource>
    <root>.topic.<domain>.<action>.<resource>
    <root>.all.<domain>.<action>.<resource>

The root says who speaks, and NATS's permissions hold it: services publish durable types to
``events`` and ephemeral ones to ``live.service``; what the stream stores, the server republishes to
``live.stream``; ``live.bridge`` is what bridges say to each other. All of it may stand behind a
prefix. A resource that is not there is ``-``.
Limits of a subject: nats-server's ``max_control_line`` (4,096 bytes), far above what the 128 bytes
of each id allow here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from natsbridge.schemas.errors import IdError, SubjectError

MAX_ID_BYTES: Final = 128
"""The longest encoded id, in bytes."""

NO_RESOURCE: Final = "-"
"""The resource token of an event that is about nothing in particular."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPE: Final = re.compile(rb"=([0-9A-F]{2})")
_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Audience(StrEnum):
    """Who gets an event: one user's connections, whoever subscribed, or every connection."""

    USER = "user"
    TOPIC = "topic"
    ALL = "all"


class Root(StrEnum):
    """The first tokens of a subject, after the prefix."""

    EVENTS = "events"
    SERVICE = "live.service"
    STREAM = "live.stream"
    BRIDGE = "live.bridge"
    ANY_LIVE = "live.*"
    """What is subscribed to: services, the stream and bridges by one subscription."""
    COMMANDS = "commands"
    CONTROL = "control"
    REJECTED = "rejected"


def encode_id(value: str) -> str:
    """Return the subject token of an id: every byte outside ``A-Z a-z 0-9 _ -`` becomes ``=XX``.

    The id ``-`` becomes ``=2D``, since a bare ``-`` says that there is no resource. Raises
    :class:`IdError` for an empty id, one that is over :data:`MAX_ID_BYTES` when encoded, and one
    that is not text (a lone surrogate).
    """
    if value != NO_RESOURCE and _PLAIN.fullmatch(value):
        token = value
    elif value == NO_RESOURCE:
        token = "=2D"
    else:
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise IdError("an id must be text that UTF-8 can encode") from None
        token = _UNSAFE.sub(lambda match: b"=%02X" % match[0][0], raw).decode()
    if not token:
        raise IdError("an id must not be empty")
    if len(token) > MAX_ID_BYTES:
        raise IdError(f"an id must not be over {MAX_ID_BYTES} bytes when encoded")
    return token


def decode_id(token: str) -> str:
    """Return the id whose token this is; the exact inverse of :func:`encode_id`.

    Raises :class:`IdError` for anything that :func:`encode_id` never returns.
    """
    try:
        raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), token.encode("ascii"))
        value = raw.decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        raise IdError("the token is not the encoding of an id") from None
    if encode_id(value) != token:
        raise IdError("the token is not the encoding of an id")
    return value


def is_token(token: str) -> bool:
    """Whether this can stand as the resource of a subject: an encoded id, or ``-``."""
    if token == NO_RESOURCE or (len(token) <= MAX_ID_BYTES and _PLAIN.fullmatch(token)):
        return True
    if not _ENCODED.fullmatch(token):
        return False
    try:
        decode_id(token)
    except IdError:
        return False
    return True


def is_event_type(event_type: str) -> bool:
    """Whether this is a well-formed ``<domain>.<action>``; says nothing of the catalogue."""
    domain, dot, action = event_type.partition(".")
    return bool(dot and _NAME.fullmatch(domain) and _NAME.fullmatch(action))


@dataclass(frozen=True, slots=True)
class Address:
    """Where an event goes. ``user`` and ``resource`` are tokens, as they stand in the subject."""

    audience: Audience
    event_type: str
    resource: str = NO_RESOURCE
    user: str = ""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Builds and reads the subjects of one deployment; ``prefix`` is its first tokens, or empty.

    Raises :class:`SubjectError` for a prefix that is not plain tokens joined by dots.
    """

    prefix: str = ""

    def __post_init__(self) -> None:
        if self.prefix and not all(map(_PLAIN.fullmatch, self.prefix.split("."))):
            raise SubjectError("a subject prefix is tokens of A-Z a-z 0-9 _ - joined by dots")

    def root(self, root: Root) -> str:
        """Return a root under the prefix, without a trailing dot: ``staging.live.service``."""
        return f"{self.prefix}.{root}" if self.prefix else str(root)

    def event(self, root: Root, address: Address) -> str:
        """Return the subject of an event under a root that events have, or the pattern of such."""
        user = f"{address.user}." if address.audience is Audience.USER else ""
        return f"{self.root(root)}.{address.audience}.{user}{address.event_type}.{address.resource}"

    def parse(self, subject: str) -> Address:
        """Read the subject of an event, under ``events``, ``live.service`` or ``live.stream``.

        Raises :class:`SubjectError` for any other subject. The tokens of user and resource are
        returned as they stand.
        """
        rest = subject
        if self.prefix:
            if not subject.startswith(self.prefix + "."):
                raise SubjectError("the subject is outside the prefix")
            rest = subject[len(self.prefix) + 1 :]
        match _below_root(rest).split("."):
            case ["user", user, domain, action, resource]:
                audience = Audience.USER
            case [("topic" | "all") as name, domain, action, resource]:
                audience, user = Audience(name), ""
            case _:
                raise SubjectError("the subject is not that of an event")
        event_type = f"{domain}.{action}"
        if not is_event_type(event_type):
            raise SubjectError("the subject has no <domain>.<action>")
        named = audience is not Audience.USER or (user != NO_RESOURCE and is_token(user))
        if not is_token(resource) or not named:
            raise SubjectError("the subject has a token that is not the encoding of an id")
        return Address(audience, event_type, resource, user)

    def command(self, command: str, user: str, resource: str) -> str:
        """Return the subject of a client's command; ``user`` and ``resource`` are tokens."""
        return f"{self.root(Root.COMMANDS)}.{command}.{user}.{resource}"

    def parse_command(self, subject: str) -> tuple[str, str, str]:
        """Return ``(command, user id, resource id)`` of a command's subject, decoded."""
        root = self.root(Root.COMMANDS) + "."
        parts = subject.removeprefix(root).split(".")
        if not subject.startswith(root) or len(parts) != 4:
            raise SubjectError("the subject is not that of a command")
        domain, action, user, resource = parts
        return f"{domain}.{action}", decode_id(user), decode_id(resource)

    def rejected(self, subject: str) -> str:
        """Return where an event that was refused goes, for its owner to look at:
        ``rejected.<service|stream>.<audience>…``.
        """
        rest = subject.removeprefix(self.prefix + ".") if self.prefix else subject
        if rest.startswith(f"{Root.EVENTS}."):
            rest = f"{Root.STREAM}.{rest.removeprefix(f'{Root.EVENTS}.')}"
        return f"{self.root(Root.REJECTED)}.{rest.removeprefix('live.')}"


def _below_root(subject: str) -> str:
    """Return what of a subject without prefix stands below a root of events, or nothing."""
    for root in (Root.EVENTS, Root.SERVICE, Root.STREAM):
        if subject.startswith(f"{root}."):
            return subject.removeprefix(f"{root}.")
    return ""
