"""The keeper: one timer for all connections, driven here by a loop whose time a test moves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from natsbridge.bridge.delivery.outbox import Flush, Outbox
from natsbridge.bridge.sessions import sweeper as keeper_module
from natsbridge.bridge.sessions.registry import Registry
from natsbridge.bridge.sessions.states import State
from natsbridge.bridge.sessions.sweeper import AT_A_TIME, Keeper
from natsbridge.bridge.settings import LimitSettings
from natsbridge.schemas.codes import HEARTBEAT_TIMEOUT, SLOW_CONSUMER, CloseCode
from tests.support.scripted_peer import ScriptedLoop

FAR = 1e12


class Connection:
    """As much of a session as the keeper looks at."""

    def __init__(self, loop: ScriptedLoop, name: str) -> None:
        self._loop = loop
        self.id = name
        self.state = State.OPEN
        self.last_seen = loop.now
        self.next_ping = loop.now + 30
        self.deadline = FAR
        self.signs = 0
        self.stalled_since: float | None = None
        self.takes = False
        self.outbox = Outbox(lambda _: None, lambda: None)
        self.pings: list[float] = []
        self.deadlines = 0
        self.closes: list[CloseCode] = []
        self.registry: Registry | None = None

    def ping(self, now: float) -> None:
        self.pings.append(now)
        self.next_ping = now + 30

    def on_deadline(self, now: float) -> None:
        self.deadlines += 1
        self.deadline = FAR

    def has_taken(self, now: float) -> bool:
        if self.takes and self.stalled_since is not None:
            self.stalled_since = self.last_seen = now
        return self.takes and self.stalled_since is not None

    def close(self, close: CloseCode) -> None:
        self.closes.append(close)
        self.state = State.CLOSED
        if self.registry is not None:
            self.registry.remove(self, None)  # type: ignore[arg-type]  # a stand-in


class Scene:
    """A keeper with the default limits, and connections to look after."""

    def __init__(self) -> None:
        self.loop = ScriptedLoop()
        self.registry = Registry(max_connections=10, max_per_user=3)
        self.chores: list[Callable[[], object]] = []
        self.keeper = Keeper(
            self.registry,
            LimitSettings(),
            self.loop,  # type: ignore[arg-type]  # as much of a loop as it needs
            self.chores,
        )

    def join(self, name: str = "a") -> Connection:
        connection = Connection(self.loop, name)
        self.registry.add(connection)  # type: ignore[arg-type]
        connection.registry = self.registry
        return connection


@pytest.fixture
def scene() -> Scene:
    """A new one for each test, already ticking."""
    scene = Scene()
    scene.keeper.start()
    return scene


def test_a_connection_is_pinged_once_an_interval(scene: Scene) -> None:
    """Whatever the tick is, pings are as far apart as the setting says."""
    connection = scene.join()
    for _ in range(5):
        scene.loop.advance(30)
        connection.last_seen = scene.loop.now
    assert [round(at) for at in connection.pings] == [30, 60, 90, 120, 150]


def test_a_silent_connection_is_closed(scene: Scene) -> None:
    """Nothing heard for longer than the timeout: 4000, within a tick of it, and once."""
    connection = scene.join()
    scene.loop.advance(60)
    assert connection.closes == []
    scene.loop.advance(2)
    assert connection.closes == [HEARTBEAT_TIMEOUT]
    scene.loop.advance(10)
    assert connection.closes == [HEARTBEAT_TIMEOUT]


def test_any_sign_of_life_keeps_it(scene: Scene) -> None:
    """What was heard last counts."""
    connection, silent = scene.join("a"), scene.join("b")
    for _ in range(4):
        scene.loop.advance(50)
        connection.last_seen = scene.loop.now
    assert connection.closes == []
    assert silent.closes == [HEARTBEAT_TIMEOUT]


def test_a_connection_that_stays_stalled_is_closed(scene: Scene) -> None:
    """One that can't be written to for 30 s is closed with 4002, however lively it is."""
    connection, other = scene.join("a"), scene.join("b")
    connection.stalled_since = scene.loop.now
    for _ in range(29):
        scene.loop.advance(1)
        connection.last_seen = scene.loop.now
    assert connection.closes == []
    scene.loop.advance(2)
    assert connection.closes == [SLOW_CONSUMER]
    assert other.closes == []


def test_a_slow_connection_that_takes_something_stays(scene: Scene) -> None:
    """Though it can't be written to and nothing is heard of it for longer than either may be."""
    connection = scene.join()
    connection.stalled_since, connection.takes = scene.loop.now, True
    scene.loop.advance(300)
    assert connection.closes == []
    connection.takes = False
    scene.loop.advance(32)
    assert connection.closes == [SLOW_CONSUMER]


def test_a_silent_connection_that_is_not_behind_has_nothing_to_take(scene: Scene) -> None:
    """What it took before is no sign of life."""
    connection = scene.join()
    connection.takes = True
    scene.loop.advance(62)
    assert connection.closes == [HEARTBEAT_TIMEOUT]


