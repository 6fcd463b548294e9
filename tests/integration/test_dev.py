"""``natsbridge dev`` as a developer runs it: everything comes up, and nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

READY_SECONDS = 5.0
DEADLINE = 20.0
LAST_LINE = "Ctrl-C ends all of it."


class Program:
    """A command of ours in a process group of its own; what it says is read line by line."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env={**own_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.out)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.err)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, pattern: str, seconds: float = DEADLINE) -> re.Match[str]:
        """Return the first line, of either stream, not looked at so far that matches."""
        deadline = time.monotonic() + seconds
        open_streams = 2
        while open_streams:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} in {seconds} s: {self.told}") from None
            if line is None:
                open_streams -= 1
            elif found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended without {pattern!r}: {self.told}")

    def end(self, number: int = signal.SIGINT) -> int:
        """Signal the whole group, as a terminal does, and return the exit code."""
        os.killpg(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code; everything that was said is then in ``out`` and ``err``."""
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return code

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @property
    def told(self) -> str:
        return "\n".join([*self.out, "--", *self.err])

    @property
    def children(self) -> dict[int, str]:
        """The processes that this one has started, with their command lines."""
        return {
            pid: command
            for pid, parent, command in processes()
            if parent == self.process.pid and not command.startswith("ps ")
        }


Start = Callable[..., Program]


def own_environment() -> dict[str, str]:
    """Return this process's environment without settings of the bridge."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}


def bridge(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "natsbridge.bridge.cli", *arguments]


def dev_command(*options: str) -> list[str]:
    """``natsbridge dev`` on ports that are free."""
    return bridge("dev", "--port", "0", "--nats-port", "0", *options)


def free_port() -> int:
    """A port that nobody has now; the system does not give it to others soon."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def processes() -> Iterator[tuple[int, int, str]]:
    told = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in told.stdout.splitlines():
        pid, parent, state, command = line.split(None, 3)
        if not state.startswith("Z"):
            yield int(pid), int(parent), command


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what no event tells of: the end of processes that are not our children."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def gone(pids: Mapping[int, str]) -> bool:
    return not {pid for pid, _, _ in processes()} & set(pids)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(*command, **environment)``; temporary folders of the program are in ``tmp``."""
    programs: list[Program] = []
    (tmp_path / "tmp").mkdir()

    def begin(*command: str, **environment: str) -> Program:
        program = Program(list(command), {"TMPDIR": str(tmp_path / "tmp"), **environment})
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def temporary(tmp_path: Path) -> Callable[[], list[str]]:
    """What is in the program's temporary folder now."""
    return lambda: sorted(each.name for each in (tmp_path / "tmp").iterdir())


def one_line(program: Program) -> str:
    """Return the one line of an error, with nothing else said."""
    assert program.out == []
    assert len(program.err) == 1, program.told
    assert program.err[0].startswith("natsbridge: ")
    return program.err[0]


async def test_demo_from_start_to_ctrl_c(start: Start, temporary: Callable[[], list[str]]) -> None:
    """It is ready within 5 s, its token gets live events of the samples, its admin token the
    stats, the command it prints works, and Ctrl-C to the whole group leaves nothing behind.
    """
    begin = time.monotonic()
    dev = start(*dev_command())
    url = dev.wait_for(r"WebSocket +(ws://127\.0\.0\.1:\d+/ws)$")[1]
    token = dev.wait_for(r"^  token +(\S+) \(user 42\)$")[1]
    admin = dev.wait_for(r"^  admin token +(\S+)$")[1]
    command = dev.wait_for(r"^  (.*bridge.* tail .*'upload\.\*')$")[1]
    dev.wait_for(re.escape(LAST_LINE))
    assert time.monotonic() - begin < READY_SECONDS
    children = dev.children
    assert len(children) == 6, children
    assert len(temporary()) == 1

    async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        established = json.loads(await socket.recv())
        assert established["data"]["user_id"] == "42"
        kinds = set()
        while "upload.progress" not in kinds:
            event = json.loads(await socket.recv())
            kinds.add(event["type"])

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {admin}"}) as http:
        answer = await http.get(url.replace("ws://", "http://") + "/stats")
    assert answer.json()["status"] == "success"

    tail = start(*shlex.split(command), "--count", "2")
    assert tail.wait() == 0, tail.told
    assert len(tail.out) == 2
    assert all(" upload." in line for line in tail.out)

    assert dev.end(signal.SIGINT) == 0
    assert dev.err == []
    assert "Traceback" not in dev.told
    assert gone(children)
    assert temporary() == []


def test_sigterm_stops_all(start: Start, temporary: Callable[[], list[str]]) -> None:
    """SIGTERM to the one process does the same; without samples there are three children."""
    dev = start(*dev_command("--no-samples"))
    dev.wait_for(re.escape(LAST_LINE))
    children = dev.children
    assert len(children) == 3, children
    dev.process.terminate()
    assert dev.wait() == 0
    assert dev.err == []
    assert gone(children)
    assert temporary() == []


def test_ctrl_c_during_the_start_stops_what_runs(
    start: Start, temporary: Callable[[], list[str]]
) -> None:
    """A stop that comes before everything is up is a stop, and leaves nothing behind."""
    dev = start(*dev_command("--verbose"))
    dev.wait_for("Server is ready")
    assert dev.end(signal.SIGINT) == 0
    assert LAST_LINE not in dev.out
    assert "Traceback" not in dev.told
    assert temporary() == []


def test_taken_port_is_one_line(start: Start, temporary: Callable[[], list[str]]) -> None:
    """A port that is taken is told at once, before anything starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        dev = start(*bridge("dev", "--port", str(port), "--nats-port", "0"))
        assert dev.wait() == 2
    assert f"port {port}" in one_line(dev)
    assert temporary() == []


def test_taken_nats_port_is_one_line(start: Start, temporary: Callable[[], list[str]]) -> None:
    """So is that of the broker, with the flag that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        dev = start(*bridge("dev", "--port", "0", "--nats-port", str(port)))
        assert dev.wait() == 2
    assert f"port {port}" in one_line(dev)
    assert "--nats-port" in one_line(dev)
    assert temporary() == []


async def test_what_somebody_goes_on_with(start: Start) -> None:
    """The broker listens on the port that was asked for, which is printed; pages of any server on
    this machine may connect and no others, and no name but this machine's own is answered, over
    HTTP and WebSocket: a page that comes by a name of its own reaches nothing.
    """
    port = free_port()
    dev = start(*bridge("dev", "--port", "0", "--nats-port", str(port), "--no-samples"))
    url = dev.wait_for(r"WebSocket +(ws://127\.0\.0\.1:\d+/ws)$")[1]
    admin = dev.wait_for(r"^  admin token +(\S+)$")[1]
    dev.wait_for(re.escape(LAST_LINE))
    assert f"  NATS         nats://127.0.0.1:{port}, no sample services" in dev.out
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as nats:
        assert nats.recv(5).startswith(b"INFO")

    base = url.replace("ws://", "http://").removesuffix("/ws")
    bearer = {"Authorization": f"Bearer {admin}"}
    own = base.removeprefix("http://")
    async with httpx.AsyncClient(headers=bearer) as http:
        for host, status in (
            (own, 200),
            ("localhost", 200),
            ("[::1]:1", 200),
            ("evil.example", 421),
            (f"127.0.0.1.evil.example:{port}", 421),
        ):
            for path in ("/ws/stats", "/livez", "/docs"):
                answer = await http.get(base + path, headers={"Host": host})
                assert answer.status_code == status, (host, path)
    for origin in ("http://localhost:5173", "http://127.0.0.1:3000", base, None):
        async with connect(url, additional_headers=bearer, origin=origin) as client:
            assert json.loads(await client.recv())["type"] == "connection.established"
    handshake = {
        **bearer,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with httpx.AsyncClient(headers=handshake) as http:
        for header, foreign, status in (
            ("Origin", "http://evil.example", 403),
            ("Origin", "http://localhost.evil.example:5173", 403),
            ("Host", "evil.example", 421),
        ):
            answer = await http.get(base + "/ws", headers={header: foreign})
            assert answer.status_code == status, foreign
    assert dev.end() == 0


def test_wrong_setting_is_one_line(start: Start) -> None:
    """A setting that can't be used is named, before anything starts."""
    dev = start(*bridge("dev"), BRIDGE_MAX_CONNECTIONS="none")
    assert dev.wait() == 2
    assert "BRIDGE_MAX_CONNECTIONS" in one_line(dev)


@pytest.mark.parametrize(
    ("part", "name", "options"),
    [
        ("nats-server", "nats-server", ["--no-samples"]),
        ("natsbridge.bridge.cli serve", "bridge", ["--no-samples"]),
        ("natsbridge.publishers.samples.review", "review sample", []),
    ],
)
def test_a_child_that_dies_is_named_and_the_rest_stops(
    part: str,
    name: str,
    options: list[str],
    start: Start,
    temporary: Callable[[], list[str]],
) -> None:
    """When one process ends by itself it is named, and everything else is stopped."""
    dev = start(*dev_command(*options))
    dev.wait_for(re.escape(LAST_LINE))
    children = dev.children
    [victim] = [
        pid for pid, command in children.items() if part in command and "reaper.py" not in command
    ]
    os.kill(victim, signal.SIGKILL)
    assert dev.wait() == 1
    assert f"process {name} ended by itself (SIGKILL)" in dev.err[0]
    assert "Traceback" not in dev.told
    assert gone(children)
    assert temporary() == []


def test_a_start_that_fails_says_why(start: Start, tmp_path: Path) -> None:
    """When a process does not come up, its last words are told."""
    dev = start(*dev_command(), BRIDGE_CATALOGUE="no_such_module")
    assert dev.wait() == 1
    assert dev.out == []
    assert "process bridge ended by itself (exit code 2)" in dev.err[0]
    assert any("no_such_module" in line for line in dev.err[1:])


def test_nothing_is_left_when_it_is_killed(
    start: Start, temporary: Callable[[], list[str]]
) -> None:
    """After a SIGKILL the reaper ends the others and removes the folder."""
    dev = start(*dev_command("--no-samples"))
    dev.wait_for(re.escape(LAST_LINE))
    children = dev.children
    assert dev.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: gone(children), "processes are left")
    wait_until(lambda: temporary() == [], "the folder is left")


def test_data_is_kept_and_used_by_one(
    start: Start, tmp_path: Path, temporary: Callable[[], list[str]]
) -> None:
    """``--data`` keeps what the broker stores for the next run, and takes one run at a time."""
    data = str(tmp_path / "data")
    command = dev_command("--no-samples", "--data", data)
    event = ("review.deleted", '{"review_id": "r1"}', "--topic")

    def publish(program: Program) -> str:
        url = program.wait_for(r"NATS +(nats://\S+?),?\s")[1]
        program.wait_for(re.escape(LAST_LINE))
        publishing = start(*bridge("publish", *event), BRIDGE_NATS_URL=url)
        assert publishing.wait() == 0, publishing.told
        return publishing.out[0]

    first = start(*command)
    assert "stored in EVENTS as 1:" in publish(first)
    second = start(*command)
    assert second.wait() == 2
    assert "in use" in one_line(second)
    assert first.end() == 0

    third = start(*command)
    assert "stored in EVENTS as 2:" in publish(third)
    assert third.end() == 0
    assert temporary() == []
    assert not list(Path(data).glob("*.ports"))


def test_data_stays_locked_until_the_broker_is_gone(start: Start, tmp_path: Path) -> None:
    """After a SIGKILL the next run may use the data only once the old broker does not."""
    data = str(tmp_path / "data")
    command = dev_command("--no-samples", "--data", data)
    first = start(*command)
    first.wait_for(re.escape(LAST_LINE))
    [reaper] = [pid for pid, line in first.children.items() if "reaper.py" in line]
    others = {pid: line for pid, line in first.children.items() if pid != reaper}
    os.kill(reaper, signal.SIGSTOP)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = start(*command)
    assert second.wait() == 2
    assert "in use" in one_line(second)
    os.kill(reaper, signal.SIGCONT)
    wait_until(lambda: gone(others | {reaper: ""}), "processes are left")
    third = start(*command)
    third.wait_for(re.escape(LAST_LINE))
    assert third.end() == 0
