"""``natsbridge serve`` that tells how much CPU time single iterations of its event loop took.

``python -m tests.support.stalls serve`` prints ``stall 0.0421`` for each iteration over
:data:`TOLD_FROM` seconds. CPU time, not the clock's: what a busy machine gives to others in the
middle of an iteration is none of the bridge's doing.
"""

from __future__ import annotations

import re
import sys
from time import thread_time
from typing import Final

from natsbridge.bridge.cli.main import main
from natsbridge.bridge.runtime import process
from natsbridge.bridge.runtime.loop import FairLoop
from tests.support.bridge import BridgeProcess

TOLD_FROM: Final = 0.02
_STALL: Final = re.compile(r"^stall ([0-9.]+)$", re.MULTILINE)


class TimedLoop(FairLoop):
    """The bridge's loop, with each iteration timed."""

    def _run_once(self) -> None:
        began = thread_time()
        super()._run_once()  # type: ignore[misc]  # asyncio's own, of all versions
        took = thread_time() - began
        if took >= TOLD_FROM:
            print(f"stall {took:.4f}", flush=True)  # noqa: T201  # what it is for


class TimedBridge(BridgeProcess):
    """A bridge process whose iterations are timed."""

    module = "tests.support.stalls"

    @property
    def stalls(self) -> list[float]:
        """The seconds of CPU time of each long iteration so far."""
        return [float(each) for each in _STALL.findall(self.output)]


if __name__ == "__main__":
    process.FairLoop = TimedLoop  # type: ignore[misc]
    sys.exit(main())
