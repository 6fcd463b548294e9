"""The scenarios, in the order in which they run."""

from __future__ import annotations

from benchmarks.scenarios import connections, fan_out, growth, mixed, unicast
from benchmarks.scenarios.base import Scenario

ALL: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        fan_out.BURST,
        fan_out.PACED,
        unicast.UNICAST,
        unicast.PACED_UNICAST,
        fan_out.SIZES_SCENARIO,
        mixed.MIXED,
        growth.GROWTH,
        connections.MEMORY,
        connections.STORM,
        connections.IDLE,
    )
}
