"""Who runs where, for measurements in which clients and broker must not take the bridge's core.

On Linux with two cores or more; elsewhere nothing is moved.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def core_of_its_own(pid: int, *others: int | None) -> Iterator[None]:
    """Give a process one core; the others, and this one, have the rest. None is nobody."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    own, *rest = sorted(before)
    _move(pid, {own})
    for each in (os.getpid(), *others):
        _move(each, set(rest))
    try:
        yield
    finally:
        for each in (os.getpid(), pid, *others):
            _move(each, before)


@contextlib.contextmanager
def only_what_is_left() -> Iterator[None]:
    """Run this thread only while nobody else wants its core."""
    if sys.platform != "linux":
        yield
        return
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # without privileges it may have to stay so
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _move(pid: int | None, cores: set[int]) -> None:
    """Move all threads of a process; those to come follow the ones that make them."""
    if sys.platform != "linux" or pid is None:
        return
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread, has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)
