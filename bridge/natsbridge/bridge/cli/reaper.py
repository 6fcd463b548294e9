"""Ends what ``natsbridge dev`` started when it could not do so itself, because it was killed.

Run as a script, with nothing but the standard library: ``reaper.py [FOLDER]``. Standard input is a
pipe that ``natsbridge dev`` holds open: a line ``+<id>`` names a process group that runs, ``-<id>``
one that has ended. When the input ends, for whatever reason, the reaper ends what is left and
removes the folder. A pipe instead of PR_SET_PDEATHSIG: macOS has none, and it needs code between
fork and exec.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

GRACE = 3.0
"""Seconds between asking the groups to end and killing them."""


def main() -> None:
    """Listen until the input ends, then clean up."""
    groups: list[int] = []
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            groups.append(group)
        else:
            groups.remove(group)
    for group in reversed(groups):
        send(group, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while alive(groups) and time.monotonic() < deadline:
        time.sleep(0.02)  # they are nobody's children now: there is no event to wait for
    for group in groups:
        send(group, signal.SIGKILL)
    for folder in sys.argv[1:]:
        shutil.rmtree(folder, ignore_errors=True)


def send(group: int, number: int) -> None:
    """Signal a group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def alive(groups: Iterable[int]) -> bool:
    """Whether any of the groups has a process."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
    return False


if __name__ == "__main__":
    main()
