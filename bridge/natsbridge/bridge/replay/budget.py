"""How much of the process all replays may take together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, Protocol

from natsbridge.bridge.replay.fair import FairSlots


class Needy(Protocol):
    """A replay, as far as others go by it."""

    @property
    def needs(self) -> int:
        """The sequence behind which it may still have to read; -1 while that is not known."""


class Turns:
    """How many sessions read at once, by turns of their users, and that they write one after the
    other.
    """

    def __init__(self, most: int = 16, *, is_light: Callable[[str], bool] = lambda _: True) -> None:
        """``is_light`` tells of a user whether little was read for it of late."""
        self.reading: Final = FairSlots(most, kept=most // 4, is_light=is_light)
        self.writing: Final = asyncio.Lock()
        self.under_way: Final[set[Needy]] = set()
        """Replays that are not through yet, but for those that wait for a slow client."""

    @property
    def waiting(self) -> int:
        """How many there are."""
        return len(self.under_way)

    def needed(self, low: int) -> int:
        """The sequence behind which those may still have to read that are not behind ``low``."""
        lowest = sys.maxsize
        for each in self.under_way:
            needs = each.needs
            if low <= needs < lowest:
                lowest = needs
                if lowest == low:
                    break  # a thousand may be there; of a crowd most are at the same place
        return lowest
