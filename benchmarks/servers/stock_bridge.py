"""The bridge on nats-py's stock parser: what handling messages in place is worth.

``natsbridge.bridge.nats.ingest.install`` is replaced, so that the bridge's subscriptions are
nats-py
subscriptions with a callback each: nats-py's parser, its header parser, its queue and its task.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from natsbridge.bridge.cli import main as cli
from natsbridge.bridge.nats import ingest

_receivers: dict[Client, ingest.Receivers] = {}
_OFFSET = 1_000_000
"""Added to the bridge's numbers, so that they don't meet those that nats-py gives out."""


def _install(client: Client, receivers: ingest.Receivers, *_: object) -> None:
    _receivers[client] = receivers


def _no_tap(*_: object) -> None:
    """Leave nats-py's own reading as it is."""


def _write(client: Client, operations: bytes) -> None:
    """Turn SUB and UNSUB of the bridge's subscriptions into nats-py's; write the rest as it is."""
    out = []
    for line in operations.split(b"\r\n")[:-1]:
        words = line.split()
        if words[0] == b"SUB" and words[-1].startswith(b"i"):
            number = _OFFSET + int(words[-1][1:])
            _subscribe(client, words[1].decode(), words[-1], number)
            line = b"SUB %s  %d" % (words[1], number)
        elif words[0] == b"UNSUB":
            number = _OFFSET + int(words[1][1:])
            client._remove_sub(number)
            line = b"UNSUB %d" % number
        out.append(line + b"\r\n")
    transport: Any = client._transport
    transport.write(b"".join(out))


def _subscribe(client: Client, subject: str, sid: bytes, number: int) -> None:
    receivers = _receivers[client]

    async def receive(message: Msg) -> None:
        deliver = receivers.get(sid)
        if deliver is None:
            return
        headers = message.headers
        block = b""
        if headers and "Nats-Sequence" in headers:
            block = (
                f"Nats-Stream: {headers['Nats-Stream']}\r\n"
                f"Nats-Subject: {headers['Nats-Subject']}\r\n"
                f"Nats-Sequence: {headers['Nats-Sequence']}\r\n"
                f"Nats-Last-Sequence: {headers['Nats-Last-Sequence']}\r\n"
            ).encode()
        deliver(message.subject.encode(), block, message.data)

    subscription = Subscription(
        client,
        number,
        subject,
        cb=receive,
        pending_msgs_limit=1_000_000,
        pending_bytes_limit=1 << 30,
    )
    subscription._start(client._error_cb)  # type: ignore[no-untyped-call]  # nats-py's
    client._subs[number] = subscription


def main() -> int:
    """Run ``natsbridge serve``."""
    vars(ingest).update(install=_install, write=_write, tap=_no_tap)
    return cli.main(["serve"])


if __name__ == "__main__":
    raise SystemExit(main())
