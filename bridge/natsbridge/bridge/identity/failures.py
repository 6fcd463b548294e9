"""Failed handshakes by address, and what an address over the limit may still cost.

Good and bad clients share addresses (NAT, proxies), so an address over its limit is not shut out: a
token that it brings is verified before the upgrade, and a ticket is looked up, both within a budget
a second. Synchronous; an address is counted with its /64 (IPv6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from natsbridge.bridge.identity.origins import address_block
from natsbridge.bridge.limits.rates import SlidingWindow

WINDOW: Final = 60.0
"""Seconds in which failures are counted."""
VERIFICATIONS: Final = 1000
"""Bad tokens of one address over its limit that are verified in a second. An HMAC takes 20 µs, a
signature of a public key up to 0.3 ms; reading and refusing the request that brings it, 0.5 ms. So
this bounds little, and only a flood that costs most of a core anyway shuts good tokens out."""
LOOK_UPS: Final = 10
"""Tickets of one address over its limit that are looked up in a second; each asks NATS."""


class Failures:
    """What each address failed at lately."""

    def __init__(self, limit: int, wall: Callable[[], float]) -> None:
        """``limit`` failures in :data:`WINDOW`; ``wall`` is Unix seconds that never go back."""
        self._wall: Final = wall
        self._failed: Final = SlidingWindow(limit, WINDOW)
        self._verified: Final = SlidingWindow(VERIFICATIONS, 1.0)
        self._looked_up: Final = SlidingWindow(LOOK_UPS, 1.0)

    def __len__(self) -> int:
        return len(self._failed)

    def failed(self, address: str) -> bool:
        """Count a handshake of this address that failed, or that may yet fail.

        Returns whether it was counted: over the limit nothing more is.
        """
        return self._failed.allow(address_block(address), self._wall())

    def forgive(self, address: str) -> None:
        """Take back one that was counted: it was good, or not the client's fault."""
        self._failed.take_back(address_block(address))

    def exceeded(self, address: str) -> bool:
        """Whether this address is over its limit."""
        return self._failed.exceeded(address_block(address), self._wall())

    def may_verify(self, address: str) -> bool:
        """Whether one more token of an address over its limit is looked at now."""
        return not self._verified.exceeded(address_block(address), self._wall())

    def verified(self, address: str) -> None:
        """Count a token of an address over its limit that was looked at and was bad."""
        self._verified.record(address_block(address), self._wall())

    def may_look_up(self, address: str) -> bool:
        """Whether one more ticket of an address over its limit is looked up now; counts it."""
        return self._looked_up.allow(address_block(address), self._wall())

    def retry_after(self, address: str) -> int:
        """Return the whole seconds until the address is under its limit."""
        now = self._wall()
        reset = self._failed.reset_time(address_block(address)) or now
        return max(1, math.ceil(reset - now))

    def sweep(self) -> None:
        """Forget the addresses without failures in the window."""
        now = self._wall()
        for each in (self._failed, self._verified, self._looked_up):
            each.sweep(now)
