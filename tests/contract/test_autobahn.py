"""Autobahn's cases against the bridge's real socket class, which echoes for this purpose."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

import pytest
from kosoku import FailureError, run_fuzzingclient

from tests.support.bridge import NEVER, OutputProcess

READY = re.compile(r"echo ready on (ws://127\.0\.0\.1:\d+)")
COMPRESSION = ["12.*", "13.*"]
"""The bridge offers no compression, by design: every client shares the same bytes."""


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of the bridge's socket class behind an echo."""
    process = OutputProcess([sys.executable, "-m", "tests.support.echo_bridge"], os.environ)
    try:
        yield process.wait_for_line(READY, 20)[1]
    finally:
        process.terminate()
        process.wait()
    assert not NEVER.search(process.output), process.output


@pytest.mark.timeout(300)
async def test_autobahn_cases(echo: str) -> None:
    """No case fails, those of compression aside."""
    try:
        results = await run_fuzzingclient(echo, exclude_cases=COMPRESSION, concurrency=4)
    except FailureError as failure:
        results = failure.results
    failed = {
        each.case_id: (each.behavior.value, each.behavior_close.value, each.result)
        for each in results
        if not each.passed
    }
    assert not failed, failed
    assert len(results) > 200
