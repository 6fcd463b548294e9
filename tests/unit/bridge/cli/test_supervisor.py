"""Children of ``natsbridge dev``: their order, their last words, and what is left when it is
killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from natsbridge.bridge.cli.supervisor import ChildEnded, Stopped, Supervisor, TooSlow

NOTES = """
import signal, sys, time
name, path = sys.argv[1:]
def note(what):
    with open(path, "a") as file:
        file.write(f"{name} {what}\\n")
def stop(*_):
    note("stops")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("runs")
print("ready as", name, flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def make(heard: list[str] | None = None, warned: list[str] | None = None) -> Supervisor:
    said: list[str] = [] if heard is None else heard
    return Supervisor(
        lambda name, line: said.append(f"{name}: {line}"),
        (lambda _: None) if warned is None else warned.append,
    )


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice has."""
    told = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return not told.stdout.strip() or told.stdout.startswith("Z")


def wait_until_gone(pids: list[int], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.02)


async def test_children_end_in_the_reverse_order(tmp_path: Path) -> None:
    """What started last ends first, each after those that need it are gone."""
    notes = tmp_path / "notes"
    supervisor = make()
    environment = dict(os.environ)
    async with (
        supervisor.running({"a": python(NOTES, "a", str(notes))}, environment, 5) as (a,),
        supervisor.running({"b": python(NOTES, "b", str(notes))}, environment, 5) as (b,),
    ):
        assert await supervisor.attend(a.line("ready as "), within=10) == "a"
        assert await supervisor.attend(b.line("ready as "), within=10) == "b"
    runs, stops = notes.read_text().split()[1::2][:2], notes.read_text().split()[4:]
    assert runs == ["runs", "runs"]
    assert stops == ["b", "stops", "a", "stops"]


async def test_a_child_that_ends_is_named_with_its_last_words() -> None:
    """Whoever waits learns which child ended, how, and what it said last."""
    supervisor = make()
    code = "import sys; print('x' * 200_000); sys.exit('no luck')"
    async with supervisor.running({"luckless": python(code)}, dict(os.environ), 5):
        with pytest.raises(ChildEnded) as ended:
            await supervisor.attend(asyncio.Event().wait(), within=10)
    assert ended.value.child.name == "luckless"
    assert ended.value.child.process.returncode == 1
    assert "no luck" in ended.value.child.last  # the two streams are read in either order


async def test_a_stop_ends_the_waiting() -> None:
    """A stop that was asked for ends any wait, one that begins later too."""
    supervisor = make()
    waiting = asyncio.ensure_future(supervisor.attend(asyncio.Event().wait()))
    await asyncio.sleep(0)
    supervisor.stop()
    supervisor.stop()
    with pytest.raises(Stopped):
        await waiting
    with pytest.raises(Stopped):
        await supervisor.attend(asyncio.Event().wait())


async def test_what_takes_too_long_is_named() -> None:
    """A wait has an end, and says what was not ready."""
    with pytest.raises(TooSlow, match="the moon was not ready"):
        await make().attend(asyncio.Event().wait(), "the moon", 0.01)


async def test_who_does_not_stop_is_killed() -> None:
    """After its grace a child is killed with its group, and that is said."""
    warned: list[str] = []
    supervisor = make(warned=warned)
    async with supervisor.running({"stubborn": python(STUBBORN)}, dict(os.environ), 0.1) as (
        child,
    ):
        await supervisor.attend(child.line("ready"), within=10)
    assert child.process.returncode == -signal.SIGKILL
    assert warned == ["stubborn did not stop within 0.1 s and was killed"]


async def test_each_child_has_a_session_of_its_own() -> None:
    """What a terminal sends to our group does not reach the children."""
    supervisor = make()
    async with supervisor.running({"child": python(STUBBORN)}, dict(os.environ), 0) as (child,):
        await supervisor.attend(child.line("ready"), within=10)
        pid = child.process.pid
        assert os.getsid(pid) == os.getpgid(pid) == pid != os.getsid(0)


async def test_the_folder_goes_with_the_reaper(tmp_path: Path) -> None:
    """At the end of the block the folder is gone."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_text("x")
    async with make().reaped(folder):
        assert folder.exists()
    assert not folder.exists()


KILLED = """
import asyncio, os, sys
from pathlib import Path
from natsbridge.bridge.cli.supervisor import Supervisor
async def main():
    supervisor = Supervisor(lambda *_: None, lambda _: None)
    child = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
    async with supervisor.reaped(Path(sys.argv[1])):
        async with supervisor.running({"a": child, "b": child}, dict(os.environ), 5) as children:
            for each in children:
                await supervisor.attend(each.line("ready"))
            print(*(each.process.pid for each in children), flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""


def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    """After a SIGKILL of the parent, the reaper ends the children and removes the folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    with subprocess.Popen(python(KILLED, str(folder)), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    wait_until_gone(children)
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
