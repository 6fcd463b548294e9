"""Processes of the benchmark: started on a core, spoken to line by line, never left behind.

Every wait has a deadline. Each process leads a group of its own, which is ended as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, native

START_DEADLINE = 30.0
STOP_DEADLINE = 5.0


class ProcessError(Exception):
    """A process ended, or did not answer in time; the message has the end of its log."""


class Process:
    """One child process. Standard output is read here, standard error goes to a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        count_writes: bool = False,
    ) -> None:
        """``count_writes`` is for servers: see :attr:`writes`."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in stop()
        self.name = os.path.basename(command[0])
        self._writes: Path | None = None
        env = dict(os.environ if env is None else env)
        if count_writes and (library := native.program("writes.so")):
            with tempfile.NamedTemporaryFile(prefix="bench-writes-", delete=False) as file:
                file.write(bytes(8))
            self._writes = Path(file.name)
            env |= {"LD_PRELOAD": library, "BENCH_WRITES": file.name}
        with machine.pinned(core):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=env,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=machine.die_with_parent,
            )
        if os.sched_getaffinity(self.pid) != {machine.the_core(core)}:
            self._process.kill()
            raise ProcessError(f"{self.name} does not run on the core that it is to have")
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._pending = b""

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        return machine.cpu_seconds(self.pid)

    @property
    def memory(self) -> int:
        """Bytes that are its alone."""
        return machine.private_bytes(self.pid)

    @property
    def writes(self) -> int | None:
        """How many calls that write it made so far; None where that is not counted."""
        return (
            None
            if self._writes is None
            else int.from_bytes(self._writes.read_bytes(), sys.byteorder)
        )

    def log(self) -> str:
        """The last of what it said on standard error."""
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")

    def read_line(self, deadline: float) -> str:
        """Return the next line of its output, or raise :class:`ProcessError`."""
        limit = time.monotonic() + deadline
        while b"\n" not in self._pending:
            left = limit - time.monotonic()
            if left <= 0:
                raise ProcessError(f"{self.name} said nothing for {deadline:g} s\n{self.log()}")
            if select.select([self._output], [], [], left)[0]:
                data = os.read(self._output, 65536)
                if not data:
                    raise ProcessError(f"{self.name} ended\n{self.log()}")
                self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def wait_for(self, pattern: str, deadline: float = START_DEADLINE) -> re.Match[str]:
        """Return the first line that matches."""
        limit = time.monotonic() + deadline
        while True:
            found = re.search(pattern, self.read_line(max(0.01, limit - time.monotonic())))
            if found:
                return found

    def has_line(self) -> bool:
        """Whether it has said something that was not read yet; does not wait."""
        return bool(self._pending) or bool(select.select([self._output], [], [], 0)[0])

    def tell(self, line: str) -> None:
        """Write one line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, deadline: float) -> dict[str, Any]:
        """Read one line of JSON."""
        found: dict[str, Any] = json.loads(self.read_line(deadline))
        return found

    def ask(self, line: str, deadline: float = 10.0) -> dict[str, Any]:
        """Write one line and read the JSON that answers it."""
        self.tell(line)
        return self.answer(deadline)

    def stop(self) -> None:
        """End it and its group; safe to call twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM if self.name == "nats-server" else signal.SIGKILL)
        try:
            self._process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(STOP_DEADLINE)
        if self._writes is not None:
            self._writes.unlink(missing_ok=True)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
