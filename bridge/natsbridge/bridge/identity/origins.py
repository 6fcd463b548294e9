"""Where a request comes from: the page behind a browser's, and the address behind proxies.

Pure decisions on header values. ``Origin`` (RFC 6454 §7, RFC 6455 §10.2) protects people from
foreign pages in their browser; whoever is no browser can send any value, or none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY_ORIGIN: Final = "*"
ANY_PORT: Final = ":*"
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine, as they stand in ``Host`` and in origins."""

_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/:@\[\]?#\\,]+)(?::([0-9]{1,5}))?")
_PORTS: Final = {"http": "80", "https": "443"}
_SECURE: Final = frozenset({"https", "wss"})


def origin_allowed(
    origin: str | None, host_header: str | None, allowed: tuple[str, ...], scheme: str
) -> bool:
    """Whether a page of this origin may connect.

    ``origin`` and ``host_header`` are the headers' values, or None; ``allowed`` is whole origins,
    where ``:*`` in place of a port stands for any, or ``*``; ``scheme`` (``http``, ``ws``,
    ``https``, ``wss``) is the one the bridge was spoken to.

    Without ``Origin`` the client is no browser and may. Origins are compared whole, without regard
    to case, and a scheme's own port is the same as none. With an empty list, the origin must be the
    host that was asked for: a page from ``http`` does not pass where the bridge speaks TLS itself,
    but both schemes pass where it does not, since a proxy may do it instead.
    """
    if origin is None or ANY_ORIGIN in allowed:
        return True
    page = _origin(origin)
    if page is None:
        return False
    if allowed:
        return any(
            page[:2] == (_origin(each.removesuffix(ANY_PORT)) or ())[:2]
            if each.endswith(ANY_PORT)
            else page == _origin(each)
            for each in allowed
        )
    if scheme.lower() in _SECURE and page[0] != "https":
        return False
    return host_header is not None and page[1:] == _authority(host_header, page[0])


def host_allowed(host_header: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a request that names this host is answered; an empty list is for any.

    ``allowed`` is names in lower case without a port, IPv6 addresses in brackets; the request's
    port does not matter. A page that has its own name point here (DNS rebinding) still names
    itself in ``Host``.
    """
    if not allowed:
        return True
    found = _authority(host_header or "", "http")
    return found is not None and found[0] in allowed


def _origin(text: str) -> tuple[str, str, str] | None:
    """Return (scheme, host, port) of an origin, or None for what is none, such as ``null``."""
    scheme, separator, rest = text.strip().lower().partition("://")
    authority = _authority(rest, scheme) if separator and scheme in _PORTS else None
    return None if authority is None else (scheme, *authority)


def _authority(text: str, scheme: str) -> tuple[str, str] | None:
    found = _AUTHORITY.fullmatch(text.strip().lower())
    if found is None:
        return None
    host, port = found.groups(_PORTS[scheme])
    return host.removesuffix("."), port.lstrip("0")


def client_address(peer: str, forwarded_for: str | None, networks: Iterable[Network] = ()) -> str:
    """Return the address of the client, past the proxies that are trusted.

    ``peer`` is the other end of the connection, ``forwarded_for`` the value of ``X-Forwarded-For``
    (several such headers joined by commas, in order). It is walked from the right, where each
    trusted proxy wrote whom it was spoken to by; the first hop that is not trusted is the client,
    and what stands left of it is only its word. A hop that is no address ends the walk at the last
    good one, and so does the end of the list.
    """
    networks = tuple(networks)
    if not networks or forwarded_for is None:
        return peer
    address = _address(peer)
    if address is None:
        return peer
    for hop in reversed(forwarded_for.split(",")):
        if not any(address in network for network in networks):
            break
        further = _address(hop)
        if further is None:
            break
        address = further
    return str(address)


def counted_address(
    peer: str, forwarded_for: str | None, networks: tuple[Network, ...]
) -> str | None:
    """Return what a connection is counted under; None for a trusted proxy that speaks for nobody.

    A proxy's connections are those of many, so they count under whom it forwards for.
    """
    if not networks:
        return address_block(peer)
    found = client_address(peer, forwarded_for, networks)
    return None if _is_trusted(found, networks) else address_block(found)


@lru_cache(maxsize=1024)
def _is_trusted(address: str, networks: tuple[Network, ...]) -> bool:
    parsed = _address(address)
    return parsed is not None and any(parsed in network for network in networks)


def _address(text: str) -> Address | None:
    """Read ``192.0.2.1``, ``2001:db8::1``, and the forms with a port that some proxies write."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


@lru_cache(maxsize=4096)
def address_block(address: str) -> str:
    """Return what an address is counted under: itself, or the /64 of an IPv6 address.

    One host has a whole /64 to choose its addresses from (RFC 4291 §2.5.4), so a limit by single
    address would not hold. What is no address is returned as it is.
    """
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return address if parsed is None else str(parsed)
