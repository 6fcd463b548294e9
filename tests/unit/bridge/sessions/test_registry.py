"""The registry: who is connected, and which connections are over a limit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from natsbridge.bridge.sessions.registry import MAX_WAITING, Registry
from natsbridge.bridge.sessions.states import State


@dataclass(eq=False)
class Connection:
    """As much of a session as the registry looks at."""

    id: str
    state: State = State.CONFIRMING


@pytest.fixture
def registry() -> Registry:
    """Room for four connections, two of one user."""
    return Registry(max_connections=4, max_per_user=2)


def join(registry: Registry, name: str, user: str | None = None) -> tuple[Connection, list[str]]:
    """Add a connection, which opens if it is known; return it with the names of those that are
    over.
    """
    connection = Connection(name)
    registry.add(connection)  # type: ignore[arg-type]  # a stand-in
    if user is None:
        return connection, []
    assert registry.identify(connection, user) == []  # type: ignore[arg-type]
    connection.state = State.OPEN
    return connection, [each.id for each in registry.over(user)]


def test_who_waits_replaces_nobody(registry: Registry) -> None:
    """One that is not open yet counts for no limit of its user but that of those that wait."""
    for name in "ab":
        join(registry, name, "1")
    for number in range(MAX_WAITING + 1):
        assert registry.over("1") == []
        waiting = Connection(f"w{number}")
        registry.add(waiting)  # type: ignore[arg-type]
        over = registry.identify(waiting, "1")  # type: ignore[arg-type]
    assert [each.id for each in over] == ["w0"]


def test_the_oldest_of_a_user_are_over_the_limit(registry: Registry) -> None:
    """The third connection makes the first one too many; another user's don't count."""
    assert join(registry, "a", "1")[1] == []
    assert join(registry, "x", "2")[1] == []
    assert join(registry, "b", "1")[1] == []
    third, over = join(registry, "c", "1")
    assert over == ["a"]
    registry.remove(registry.of_user("1")[0], "1")
    assert [each.id for each in registry.of_user("1")] == ["b", "c"]
    assert registry.get("c") is third


def test_whoever_is_connected_counts_known_or_not(registry: Registry) -> None:
    """A process is full at its limit, those included that have not said who they are."""
    for name in "abc":
        join(registry, name)
        assert not registry.is_full
    connection, _ = join(registry, "d", "1")
    assert registry.is_full
    assert len(registry) == 4
    assert registry.per_user() == {"1": 1}
    registry.remove(connection, "1")  # type: ignore[arg-type]
    assert not registry.is_full


def test_a_connection_that_is_gone_leaves_nothing(registry: Registry) -> None:
    """Removing twice does no harm; a user without connections is not listed."""
    known, _ = join(registry, "a", "1")
    unknown, _ = join(registry, "b")
    for connection, user in ((known, "1"), (unknown, None)) * 2:
        registry.remove(connection, user)  # type: ignore[arg-type]
    assert len(registry) == 0
    assert registry.per_user() == {}
    assert registry.of_user("1") == []
    assert registry.get("a") is None


def test_it_can_be_changed_while_it_is_looked_through(registry: Registry) -> None:
    """Looking through the connections sees those that were there at the start."""
    for name in "abc":
        join(registry, name, name)
    seen = []
    for session in registry:
        seen.append(session.id)
        registry.remove(session, session.id)
    assert seen == ["a", "b", "c"]
    assert len(registry) == 0


def test_a_quarter_of_the_places_is_for_the_unknown(registry: Registry) -> None:
    """Whoever says who it is makes room for another one that has not yet."""
    assert not registry.is_crowded
    connection, _ = join(registry, "a")
    assert registry.is_crowded
    registry.identify(connection, "1")  # type: ignore[arg-type]
    assert not registry.is_crowded
    registry.remove(connection, "1")  # type: ignore[arg-type]
    assert not registry.is_crowded
    join(registry, "b")
    assert registry.is_crowded


def test_one_that_was_never_identified_does_not_count(registry: Registry) -> None:
    """A connection that ends before it is counted among its user's is not taken off there."""
    for name in "abc":
        connection, _ = join(registry, name)
        registry.remove(connection, "1")  # type: ignore[arg-type]
    assert not registry.is_crowded
    known, _ = join(registry, "d", "1")
    gone, _ = join(registry, "e")
    registry.remove(gone, "1")  # type: ignore[arg-type]
    assert registry.of_user("1") == [known]
    assert not registry.is_crowded
