"""What is asked of the operating system: cores, CPU time and memory of processes. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
"""The cores that this process was given, before it or a child was pinned to one of them."""
SERVER_CORE = 0
LOAD_CORE = 1
_PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")


def require_linux() -> None:
    """End with a sentence where the counters that everything rests on are missing."""
    if not Path("/proc/self/stat").exists():
        raise SystemExit("the benchmark reads /proc and pins processes: it needs Linux")


def the_core(core: int) -> int:
    """Return the number that the system has for one of :data:`CORES`, the last for one beyond."""
    return CORES[min(core, len(CORES) - 1)]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run this thread, and every process it starts meanwhile, on one core of :data:`CORES`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {the_core(core)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def die_with_parent() -> None:
    """Called in a new child: have the kernel end it should the benchmark itself be killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def cores() -> int:
    """How many cores this process was given."""
    return len(CORES)


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us, and return how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads.

    From ``schedstat`` (nanoseconds), else from ``stat`` (ticks of 10 ms).
    """
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def private_bytes(pid: int) -> int:
    """Memory that is this process's alone (USS). Kernel buffers of sockets are not in it."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def steal_share(since: tuple[int, int]) -> float:
    """Share of the machine's time since then that other machines or processes took."""
    stolen, total = stolen_ticks()
    return (stolen - since[0]) / max(1, total - since[1])


def stolen_ticks() -> tuple[int, int]:
    """Ticks stolen by the hypervisor, and ticks in all, of all cores."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return fields[7], sum(fields[:8])


def describe() -> dict[str, object]:
    """Say what machine the figures are from."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": cores(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
