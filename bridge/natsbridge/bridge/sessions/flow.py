"""What takes a session's deliveries off the straight way, and back: a client that reads too slowly,
stored events, a slower pace.

Called by the session from the event loop. The rules of what waits are in
:mod:`natsbridge.bridge.delivery.queue`; here is what follows from them for the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from natsbridge.bridge.delivery.pacing import Pace
from natsbridge.bridge.replay.positions import Key
from natsbridge.bridge.replay.replay import Replay
from natsbridge.bridge.replay.request import Order
from natsbridge.schemas.codes import GapReason
from natsbridge.schemas.replies import Gap, GapData

if TYPE_CHECKING:
    from natsbridge.bridge.sessions.session import Session

SUBSCRIBES_WITHIN: Final = 15.0
"""Seconds in which a client that resumes is expected to subscribe, if it has patterns at all."""


def pause(session: Session) -> None:
    """The client reads too slowly for now: what is offered waits."""
    session.stalled_since = session.env.clock()
    hub = session.env.hub
    hub.flush.detour(session.outbox, hub.order.position).blocked = True


def resume(session: Session) -> None:
    """The client reads again: send what waited, tell what did not fit, and make up for it."""
    session.stalled_since = None
    backlog = session.outbox.backlog
    if backlog is None:
        return
    backlog.unblock()
    tell_dropped(session)
    if backlog.lost_after is not None and session.replay is None:
        replay(session).order(Order())
    straighten(session)


def tell_dropped(session: Session) -> None:
    """Tell how many events of which types were dropped, if any were."""
    backlog = session.outbox.backlog
    if backlog is not None and backlog.dropped:
        dropped, backlog.dropped = backlog.dropped, {}
        session.say(
            Gap(data=GapData(reason=GapReason.SLOW_CONSUMER, recoverable=False, dropped=dropped))
        )


def replay(session: Session) -> Replay:
    """Return the session's replay, which an order must be given now, or announced.

    From here on durable events that come in wait for it.
    """
    if session.replay is None:
        hub = session.env.hub
        backlog = hub.flush.detour(session.outbox, hub.order.position)
        reached = hub.order.position
        lost, backlog.lost_after = backlog.lost_after, None
        if lost is not None:
            # What was kept before it is sent, in order, before what is replayed.
            reached = lost
            session.tell_gap(lost, hub.order.position, GapReason.SLOW_CONSUMER, recoverable=True)
        session.replay = Replay(
            session, backlog, max(reached, backlog.skip_to), heals=lost is not None
        )
    return session.replay


def follow(session: Session, before: frozenset[Key]) -> Order | None:
    """Have a replay that runs take in what is wanted now, without stored events of what is new.

    ``before`` is what was wanted until now. Returns the order for what is new, to be given once
    NATS has the subscription.
    """
    _forsake(session, before)
    replay, head = session.replay, session.env.stream.head
    if replay is None or head is None:
        return None
    replay.reread()
    new = replay.positions.inherit(frozenset(session.wishes.keys), before)
    if not new:
        return None
    order = Order(new, begins=max(session.env.hub.order.position, head.last), quiet=True)
    replay.expect(order)
    return order


def _forsake(session: Session, before: frozenset[Key]) -> None:
    # What waits for its pace may have come by what is not wanted any more.
    backlog = session.outbox.backlog
    if backlog is not None and backlog.paces:
        for event_type in {key[0] for key in before.difference(session.wishes.keys)}:
            backlog.forsake(event_type)


def look_after(session: Session, now: float) -> None:
    """What is due from time to time for a session that is off the straight way."""
    backlog = session.outbox.backlog
    if (
        backlog is not None
        and session.replay is None
        and session.connected_at + SUBSCRIBES_WITHIN < now
    ):
        backlog.topics_at = None
    straighten(session)


def straighten(session: Session) -> None:
    """Go the straight way again if nothing is in the way of it any more."""
    session.env.hub.flush.straighten(session.outbox, session.env.hub.order.position)


def set_paces(session: Session, paces: Mapping[str, float | None]) -> None:
    """Keep events of these types to so many a second, or (None) to no pace."""
    if not paces:
        return
    hub = session.env.hub
    backlog = hub.flush.detour(session.outbox, hub.order.position)
    if session.pacer is None:
        session.pacer = Pacer(session)
    backlog.on_paced = session.pacer.arm
    for event_type, max_rate in paces.items():
        before = backlog.paces.pop(event_type, None)
        if before is not None:
            backlog.release(before.rest())
        if max_rate is not None:
            backlog.paces[event_type] = Pace(max_rate)
    straighten(session)


class Pacer:
    """The timer of a session whose client asked for a slower pace."""

    __slots__ = ("_session", "_timer", "_waking")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._timer: asyncio.TimerHandle | None = None
        self._waking: asyncio.Handle | None = None

    def arm(self) -> None:
        """Come back when the next event may go."""
        if self._waking is not None:
            return  # it is time already
        backlog = self._session.outbox.backlog
        due = None if backlog is None else backlog.paces.due()
        if self._timer is not None and due is not None and due < self._timer.when():
            self.stop()
        if self._timer is None and due is not None:
            wait = max(0.0, due - self._session.env.clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._due)

    def stop(self) -> None:
        """Come back no more; safe to call twice."""
        for handle in (self._timer, self._waking):
            if handle is not None:
                handle.cancel()
        self._timer = self._waking = None

    def _due(self) -> None:
        # A crowd's are due together: each goes on in a callback of its own, with others between.
        self._timer = None
        self._waking = asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = None
        backlog = self._session.outbox.backlog
        if backlog is not None:
            backlog.release(backlog.paces.release(self._session.env.clock()))
            if not backlog.blocked:
                tell_dropped(self._session)
            self.arm()
