"""The sessions of a bridge with all that they share, between scripted clients, a scripted NATS and
a scripted stream.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from natsbridge.bridge.delivery.hub import Hub
from natsbridge.bridge.delivery.outbox import Flush
from natsbridge.bridge.identity.grants import GrantPolicy
from natsbridge.bridge.identity.tokens import Identity, KeyNeeded
from natsbridge.bridge.limits.budget import Budget
from natsbridge.bridge.limits.rates import SlidingWindow
from natsbridge.bridge.limits.share import Share
from natsbridge.bridge.limits.units import Units
from natsbridge.bridge.nats.continuity import Continuity
from natsbridge.bridge.nats.subscriptions import Interests
from natsbridge.bridge.nats.topics import Topics
from natsbridge.bridge.replay import budget as turns
from natsbridge.bridge.replay.reads import Reads
from natsbridge.bridge.replay.shared_reader import Recent
from natsbridge.bridge.sessions.context import Introduction, Surroundings
from natsbridge.bridge.sessions.flow import look_after
from natsbridge.bridge.sessions.greeting import Greetings
from natsbridge.bridge.sessions.handlers import Ask
from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.sessions.session import Session
from natsbridge.bridge.sessions.states import State
from natsbridge.bridge.settings import IdentitySettings, LimitSettings
from natsbridge.schemas.codes import GapReason
from natsbridge.schemas.replies import Reply
from natsbridge.schemas.subjects import Address, Root, Subjects
from tests.support.bus import envelope
from tests.support.kinds import CATALOGUE
from tests.support.scripted_nats import ScriptedNats, Turns
from tests.support.scripted_peer import TEXT, Peer, client_frame
from tests.support.scripted_stream import NAME, ScriptedStream

SUBJECTS: Final = Subjects()
POLICY: Final = GrantPolicy({}, CATALOGUE)
PATIENCE, LINGER = 3.0, 2.0
STEP: Final = 0.05
"""Seconds between two looks of NATS at what was written, where time passes by itself."""


def person(user: str = "1", lifetime: float = 600) -> Identity:
    """Return a user with the grants that every user has."""
    return Identity(
        user_id=user,
        user=user,
        role="user",
        admin=False,
        email=None,
        name=None,
        expires_at=time.time() + lifetime,
        issued_at=None,
        token_id=None,
        grants=POLICY.default("user", user),
    )


class House:
    """What sessions share. Without ``clock`` the time is that of the scripted NATS.

    With ``spawn`` what takes time runs as tasks of a loop; without it has to be over at once.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] | None = None,
        spawn: Callable[[Coroutine[Any, Any, None]], object] | None = None,
        queue: int = 100,
    ) -> None:
        self.nats = ScriptedNats()
        self.turns = Turns()
        self.stream = ScriptedStream()
        self.failed: list[str] = []
        self.gaps: list[tuple[int | None, int | None, str]] = []
        self._spawned = spawn
        limits = LimitSettings(linger=LINGER)
        identity = IdentitySettings.from_environment({"BRIDGE_JWT_SECRET": "x" * 32})
        clock = clock or self.nats.clock
        self.interests = Interests(
            self.nats,
            self.nats.receivers,
            clock=self.nats.clock,
            call_soon=self.turns.call_soon,
            call_later=self.turns.call_later,
            linger=LINGER,
            patience=PATIENCE,
        )
        self.hub = Hub(
            CATALOGUE,
            Flush(self.turns.call_soon, max_frames=queue, max_bytes=1 << 20, clock=clock),
            subjects=SUBJECTS,
            stream=NAME,
            reject=lambda *_: None,
            max_size=65_536,
        )
        self.continuity = Continuity(
            self.stream,  # type: ignore[arg-type]  # a stand-in
            self.stream,  # type: ignore[arg-type]
            self.hub.order,
            roots=("events", "live.stream"),
            confirmed=self._confirmed,
            tell=self._tell,
            spawn=self._spawn,
        )
        self.hub.order.on_missed = self.continuity.on_missed
        self.hub.order.on_doubt = self.continuity.on_doubt
        self.replays = turns.Turns()
        self.registry = Registry(max_connections=100, max_per_user=3)
        self.env = Surroundings(
            greetings=Greetings(limits),
            catalogue=CATALOGUE,
            limits=limits,
            identity=identity,
            hub=self.hub,
            interests=self.interests,
            topics=Topics(self.interests, SUBJECTS, clock=self.nats.clock, linger=LINGER),
            stream=self.stream,  # type: ignore[arg-type]
            history=self.stream,  # type: ignore[arg-type]
            reads=Reads(
                self.stream,  # type: ignore[arg-type]
                Budget(limits.replay_messages, limits.rate_limit_window, clock),
            ),
            recent=Recent(
                self.stream,  # type: ignore[arg-type]
                "events",
                lambda: self.replays.waiting,
                self.replays.needed,
                self._spawn,
            ),
            continuity=self.continuity,
            turns=self.replays,
            subjects=SUBJECTS,
            registry=self.registry,
            rates=SlidingWindow(100, 60),
            units=Units(limits.subscription_units, limits.rate_limit_window, clock),
            verify=self._no_key,
            verify_or_fetch=self._verify,
            is_revoked=lambda identity: False,
            ask=self._ask,
            failed_handshake=self._fail,
            forgive_handshake=self.failed.remove,
            user_subject=lambda token: f"live.*.user.{token}.>",
            spawn=self._spawn,
            share=Share(self.turns.call_soon, self.turns.call_later, timer=lambda: 0.0),
            call_later=self.turns.call_later,
            clock=clock,
            can_resume=lambda: not self.stream.problem,
            is_away=lambda: False,
            wall=self.nats.clock,
        )

    def _fail(self, address: str) -> bool:
        self.failed.append(address)
        return True

    def _no_key(self, token: str) -> Identity:
        raise KeyNeeded(None)

    async def _verify(self, token: str) -> Identity:
        return person(token)

    async def _ask(self, ask: Ask, identity: Identity) -> Reply:
        raise AssertionError("no commands here")

    async def _confirmed(self) -> bool:
        return self.nats.is_up

    def _tell(self, after: int | None, upto: int | None, reason: GapReason) -> None:
        self.gaps.append((after, upto, str(reason)))
        for session in self.registry:
            if session.state is State.OPEN:
                session.tell_gap(after, upto, reason)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._spawned is not None:
            self._spawned(coroutine)
            return
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("this takes longer than one step")

    # Events.

    def publish(self, address: Address, data: object = None) -> str:
        """Publish an event past the stream, let it come in, and return its id."""
        event = envelope(address, data)
        self.nats.publish(SUBJECTS.event(Root.SERVICE, address), json.dumps(event).encode())
        self.nats.deliver_all()
        self.turns.run()
        return str(event["id"])

    def store(self, address: Address) -> str:
        """Store an event and put it on its way; its id is ``e`` and its sequence."""
        event = envelope(address, id=f"e{self.stream.last + 1}")
        payload = json.dumps(event).encode()
        _, headers = self.stream.store(SUBJECTS.event(Root.EVENTS, address), payload)
        if self.nats.is_up:
            self.nats.publish(SUBJECTS.event(Root.STREAM, address), payload, headers)
        return str(event["id"])

    def come_in(self, count: int | None = None) -> None:
        """Let so many of the events that are on their way come in, or all, and end the turn."""
        for _ in range(len(self.nats.copies) if count is None else count):
            self.nats.deliver()
        self.turns.run()

    def catch_up(self) -> None:
        """Let all come in, and the bridge see how far the stream reaches."""
        self.come_in()
        self.hub.order.rise(self.stream.last)

    def break_off(self) -> None:
        """The connection to NATS is gone, and all that was on it."""
        self.nats.down()
        self.interests.on_down()
        self.stream.breaks += 1
        self.continuity.on_down()

    def come_back(self) -> None:
        """The connection is there again, and everything is being subscribed to."""
        self.nats.up()
        self.interests.on_up()
        self.continuity.on_up()
        self.answer()

    # Time.

    def answer(self) -> None:
        """End the iteration, with NATS answering all."""
        self.turns.run()
        self.nats.answer()
        self.turns.run()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a tick at its end."""
        self.nats.now += seconds
        self.env.topics.tick()
        self.interests.tick()
        self.answer()

    async def let(self, seconds: float = STEP) -> None:
        """Let the loop's time pass, with NATS answering all and nothing more coming in."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            self.answer()
            await asyncio.sleep(STEP)
        self.turns.run()

    def tick(self, later: float = 0.0) -> None:
        """What the keeper does for connections that are off the straight way, so much later."""
        for session in self.registry:
            look_after(session, time.time() + later)
        self.turns.run()


