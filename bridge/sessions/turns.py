"""How much of the process all replays may take together."""

from __future__ import annotations

import asyncio
from typing import Final


class Turns:
    """How many sessions read at once, and that they write one after the other."""

    def __init__(self, most: int = 16) -> None:
        self.reading: Final = asyncio.Semaphore(most)
        self.writing: Final = asyncio.Lock()
        self.waiting = 0
        """Replays that are not through yet."""
