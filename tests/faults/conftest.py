"""Fixtures of the fault tests, and how often and how long each fault is.

``FAULT_REPETITIONS`` is how often each scenario runs (1); ``FAULT_SCALE`` multiplies how often the
fault strikes within one (1). Figures that a test reports are shown at the end of the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import StartNats
from tests.support.faulty import World

Figure = Callable[[str], None]
"""``figure("p99 1.2 ms")``: report what was measured."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that takes a ``repetition`` as often as the environment says."""
    if "repetition" in metafunc.fixturenames:
        count = int(os.environ.get("FAULT_REPETITIONS", "1"))
        metafunc.parametrize("repetition", range(1, count + 1))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, which the others then run beside."""
    items.sort(key=lambda item: item.path.name != "test_soak.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests measured."""
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {value}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in sorted(lines):
            terminalreporter.write_line(line)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Report a figure of this test."""
    return lambda words: record_property("figure", words)


@pytest.fixture
def scale() -> int:
    """How often a fault strikes, in multiples of a short run."""
    return int(os.environ.get("FAULT_SCALE", "1"))


@pytest.fixture
def world(start_nats: StartNats) -> Iterator[World]:
    """A broker with JetStream on disk, which the test may break, and bridges on it."""
    world = World(start_nats())
    yield world
    world.close()
