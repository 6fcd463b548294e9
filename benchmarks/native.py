"""The two programs in C: compiled when the benchmark starts, if there is a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
BUILD = Path(__file__).parent / "build"
PROGRAMS = {"load": ("load.c", "frames.c", "samples.c"), "floor": ("floor.c", "samples.c")}


def compiler() -> str | None:
    """Return the C compiler's path, or None."""
    return shutil.which(os.environ.get("CC", "cc"))


def program(name: str) -> str | None:
    """Return the path of a compiled program, newer than its sources; None without a compiler."""
    cc = compiler()
    if cc is None:
        return None
    target = BUILD / name
    sources = [SOURCES / source for source in PROGRAMS[name]]
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    if not target.exists() or target.stat().st_mtime < newest:
        BUILD.mkdir(exist_ok=True)
        command = [cc, "-O2", "-std=gnu11", "-o", str(target), *map(str, sources)]
        subprocess.run(command, check=True, timeout=60)
    return str(target)
