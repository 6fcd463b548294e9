"""``websocket-client``, whose interface blocks: a thread reads and another one sends."""

from __future__ import annotations

import os
import queue
import ssl
import sys
import threading
import time

import websocket
from driver import HEARTBEAT, PAUSE, filled, pieces, say


class Connection:
    """One connection and its two threads."""

    def __init__(self, name: str, rest: str) -> None:
        self.name = name
        self.commands: queue.Queue[tuple[str, str]] = queue.Queue()
        self.is_over = False
        self._rest = rest
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        url, token, protocols, origin = self._rest.split(" ")
        self.socket = websocket.WebSocket(
            sslopt={"ca_certs": os.environ["CLIENT_CA"], "cert_reqs": ssl.CERT_REQUIRED},
            enable_multithread=True,
        )
        try:
            self.socket.connect(
                url,
                header=[] if token == "-" else [f"Authorization: Bearer {token}"],
                subprotocols=None if protocols == "-" else protocols.split(","),
                # It sends the URL's own otherwise, as a browser would.
                **({"suppress_origin": True} if origin == "-" else {"origin": origin}),
            )
        except websocket.WebSocketBadStatusException as refused:
            say("failed", self.name, refused.status_code)
            return
        except (OSError, websocket.WebSocketException):
            say("failed", self.name, 0)
            return
        say("open", self.name, self.socket.subprotocol or "-")
        threading.Thread(target=self._work, daemon=True).start()
        code, reason = 1006, ""
        try:
            while True:
                opcode, data = self.socket.recv_data(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    say("text", self.name, data.decode())
                elif opcode == websocket.ABNF.OPCODE_PONG:
                    say("pong", self.name)
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    code, reason = int.from_bytes(data[:2], "big"), data[2:].decode()
                    break
        except (OSError, websocket.WebSocketException) as problem:
            reason = repr(problem)
        self.is_over = True
        say("closed", self.name, code, reason)
        self.socket.shutdown()

    def _work(self) -> None:
        while not self.is_over:
            command, rest = self.commands.get()
            try:
                self._obey(command, rest)
            except (OSError, websocket.WebSocketException) as problem:
                say("trouble", self.name, repr(problem))

    def _obey(self, command: str, rest: str) -> None:
        if command == "send":
            self.socket.send(rest)
        elif command == "fill":
            self.socket.send(filled(int(rest)))
        elif command == "parts":
            count, text = rest.split(" ", 1)
            parts = pieces(int(count), text)
            for number, part in enumerate(parts):
                kind = websocket.ABNF.OPCODE_CONT if number else websocket.ABNF.OPCODE_TEXT
                last = int(number == len(parts) - 1)
                self.socket.send_frame(websocket.ABNF.create_frame(part, kind, last))
        elif command == "ping":
            self.socket.ping()
        elif command == "flood":
            while not self.is_over:
                self.socket.send(HEARTBEAT)
                time.sleep(PAUSE)
        elif command == "close":
            self.socket.send_close()


def main() -> None:
    """Obey standard input until its end."""
    say("can", "header origin status parts ping")
    connections: dict[str, Connection] = {}
    for line in sys.stdin:
        command, name, *rest = line.rstrip("\n").split(" ", 2)
        text = rest[0] if rest else ""
        if command == "connect":
            connections[name] = Connection(name, text)
        else:
            connections[name].commands.put((command, text))
    os._exit(0)


main()