class Visitor:
    """A client of the house."""

    def __init__(
        self,
        house: House,
        identity: Identity | None = None,
        *,
        cursor: str | None = None,
        direct: bool = True,
    ) -> None:
        self.house = house
        self.peer = Peer()
        introduction = Introduction(address="192.0.2.1", direct=direct, cursor=cursor)
        self.session = Session(house.env, self.peer.socket, introduction)
        if identity is not None:
            self.session.identify(identity)

    def say(self, kind: str, id: str | None = None, **data: Any) -> None:  # noqa: A002  # the wire's
        """Send a message."""
        message = {"type": kind, "data": data, **({} if id is None else {"id": id})}
        self.peer.send(client_frame(TEXT, json.dumps(message).encode()))
        self.house.turns.run()

    def stall(self) -> None:
        """Read nothing more, until :meth:`read`."""
        self.peer.socket.pause_writing()

    def read(self) -> None:
        """Read again."""
        self.peer.socket.resume_writing()
        self.house.turns.run()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages that came."""
        return [json.loads(data) for opcode, data in self.peer.transport.frames if opcode == TEXT]

    @property
    def heard(self) -> list[str]:
        """The type of each message that came, or its id for an event."""
        return [each["id"] if each["type"] in CATALOGUE else each["type"] for each in self.messages]

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of each message of this type."""
        return [each["data"] for each in self.messages if each["type"] == kind]

    @property
    def stored(self) -> list[int]:
        """The sequences of the stored events that came, in their order."""
        return [int(each["id"][1:]) for each in self.messages if "cursor" in each]
