"""One peer, freshly started with its clients connected, and what a workload costs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from benchmarks.broker import Broker
from benchmarks.load import Load
from benchmarks.peers.base import Client, Peer, Server
from benchmarks.peers.floor import Floor
from benchmarks.processes import Process
from benchmarks.publisher import Publisher
from benchmarks.workload import Shape, Workload

Metrics = dict[str, float]

SETTLE = 0.05
"""Seconds after the last delivery for the server to finish what it is about."""

ENOUGH = 2.0
"""Seconds of sending after which a workload is not sent again."""


class Trial:
    """A context: everything is running inside it, and nothing after it."""

    def __init__(
        self,
        peer: Peer,
        clients: Sequence[Client],
        *,
        connected: int | None = None,
        sample_every: int = 1,
        shape: Shape | None = None,
    ) -> None:
        """``connected`` of the clients connect at the start, all of them without it. ``shape`` is
        what the floor has to write.
        """
        self.peer = peer
        self._clients = clients
        self._connected = len(clients) if connected is None else connected
        self._sample_every = sample_every
        self._shape = shape or Shape()
        self._broker: Broker | None = None
        self._server: Server | None = None
        self._load: Load | None = None
        self._publisher: Publisher | None = None
        self.connects_per_second = 0.0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self) -> None:
        self._broker = Broker()
        self._server = self.peer.start(self._broker)
        self._load = Load(
            self._server.port,
            self.peer.scripts(self._clients),
            marks=self.peer.marks,
            sample_every=self._sample_every,
        )
        self._publisher = Publisher(self._broker.port)
        if self._is_floor:
            self.server.tell(f"serve {self._connected}")
        if self._connected:
            self.connects_per_second = self._load.connect(self._connected)
        if self._is_floor:
            self.server.answer(30)

    def _stop(self) -> None:
        for each in (self._load, self._server, self._broker):
            if each is not None:
                each.stop()
        if self._publisher is not None:
            self._publisher.close()

    @property
    def _is_floor(self) -> bool:
        return isinstance(self.peer, Floor)

    @property
    def server(self) -> Process:
        """The process whose cost is measured: for nats-server's WebSocket, the broker."""
        assert self._server is not None
        return self._server.process or self.broker

    @property
    def broker(self) -> Process:
        """The broker's process."""
        assert self._broker is not None
        return self._broker.process

    @property
    def load(self) -> Load:
        """The load client."""
        assert self._load is not None
        return self._load

    @property
    def publisher(self) -> Publisher:
        """The publisher's connection."""
        assert self._publisher is not None
        return self._publisher

    def measure(
        self, workload: Workload, *, warm_up: Workload | None = None, again: Sequence[Workload] = ()
    ) -> Metrics:
        """Send a workload and return its cost; raises :class:`RuntimeError` if something is lost.

        The warm-up is sent before, and not counted: it gives compilers at run time their chance.
        ``again`` are more of the same, each sent when all of the one before has come, for as long
        as it has not been :data:`ENOUGH`.
        """
        if warm_up is not None:
            self.load.reset()
            self._send(warm_up, warm_up.deliveries)
            time.sleep(SETTLE)
        self.load.reset()
        writes = self._writes()
        cpu = self._cpu()
        began = time.monotonic_ns()
        deliveries, seconds = 0, 0.0
        for each in (workload, *again):
            if seconds > ENOUGH:
                break
            sending = time.monotonic_ns()
            deliveries += each.deliveries
            told, got = self._send(each, deliveries)
            seconds += (got["last"] - sending) / 1e9
        ended = time.monotonic_ns()
        load_cpu = self._cpu()["load"] - cpu["load"]
        time.sleep(SETTLE)
        spent = {name: now - cpu[name] for name, now in self._cpu().items()}
        report = self.load.report()
        writes = max(1, self._writes() - writes)
        metrics: Metrics = {
            "deliveries": got["messages"],
            "cpu_us": spent["server"] / got["messages"] * 1e6,
            "per_second": got["messages"] / seconds,
            "load_share": load_cpu / ((ended - began) / 1e9),
            "wire_bytes": report["bytes"] / got["messages"],
        }
        if not workload.interval:
            metrics["batch"] = deliveries / writes
        if not self._is_floor and self.server is not self.broker:
            metrics["broker_cpu_us"] = spent["broker"] / got["messages"] * 1e6
        if workload.interval:
            metrics["server_share"] = spent["server"] / seconds
            if report["samples"]:
                for name in ("p50", "p99", "p999"):
                    metrics[f"{name}_ms"] = report[name] / 1e6
            metrics |= told
        return metrics

    def _send(self, workload: Workload, upto: int) -> tuple[Metrics, dict[str, int]]:
        """Send a workload; when it has come, ``upto`` deliveries have since the reset."""
        told: Metrics = {}
        if self._is_floor:
            said = workload.write(self.server, self._shape)
            if workload.interval:
                told = {"round_p50_ms": said["p50"] / 1e6, "round_p99_ms": said["p99"] / 1e6}
        else:
            told = {"publisher_late_ms": workload.publish(self.publisher) * 1e3}
        got = self.load.wait(upto, workload.deadline)
        if got["messages"] < upto:
            report = self.load.report()
            raise RuntimeError(
                f"{got['messages']} of {upto} deliveries came, "
                f"{report['closed']} connections were closed (code {report['close_code']})"
            )
        return told, got

    def _writes(self) -> int:
        """Calls of the server that write; by TCP's segments where they are not counted."""
        counted = self.server.writes
        return int(self.load.report()["segments"]) if counted is None else counted

    def _cpu(self) -> dict[str, float]:
        return {
            "server": self.server.cpu,
            "broker": self.broker.cpu,
            "load": self.load.process.cpu + time.process_time(),
        }
