"""``python -m benchmarks``: measure, and write the table, the JSON and the charts."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable

from benchmarks import machine, native, peers, scenarios
from benchmarks.report.write import write
from benchmarks.runner import note, run


def main() -> int:
    """Run what was asked for."""
    options = _parser().parse_args()
    machine.require_linux()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine.raise_file_limit()
    if machine.cores() < 2:
        note("there is one core: servers and load share it, and nothing here is to be believed")
    if native.compiler() is None:
        note("no C compiler: the load client and the floor run in Python, and are slower")
    before = machine.stolen_ticks()
    with machine.pinned(machine.LOAD_CORE):
        measurements = run(
            [scenarios.ALL[name] for name in options.scenario or scenarios.ALL],
            options.peer or list(peers.ALL),
            rounds=options.runs,
            quick=options.quick,
        )
    whole = not (options.scenario or options.peer)
    steal = machine.steal_share(before)
    target = write(measurements, whole=whole, quick=options.quick, steal=steal)
    note(f"written: {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events, for a first look")
    parser.add_argument(
        "--scenario", type=_names(scenarios.ALL), help=f"some of {','.join(scenarios.ALL)}"
    )
    parser.add_argument("--peer", type=_names(peers.ALL), help=f"some of {','.join(peers.ALL)}")
    parser.add_argument(
        "--runs", type=_positive, default=3, metavar="N", help="rounds (default: 3)"
    )
    return parser


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"not known: {', '.join(unknown)}")
        return names

    return parse


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number from 1 on is wanted")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
