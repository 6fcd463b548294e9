"""The page for operators: each metric and each log line that it names exists, and the other way."""

from __future__ import annotations

import ast
import asyncio
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from natsbridge.bridge.http import metrics
from natsbridge.bridge.telemetry import families
from natsbridge.bridge.telemetry.observer import Line, Observer
from natsbridge.bridge.telemetry.pulse import Pulse
from natsbridge.bridge.telemetry.way_down import WayDown
from tests.unit.bridge.delivery.test_hub import Scene

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()


def section(title: str) -> str:
    """Return the text under a heading."""
    return re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.M)[0]


def first_cells(text: str) -> set[str]:
    """Return what stands in backticks in the first cells of all tables."""
    return {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def reading() -> families.Reading:
    """Return a reading of a process that has done nothing."""
    nothing: dict[str, Any] = {
        field.name: {} if "dict" in str(field.type) else 0 for field in fields(families.Reading)
    }
    return families.Reading(**nothing)


def exported() -> set[str]:
    """Return the names that ``/metrics`` has."""
    way_down = WayDown(Scene().hub)
    loop = asyncio.new_event_loop()
    loop.close()
    registry = metrics.registry_of(families.Numbers(reading, Observer(), way_down, Pulse(loop)))
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }


def written() -> set[str]:
    """Return the constant messages of all log calls of the bridge, ``…`` for what is put in."""
    found = {str(line) for line in Line}
    for path in (ROOT / "bridge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[.\d]*[sdrgf]", "…", node.value))
    return found


def test_every_metric_is_explained() -> None:
    """The table has each metric by its name, and none that is not there."""
    assert first_cells(section("Metrics")) == exported()


def test_metrics_named_anywhere_exist() -> None:
    """So do those that are named in passing, on any page."""
    known = exported() | {"bridge_tickets"}  # a bucket
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name in re.findall(r"`(bridge_[a-z_]+)", page.read_text()):
            assert name in known, (page.name, name)


def test_every_log_line_about_clients_is_explained() -> None:
    """Each message of the observer stands on the page."""
    named = set(re.findall(r"`([^`\n]+)`", section("Logs")))
    assert {str(line) for line in Line} <= named


def test_every_log_line_that_is_explained_is_written() -> None:
    """No message on the page is one that the code does not have."""
    messages = "\n".join(written())
    named = first_cells(section("Logs"))
    assert len(named) > 20
    for name in named:
        # What a line is about may be put in: a name at the beginning, a number.
        assert any(
            each in messages for each in (name, name.removeprefix("… "), name.replace("NATS", "…"))
        ), name