def test_a_connection_off_the_straight_way_is_looked_after(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tick, for as long as it has a backlog; the others cost nothing."""
    slow, other = scene.join("a"), scene.join("b")
    flush = Flush(lambda _: None, max_frames=1, max_bytes=1, clock=lambda: 0.0)
    flush.detour(slow.outbox)
    seen: list[object] = []
    monkeypatch.setattr(keeper_module, "look_after", lambda session, now: seen.append(session))
    scene.loop.advance(2)
    flush.straighten(slow.outbox, 0)
    scene.loop.advance(2)
    assert seen == [slow, slow]
    assert other.outbox.backlog is None


def test_frames_that_are_no_messages_are_counted_by_tick(scene: Scene) -> None:
    """Each tick starts the count anew."""
    connection = scene.join()
    connection.signs = 999
    scene.loop.advance(1)
    assert connection.signs == 0


def test_a_deadline_that_passed_is_told(scene: Scene) -> None:
    """A session's own deadline is a Unix time; one in the future waits."""
    due, not_due = scene.join("a"), scene.join("b")
    due.deadline = time.time() - 1
    scene.loop.advance(2)
    assert (due.deadlines, not_due.deadlines) == (1, 0)


class Costly(Connection):
    """One whose ping takes a while, and may end others."""

    def __init__(self, loop: ScriptedLoop, name: str, cost: float) -> None:
        super().__init__(loop, name)
        self._cost = cost
        self.ends: list[Connection] = []

    def ping(self, now: float) -> None:
        super().ping(now)
        self._loop.now += self._cost
        for each in self.ends:
            each.close(SLOW_CONSUMER)


def crowd(scene: Scene, count: int, cost: float) -> list[Costly]:
    """Connections that are all due for a ping in the first tick."""
    made = [Costly(scene.loop, str(at), cost) for at in range(count)]
    for each in made:
        each.next_ping = 0.0
        scene.registry.add(each)  # type: ignore[arg-type]
        each.registry = scene.registry
    return made


def test_others_have_their_turn_during_a_pass(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd that is due at once is looked after a few at a time, each of it once."""
    monkeypatch.setattr(keeper_module, "AT_LEAST", 2)
    connections = crowd(scene, 8, 0.6 * AT_A_TIME)
    done: list[int] = []
    call_soon = scene.loop.call_soon

    def turn(call: Callable[..., None]) -> None:
        done.append(sum(len(each.pings) for each in connections))
        call_soon(call)

    monkeypatch.setattr(scene.loop, "call_soon", turn)
    scene.loop.advance(1.5)
    assert done == [2, 4, 6, 8]
    assert [len(each.pings) for each in connections] == [1] * 8


def test_who_is_gone_before_its_turn_is_left_alone(scene: Scene) -> None:
    """A connection that ends during a pass is no part of it any more."""
    first, second = crowd(scene, 2, AT_A_TIME)
    first.ends.append(second)
    scene.loop.advance(1.5)
    assert (len(first.pings), len(second.pings)) == (1, 0)


def test_a_pass_that_takes_longer_than_a_tick_is_not_begun_anew(scene: Scene) -> None:
    """On a busy process the one pass goes on until all had their turn; then the next one begins."""
    connections = crowd(scene, 4, 0.9)
    scene.loop.advance(10)
    assert [len(each.pings) for each in connections] == [1] * 4
    late = crowd(scene, 1, 0.0)[0]
    scene.loop.advance(2)
    assert len(late.pings) == 1


def test_a_slice_has_a_least_size(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long each of them takes, a pass comes to its end."""
    monkeypatch.setattr(keeper_module, "AT_LEAST", 4)
    connections = crowd(scene, 8, 10 * AT_A_TIME)
    calls: list[object] = []
    call_soon = scene.loop.call_soon
    monkeypatch.setattr(scene.loop, "call_soon", lambda call: (calls.append(call), call_soon(call)))
    scene.loop.advance(1.5)
    assert [len(each.pings) for each in connections] == [1] * 8
    assert len(calls) == 2


def test_a_pass_ends_with_the_keeper(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is looked after once it has stopped, in the midst of a pass as well."""
    monkeypatch.setattr(keeper_module, "AT_LEAST", 1)
    first, second = crowd(scene, 2, AT_A_TIME)
    first.ends.append(second)
    second.close = lambda close: scene.keeper.stop()  # type: ignore[method-assign]
    scene.loop.advance(5)
    assert (len(first.pings), len(second.pings)) == (1, 0)


def test_it_stops(scene: Scene) -> None:
    """No timer is left, and stopping twice does no harm."""
    connection = scene.join()
    scene.keeper.stop()
    scene.keeper.stop()
    scene.loop.advance(100)
    assert connection.pings == []
    assert connection.closes == []
    assert all(timer.cancelled for timer in scene.loop.timers)


def test_the_chores_are_done_each_tick_whatever_one_of_them_does(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """A chore that fails is logged; the others are done and the ticking goes on."""
    done: list[float] = []

    def fail() -> None:
        raise RuntimeError("a fault")

    scene.chores += [fail, lambda: done.append(scene.loop.now)]
    with caplog.at_level(logging.ERROR):
        scene.loop.advance(3)
    assert len(done) == 3
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("heartbeat", "timeout", "expected"), [(30, 60, 1.0), (0.2, 1, 0.1), (1, 1.2, 0.3)]
)
def test_short_limits_make_short_ticks(heartbeat: float, timeout: float, expected: float) -> None:
    """A tick is short beside what it has to notice, and never longer than a second."""
    loop = ScriptedLoop()
    limits = LimitSettings(heartbeat_interval=heartbeat, connection_timeout=timeout)
    registry = Registry(max_connections=1, max_per_user=1)
    Keeper(registry, limits, loop, ()).start()  # type: ignore[arg-type]
    assert [timer.at for timer in loop.timers] == [pytest.approx(expected)]
