"""Fixtures of tests in which time passes by itself, without taking any."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.harness import House
from tests.support.virtual_loop import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run async tests in a loop whose waits cost no time."""
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def living() -> House:
    """A house whose clock is the loop's, and that listens to what is for everybody."""
    loop = asyncio.get_running_loop()
    house = House(clock=loop.time, spawn=loop.create_task)
    house.interests.hold("live.*.all.>", house.hub.everybody.receive)
    house.answer()
    await house.continuity.look()
    house.continuity.on_up()
    return house
