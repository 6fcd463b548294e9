"""What is in C: compiled when the benchmark starts, if there is a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
BUILD = Path(__file__).parent / "build"
PROGRAMS = {
    "load": ("load.c", "frames.c", "samples.c"),
    "floor": ("floor.c", "samples.c"),
    "writes.so": ("writes.c",),
}
LIBRARY = ("-shared", "-fPIC", "-ldl")


def compiler() -> str | None:
    """Return the C compiler's path, or None."""
    return shutil.which(os.environ.get("CC", "cc"))


@cache
def program(name: str) -> str | None:
    """Return the path of a program or library, compiled now; None without a compiler."""
    cc = compiler()
    if cc is None:
        return None
    target = BUILD / name
    BUILD.mkdir(exist_ok=True)
    sources = [str(SOURCES / source) for source in PROGRAMS[name]]
    extra = LIBRARY if name.endswith(".so") else ()
    command = [cc, "-O2", "-std=gnu11", "-o", str(target), *sources, *extra]
    subprocess.run(command, check=True, timeout=60)
    return str(target)
