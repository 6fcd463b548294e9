"""``python -m benchmarks``: measure, and write the table, the JSON and the charts."""

from __future__ import annotations

import argparse
import sys

from benchmarks import machine, native, peers, scenarios
from benchmarks.runner import note, run


def _names(known: dict[str, object]) -> object:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)} (there are {', '.join(known)})"
            )
        return names

    return parse


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events, for a first look")
    parser.add_argument("--scenario", type=_names(scenarios.ALL), help="comma separated")
    parser.add_argument("--peer", type=_names(peers.ALL), help="comma separated")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: 3)")
    options = parser.parse_args()
    machine.require_linux()
    machine.raise_file_limit()
    if native.compiler() is None:
        note("no C compiler: the load client and the floor run in Python, and are slower")
    with machine.pinned(machine.LOAD_CORE):
        run(
            [scenarios.ALL[name] for name in options.scenario or scenarios.ALL],
            options.peer or list(peers.ALL),
            rounds=options.runs,
            quick=options.quick,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
