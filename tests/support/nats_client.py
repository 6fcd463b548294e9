"""A stand-in for nats-py's client, as far as the bridge's parser calls it; writes down each call.

Nothing here waits, so :func:`run` can take a parse to its end without an event loop.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Final, Protocol

from natsbridge.bridge.nats.ingest import Ingest, Receive

Call = tuple[Any, ...]


class Waiter(Protocol):
    """What may stand in nats-py's list of those who wait for a PONG."""

    def done(self) -> bool: ...

    def set_result(self, result: bool, /) -> None: ...


class ScriptedClient:
    """Holds what nats-py's parser and the bridge's touch, and one list of all calls in order."""

    def __init__(self) -> None:
        self.calls: Final[list[Call]] = []
        self._pongs: list[Waiter] = []
        self._pongs_received = 0
        self._pings_outstanding = 0
        self._resp_sub_prefix: bytearray | None = None
        self._resp_map: dict[str, Any] = {}
        self._subs: dict[int, Any] = {}

    @property
    def waiting(self) -> list[Waiter]:
        """Who waits for a PONG, the first to get one first."""
        return self._pongs

    @property
    def pongs(self) -> int:
        """How many PONGs were counted."""
        return self._pongs_received

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        # nats-py takes no headers and an empty block alike.
        block = bytes(headers or b"")
        self.calls.append(("nats", sid, bytes(subject), bytes(reply), bytes(data), block))

    async def _process_ping(self) -> None:
        self.calls.append(("ping",))

    async def _process_info(self, info: Any) -> None:
        self.calls.append(("info", info))

    async def _process_err(self, text: str) -> None:
        self.calls.append(("error", text))


class Pong:
    """Waits for one PONG and writes it down among the calls."""

    def __init__(self, client: ScriptedClient) -> None:
        self._client = client

    def done(self) -> bool:
        return False

    def set_result(self, result: bool, /) -> None:
        self._client.calls.append(("pong",))


class Everyone(Mapping[bytes, Receive]):
    """Receivers for every subscription id there may be, which write down among the calls."""

    def __init__(self, client: ScriptedClient) -> None:
        self._calls = client.calls

    def __getitem__(self, sid: bytes) -> Receive:
        def receive(subject: bytes, headers: bytes, payload: bytes) -> None:
            self._calls.append(("own", sid, subject, headers, payload))

        return receive

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __len__(self) -> int:
        return 0


def scripted(
    pongs: int = 0, receivers: Mapping[bytes, Receive] | None = None
) -> tuple[ScriptedClient, Ingest]:
    """Return a client and the bridge's parser on it; so many wait for a PONG."""
    client = ScriptedClient()
    client.waiting.extend(Pong(client) for _ in range(pongs))
    receivers = Everyone(client) if receivers is None else receivers
    return client, Ingest(client, receivers)  # type: ignore[arg-type]  # a stand-in


def run(parsing: Coroutine[Any, Any, None]) -> None:
    """Take a coroutine that never waits to its end."""
    try:
        parsing.send(None)
    except StopIteration:
        return
    raise AssertionError("the parser waits for something")


def feed(parser: Ingest, *chunks: bytes) -> None:
    """Parse these reads, one after the other."""
    for chunk in chunks:
        run(parser.parse(chunk))
