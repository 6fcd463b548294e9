"""What the observer may show of a peer, and the labels that it counts under."""

from __future__ import annotations

import logging

import pytest

from natsbridge.bridge.telemetry.observer import Observer, shown_path

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


class Someone:
    """A connection, as far as the observer needs one."""

    id = "c-1"
    message_count = 2
    error_count = 1
    connected_at = 0.0
    user_id = "ann"
    address = "192.0.2.1"


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "/"),
        ("/socket.io/?EIO=4&transport=websocket", "/socket.io"),
        ("/ws/" + JWT, "/ws/…"),
        ("/" + JWT, "/…"),
        ("/wss/" + JWT + "?ticket=abc", "/wss/…"),
        ("/ws?ticket=abc.def", "/ws"),
        ("/" + "x" * 43, "/…"),
        ("/a%0d%0ab", "/…"),
        ("http://bridge.example/ws", "/…"),
        ("", "/…"),
    ],
)
def test_a_path_is_shown_without_what_may_be_a_token(target: str, shown: str) -> None:
    """A wrong path is told by its first part; anything that could be a token is not."""
    assert shown_path(target) == shown


@pytest.mark.parametrize(
    ("code", "by", "label"),
    [
        (4002, "bridge", ("4002", "bridge")),
        (1000, "client", ("1000", "client")),
        (1006, "client", ("1006", "client")),
        (4999, "client", ("other", "client")),
        (3001, "client", ("other", "client")),
    ],
)
def test_close_codes_of_clients_make_no_labels(code: int, by: str, label: tuple[str, str]) -> None:
    """A client may send any of four thousand codes: those that nobody knows are one label."""
    observer = Observer()
    observer.ended(Someone(), code, by, 0, None)
    assert dict(observer.closed) == {label: 1}


def test_a_hostile_origin_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """An origin is repeated so that its owner can find it, and not more of it than that."""
    observer = Observer()
    with caplog.at_level(logging.INFO, "natsbridge.clients"):
        observer.handshake_refused(
            403,
            "ORIGIN_NOT_ALLOWED",
            peer="192.0.2.1",
            target="/ws",
            headers={"origin": "https://" + "x" * 20_000, "host": "h" * 20_000},
        )
    [record] = caplog.records
    assert len(vars(record)["origin"]) <= 128
    assert len(vars(record)["host"]) <= 128


def test_what_is_wrong_with_one_token_makes_no_label() -> None:
    """Reasons are counted by what was checked, not by what stood in the token."""
    observer = Observer()
    for name in "abc":
        observer.token_refused(f"the token's sub is no id: {name}", "192.0.2.1", code=4500)
    assert dict(observer.tokens) == {"the token's sub is no id": 3}
    assert dict(observer.errors) == {"TOKEN_INVALID": 3}
    assert dict(observer.closed) == {("4500", "bridge"): 3}


def test_evictions_are_a_line_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """However many make room, one line tells how many since the last; none where none did."""
    now = [100.0]
    observer = Observer(clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "natsbridge.clients"):
        for total in range(0, 3000, 100):
            observer.look_at_evictions(total)
            now[0] += 1
    counts = [vars(record)["count"] for record in caplog.records]
    assert counts == [100, 1000, 1000]
