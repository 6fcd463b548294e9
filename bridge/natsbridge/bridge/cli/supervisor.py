"""Child processes that start and end together, for ``natsbridge dev``.

Each child has a session of its own: what a terminal sends to its foreground group (Ctrl-C) reaches
``natsbridge dev`` alone, which then ends the children in order. A reaper ends them should this
process
be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from natsbridge.bridge.cli import reaper

T = TypeVar("T")

LAST_LINES: Final = 15
"""How much of what a child said is kept, to tell why it ended."""

Hear = Callable[[str, str], None]
"""Gets every line that a child says: its name, the line."""


class Stopped(Exception):
    """A stop was asked for."""


class ChildEnded(Exception):
    """A child ended by itself."""

    def __init__(self, child: Child) -> None:
        super().__init__(child.name)
        self.child = child


class TooSlow(Exception):
    """Something did not happen in the time it had."""


class Child:
    """One process: its name, what it said last, and the lines somebody waits for."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, hear: Hear) -> None:
        self.name: Final = name
        self.process: Final = process
        self.last: Final[deque[str]] = deque(maxlen=LAST_LINES)
        self._hear: Final = hear
        self._awaited: list[tuple[str, asyncio.Future[str]]] = []
        self._readers: Final = [
            asyncio.create_task(self._read(stream))
            for stream in (process.stdout, process.stderr)
            if stream is not None
        ]

    def line(self, beginning: str) -> asyncio.Future[str]:
        """Return a future of the rest of the first line that begins so, kept or still to come."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._awaited.append((beginning, future))
        for line in self.last:
            self._offer(line)
        return future

    async def said_all(self) -> None:
        """Wait, briefly, until what an ended child has said is read."""
        await asyncio.wait(self._readers, timeout=1)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                raw = await stream.readline()
            except ValueError:
                continue  # a line beyond the reader's limit; it is dropped and the next one read
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            self.last.append(line)
            self._hear(self.name, line)
            self._offer(line)

    def _offer(self, line: str) -> None:
        for beginning, future in self._awaited:
            if line.startswith(beginning) and not future.done():
                future.set_result(line.removeprefix(beginning))


class Supervisor:
    """The children that run, and the wish to stop."""

    def __init__(self, hear: Hear, warn: Callable[[str], None]) -> None:
        self._hear: Final = hear
        self._warn: Final = warn
        self._children: Final[list[Child]] = []
        self._stop: Final = asyncio.Event()
        self._reaper: asyncio.subprocess.Process | None = None

    def stop(self) -> None:
        """Ask for the end; can be called at any time and twice."""
        self._stop.set()

    @asynccontextmanager
    async def reaped(
        self, folder: Path | None = None, holding: Sequence[int] = ()
    ) -> AsyncIterator[None]:
        """Run the reaper, who removes the folder at the end, whichever way that comes.

        ``holding`` are files that stay open, and thereby locked, until the reaper is done too.
        """
        folders = [str(folder)] if folder is not None else []
        self._reaper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", reaper.__file__, *folders),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=holding,
            start_new_session=True,
        )
        try:
            yield
        finally:
            if self._reaper.stdin is not None:
                self._reaper.stdin.close()
            await self._reaper.wait()

    @asynccontextmanager
    async def running(
        self, commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], grace: float
    ) -> AsyncIterator[list[Child]]:
        """Run these commands by name; at the end ask them to stop, and kill who does not."""
        children: list[Child] = []
        try:
            for name, command in commands.items():
                # One by one, so that a failure finds those before it in the list.
                children.append(await self._start(name, command, environment))
            yield children
        finally:
            await self._end(children, grace)

    async def attend(self, work: Awaitable[T], name: str = "", within: float | None = None) -> T:
        """Return what ``work`` gives.

        Raises :class:`Stopped`, :class:`ChildEnded` or :class:`TooSlow` when that comes first.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        ends = {asyncio.ensure_future(each.process.wait()): each for each in self._children}
        waiters = {task, stop, *ends}
        try:
            done, _ = await asyncio.wait(
                waiters, timeout=within, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waiters:
                each.cancel()
        if stop in done:
            raise Stopped
        if task in done:
            return task.result()
        for end, child in ends.items():
            if end in done:
                await child.said_all()
                raise ChildEnded(child)
        raise TooSlow(f"{name} was not ready")

    async def _start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> Child:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._tell_reaper(f"+{process.pid}")
        child = Child(name, process, self._hear)
        self._children.append(child)
        return child

    async def _end(self, children: Sequence[Child], grace: float) -> None:
        for child in children:
            # Only the process itself: it knows in what order to end what it has started.
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        waits = {asyncio.ensure_future(each.process.wait()): each for each in children}
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=grace)
        for wait in late:
            self._warn(f"{waits[wait].name} did not stop within {grace:g} s and was killed")
            reaper.send(waits[wait].process.pid, signal.SIGKILL)
            await wait
        for child in children:
            self._children.remove(child)
            self._tell_reaper(f"-{child.process.pid}")
            await child.said_all()

    def _tell_reaper(self, line: str) -> None:
        if self._reaper is not None and self._reaper.stdin is not None:
            # A pipe takes so short a write whole, and a reaper that is gone needs to know nothing.
            with contextlib.suppress(OSError):
                self._reaper.stdin.write(f"{line}\n".encode())


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python; see :func:`same_imports`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def same_imports() -> dict[str, str]:
    """Return what makes a child import from where this process does.

    Without it, ``python -m`` would take a folder ``schemas`` of the present directory for ours.
    """
    return {"PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path)}


def beside_python(program: str) -> str | None:
    """Return the path of a program next to this Python, else on the PATH, else None."""
    beside = Path(sys.executable).parent / program
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which(program)
