"""What every session of a process shares, and what one is made of: handed down, never imported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.limits.rates import SlidingWindow
from natsbridge.bridge.limits.share import Share
from natsbridge.bridge.limits.units import Units
from natsbridge.bridge.nats.continuity import Continuity
from natsbridge.bridge.nats.history import History
from natsbridge.bridge.nats.stream import Stream
from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.bridge.nats.topics import Topics
from natsbridge.bridge.replay.budget import Turns
from natsbridge.bridge.replay.reads import Reads
from natsbridge.bridge.replay.shared_reader import Recent
from natsbridge.bridge.sessions.greeting import Greetings
from natsbridge.bridge.sessions.handlers import Ask
from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.settings import IdentitySettings, LimitSettings
from natsbridge.bridge.telemetry.observer import Observer
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.errors import CursorError
from natsbridge.schemas.replies import Reply
from natsbridge.schemas.subjects import Subjects


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every session of this process shares."""

    catalogue: Catalogue
    limits: LimitSettings
    identity: IdentitySettings
    greetings: Greetings
    hub: Hub
    interests: Interests
    topics: Topics
    stream: Stream
    history: History
    reads: Reads
    recent: Recent
    continuity: Continuity
    turns: Turns
    subjects: Subjects
    registry: Registry
    rates: SlidingWindow
    units: Units
    verify: Callable[[str], Identity]
    """Takes a token; raises :class:`TokenError`, :class:`KeyNeeded` where its key is not here."""
    verify_or_fetch: Callable[[str], Awaitable[Identity]]
    """The same, and gets the key."""
    is_revoked: Callable[[Identity], bool]
    ask: Callable[[Ask, Identity], Awaitable[Reply]]
    """Takes a command to its service and returns what to answer the client."""
    failed_handshake: Callable[[str], bool]
    """Takes the address of a client that could not say who it is, or has not yet; returns whether
    it was counted."""
    forgive_handshake: Callable[[str], None]
    """Takes the address of one that was counted, and then could."""
    user_subject: Callable[[str], str]
    """Takes a user's token, returns the NATS subject of that user's events."""
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    share: Share
    """Of the event loop's time, for what clients send."""
    call_later: Callable[[float, Callable[[], None]], object]
    clock: Callable[[], float]
    """Seconds that never go back."""
    can_resume: Callable[[], bool]
    """Whether stored events can be read now, as far as is known."""
    is_away: Callable[[], bool]
    """Whether they can't for so long that nobody is to wait for it."""
    wall: Callable[[], float]
    """Unix seconds that never go back, for the rate limit."""
    observer: Observer = field(default_factory=Observer)
    """Counts and logs what happens to connections."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the handshake said beside who it is."""

    address: str
    direct: bool = True
    cursor: str | None = field(default=None)
    trace: bytes = b""
    """The client's ``traceparent``."""

    @property
    def after(self) -> Cursor | None:
        """Where the client was; None also where what it brought is no cursor."""
        try:
            return None if self.cursor is None else Cursor.parse(self.cursor)
        except CursorError:
            return None
