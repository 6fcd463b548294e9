"""Connections of peers that have not said who they are, counted by their address.

A TLS handshake, an HTTP request, a WebSocket without a token: whoever reaches the port can have
them. One address may have so many, and so many bytes in them; over that its oldest goes, not the
newest: a peer that is served soon leaves before it is the oldest, and one that only holds a place
does not keep it. So nobody shuts out others, not even behind the same address.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

NO_BOUND: Final = 1 << 60
LOOK: Final = 16
"""How many of the oldest are looked at for one that no answer is on its way to."""


class Block:
    """What one address has: see :func:`natsbridge.bridge.identity.origins.address_block`."""

    __slots__ = ("held", "members", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[Member, None] = {}
        """In the order of their coming."""
        self.held = 0
        """Bytes that they have sent and that are kept, or that wait for them to be read."""


class Member(Protocol):
    """A connection that is counted. The first two are kept by :class:`Pending` alone."""

    block: Block | None
    held: int

    @property
    def is_busy(self) -> bool:
        """Whether it is being answered."""

    def evict(self) -> None:
        """End the connection at once; it has been left out of the count."""


class Pending:
    """Counts connections by address; each step costs a few look-ups."""

    def __init__(
        self,
        *,
        per_address: int,
        most: int = NO_BOUND,
        held_per_address: int = NO_BOUND,
        most_held: int = NO_BOUND,
    ) -> None:
        """Bounds of connections and of bytes, of one address and of all."""
        self._per_address: Final = per_address
        self._most: Final = most
        self._held_per_address: Final = held_per_address
        self._most_held: Final = most_held
        self._blocks: Final[dict[str, Block]] = {}
        self._all: Final[dict[Member, None]] = {}
        self._held = 0
        self.evicted = 0
        """How many had to go."""

    def __len__(self) -> int:
        return len(self._all)

    def of(self, address: str) -> int:
        """Return how many an address has."""
        block = self._blocks.get(address)
        return 0 if block is None else len(block.members)

    @property
    def held(self) -> int:
        """Bytes that are kept for all of them."""
        return self._held

    def enter(self, who: Member, address: str | None) -> None:
        """Count a connection under its address; without one (a proxy's), only in all."""
        self._all[who] = None
        if address is not None:
            block = self._blocks.get(address)
            if block is None:
                block = self._blocks[address] = Block(address)
            who.block = block
            block.members[who] = None
            if len(block.members) > self._per_address:
                self._evict(block.members)
        if len(self._all) > self._most:
            self._evict(self._all)

    def move(self, who: Member, address: str | None) -> None:
        """Count it under another address: a proxy's, whose requests are those of many."""
        self.leave(who)
        self.enter(who, address)

    def leave(self, who: Member) -> None:
        """Forget a connection; safe to call twice."""
        if who.held:
            self.hold(who, 0)  # while it is still among its address's
        if who not in self._all:
            return
        del self._all[who]
        block = who.block
        if block is not None:
            who.block = None
            del block.members[who]
            if not block.members:
                del self._blocks[block.name]

    def hold(self, who: Member, size: int) -> None:
        """So many bytes are kept for this one from now on."""
        more = size - who.held
        who.held = size
        self._held += more
        block = who.block
        if block is not None:
            block.held += more
            while more > 0 and block.held > self._held_per_address:
                self._evict(each for each in block.members if each.held)
        while more > 0 and self._held > self._most_held:
            self._evict(each for each in self._all if each.held)

    def make_room(self) -> bool:
        """Let the oldest of all go; False where there is none."""
        if self._all:
            self._evict(self._all)
            return True
        return False

    def clear(self) -> None:
        """Let all go."""
        for who in list(self._all):
            self.leave(who)
            who.evict()

    def _evict(self, oldest: Iterable[Member]) -> None:
        chosen = None
        for number, who in enumerate(oldest):
            if number == LOOK:
                break
            if not who.is_busy:
                chosen = who
                break
            chosen = chosen or who
        assert chosen is not None
        self.evicted += 1
        self.leave(chosen)
        chosen.evict()
