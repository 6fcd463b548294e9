"""The benchmark's hold on the machine: who runs on which core."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks import machine
from benchmarks.processes import Process

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or machine.cores() < 2, reason="needs Linux and two cores"
)


def test_servers_and_load_have_a_core_each() -> None:
    """Also when they are started by one that is pinned itself, as the benchmark is."""
    with machine.pinned(machine.LOAD_CORE):
        load = Process(["cat"], core=machine.LOAD_CORE)
        server = Process(["cat"], core=machine.SERVER_CORE)
        try:
            cores = [os.sched_getaffinity(each.pid) for each in (load, server)]
        finally:
            load.stop()
            server.stop()
    assert [len(each) for each in cores] == [1, 1]
    assert cores[0] != cores[1]


def test_a_pin_ends() -> None:
    """Whoever pinned itself has the cores that it had before."""
    before = os.sched_getaffinity(0)
    with machine.pinned(machine.SERVER_CORE):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
