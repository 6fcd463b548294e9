"""How long to wait before an event is sent again. Pure."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.1
"""Longest pause before the second attempt, in seconds; each further one is twice as long."""

LONGEST: Final = 2.0
"""Longest pause of all, in seconds."""

TRIES: Final = 4
"""An acknowledgement is waited for this part of the deadline at most, so that there is time for
another attempt."""


def pause(failures: int, chance: float) -> float:
    """Return the seconds to wait after this many failures in a row, the first being 1.

    ``chance`` in [0, 1) picks from the upper half of what is allowed: what failed together, as it
    does when a broker goes, does not come back together.
    """
    # Beyond 2**16 there is nothing to tell apart, and floats overflow in the end.
    allowed = min(LONGEST, FIRST * 2.0 ** min(failures - 1, 16))
    return allowed * (0.5 + chance / 2)


def patience(timeout: float, deadline: float) -> float:
    """Return the seconds that one attempt waits for its acknowledgement."""
    return min(timeout, deadline / TRIES)
