"""Origins and client addresses: decisions on headers that anybody can write."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.identity.origins import (
    address_block,
    client_address,
    host_allowed,
    origin_allowed,
)

LISTED = ("https://app.example.com", "http://localhost:3000")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://app.example.com", True),
        ("HTTPS://App.Example.COM", True),
        ("https://app.example.com:443", True),
        ("http://localhost:3000", True),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("http://localhost", False),
        ("https://app.example.com.evil.example", False),
        ("https://evil-app.example.com", False),
        ("https://xapp.example.com", False),
        ("https://app.example.com/", False),
        ("https://app.example.com@evil.example", False),
        ("https://user@app.example.com", False),
        ("https://app.example.com https://evil.example", False),
        ("https://app.example.com,https://evil.example", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("wss://app.example.com", False),
        ("app.example.com", False),
        ("https://app.example.com:99999999", False),
        ("https://", False),
    ],
)
def test_listed_origins_are_compared_whole(origin: str | None, allowed: bool) -> None:
    """Only the listed origins pass, without regard to case and the scheme's own port."""
    assert origin_allowed(origin, "bridge.example", LISTED, "wss") is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:5173", True),
        ("http://LOCALHOST:1", True),
        ("http://localhost", True),
        ("https://localhost:5173", False),
        ("http://127.0.0.1:5173", False),
        ("http://localhost.evil.example:5173", False),
        ("http://localhost:5173/", False),
        ("null", False),
    ],
)
def test_any_port_of_one_host(origin: str, allowed: bool) -> None:
    """``:*`` stands for every port, of that scheme and host alone."""
    assert origin_allowed(origin, "127.0.0.1:8000", ("http://localhost:*",), "ws") is allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("LocalHost:1", True),
        ("localhost.", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("localhost, evil.example", False),
        ("localhost:8000 evil.example", False),
        ("0.0.0.0:8000", False),
        ("", False),
        (None, False),
    ],
)
def test_hosts_are_compared_whole(host: str | None, allowed: bool) -> None:
    """The port does not matter; a name that only contains an allowed one does not pass."""
    assert host_allowed(host, ("127.0.0.1", "localhost", "[::1]")) is allowed
    assert host_allowed(host, ())


def test_a_list_replaces_the_own_host() -> None:
    """With a list, pages of the bridge's own host pass only when they are in it."""
    assert not origin_allowed("https://bridge.example", "bridge.example", LISTED, "https")


@pytest.mark.parametrize("origin", ["https://anything.example", "null", "rubbish"])
def test_a_star_lets_every_page_in(origin: str) -> None:
    """``*`` is for everybody, even pages without an origin of their own."""
    assert origin_allowed(origin, None, ("*",), "ws")


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "allowed"),
    [
        ("http://bridge.example:8000", "bridge.example:8000", "ws", True),
        ("http://bridge.example", "bridge.example", "ws", True),
        ("http://bridge.example", "BRIDGE.example:80", "http", True),
        ("https://bridge.example", "bridge.example", "ws", True),  # a proxy speaks TLS
        ("https://bridge.example", "bridge.example:443", "wss", True),
        ("http://[::1]:8000", "[::1]:8000", "ws", True),
        ("https://bridge.example.", "bridge.example", "wss", True),
        ("http://bridge.example", "bridge.example", "wss", False),
        ("http://bridge.example", "bridge.example", "https", False),
        ("http://bridge.example:8001", "bridge.example:8000", "ws", False),
        ("http://evil.example:8000", "bridge.example:8000", "ws", False),
        ("http://sub.bridge.example:8000", "bridge.example:8000", "ws", False),
        ("http://bridge.example", None, "ws", False),
        ("http://bridge.example", "", "ws", False),
        ("http://bridge.example", "bridge.example, evil.example", "ws", False),
        ("null", "null", "ws", False),
    ],
)
def test_without_a_list_only_the_own_host(
    origin: str, host: str | None, scheme: str, allowed: bool
) -> None:
    """A page may connect to the host that it came from, and to no other."""
    assert origin_allowed(origin, host, (), scheme) is allowed


@given(st.text(), st.text(), st.sampled_from([(), LISTED]), st.sampled_from(["ws", "wss"]))
def test_no_header_breaks_the_check(
    origin: str, host: str, allowed: tuple[str, ...], scheme: str
) -> None:
    """Whatever the headers hold, the answer is yes or no."""
    assert origin_allowed(origin, host, allowed, scheme) in (True, False)


PROXIES = (ip_network("10.0.0.0/8"), ip_network("127.0.0.1"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("10.0.0.1", " 203.0.113.7:5000 ", "203.0.113.7"),
        ("10.0.0.1", "[2001:db9::1]:443", "2001:db9::1"),
        ("10.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("2001:db8::1", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, rubbish", "10.0.0.1"),
        ("10.0.0.1", "rubbish, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.7, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.7,, 10.0.0.2", "10.0.0.2"),
        ("testclient", "203.0.113.7", "testclient"),
    ],
)
def test_the_client_is_the_last_hop_that_is_not_ours(
    peer: str, forwarded: str | None, client: str
) -> None:
    """What trusted proxies wrote counts, from the right; what anybody else wrote does not."""
    assert client_address(peer, forwarded, PROXIES) == client


def test_without_proxies_the_header_is_not_read() -> None:
    """With nobody trusted, the client is whoever connected."""
    assert client_address("10.0.0.1", "203.0.113.7") == "10.0.0.1"


@given(st.text())
def test_no_header_hides_a_stranger(forwarded: str) -> None:
    """A peer that is no trusted proxy is itself, whatever it writes."""
    assert client_address("203.0.113.9", forwarded, PROXIES) == "203.0.113.9"


@given(st.lists(st.sampled_from(["10.1.2.3", "127.0.0.1", "rubbish", "", "203.0.113.7"])))
def test_whoever_writes_to_a_proxy_can_only_add_on_the_left(claimed: list[str]) -> None:
    """The hop that the trusted proxy wrote is the client, however the client's own list began."""
    forwarded = ",".join([*claimed, "198.51.100.7", "10.0.0.2"])
    assert client_address("10.0.0.1", forwarded, PROXIES) == "198.51.100.7"


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_host_has_a_whole_block_of_ipv6(address: str, block: str) -> None:
    """Addresses of one /64 count as one, since one host may use them all."""
    assert address_block(address) == block
