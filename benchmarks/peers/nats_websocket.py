"""nats-server's own WebSocket: clients speak the NATS protocol in frames; no token, no check."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.broker import Broker
from benchmarks.load import Script, request, text
from benchmarks.peers.base import Client, Server

_CONNECT = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,'
    b'"lang":"bench","version":"1","protocol":1}\r\n'
)
_BINARY = 2


class NatsWebSocket:
    """The broker itself is the server. Its frames hold several messages each."""

    name = "nats"
    label = "nats-server's WebSocket"
    root = "live"
    marks = True

    def missing(self) -> str | None:
        return None

    def start(self, broker: Broker) -> Server:
        return Server(broker.websocket_port, None)

    def scripts(self, clients: Sequence[Client]) -> list[Script]:
        scripts: list[Script] = []
        for client in clients:
            subjects = [f"live.user.{client.user}.>", "live.all.>"]
            for topic in client.topics:
                if topic.count(".") == 2 and topic.rpartition(".")[0] in client.topics:
                    continue  # it would get each such event twice
                subjects.append(f"live.topic.{topic}" + (".*" if topic.count(".") == 1 else ""))
            subs = "".join(f"SUB {each} {at}\r\n" for at, each in enumerate(subjects, 1))
            hello = text(_CONNECT + subs.encode() + b"PING\r\n", _BINARY)
            scripts.append([(b"", request("/")), (b"INFO ", hello), (b"PONG", b"")])
        return scripts
