"""A TCP proxy that can be a bad network: it cuts, refuses, delays, throttles and swallows.

It runs in a thread with an event loop of its own, so that it goes on while a test's loop is busy or
blocked. What a test asks of it has happened when the call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

CHUNK: Final = 1 << 16
IN_FLIGHT: Final = 64
"""How many chunks of one direction are on their way at most, each as long as the delay says."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close an RST."""

CALL_DEADLINE: Final = 10.0
FIN_DEADLINE: Final = 5.0
"""How long the rest of a connection that was ended with FIN is still read, in seconds."""


class Proxy:
    """Forwards TCP connections from a port of its own to one endpoint; a context manager."""

    def __init__(self, target: str) -> None:
        """Take the URL, or ``host:port``, of the endpoint; nothing listens before the block."""
        place = urlsplit(target if "//" in target else f"//{target}")
        assert place.hostname is not None
        assert place.port is not None
        self._scheme = place.scheme
        self._target = (place.hostname, place.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._reserved = socket.socket()
        self._listener: socket.socket | None = None
        self._links: set[_Link] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.accepted = 0
        """How many connections ever came."""
        self.delay = 0.0
        """Seconds that each byte is on its way; may be set at any time."""
        self.rate = 0
        """Bytes a second in each direction of each connection, 0 for no limit."""

    def __enter__(self) -> Self:
        # A socket that never listens keeps the port while it is refused.
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_DEADLINE)
        self._loop.close()
        self._reserved.close()

    @property
    def url(self) -> str:
        """The way through the proxy, with the scheme of the target's URL."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def cut(self, *, reset: bool = True) -> int:
        """End every connection, with RST or with FIN; return how many. New ones are served."""
        return self._call(self._cut(reset))

    def refuse(self, *, reset: bool = True) -> int:
        """End every connection, and refuse new ones until :meth:`heal`."""
        self._call(self._deafen())
        return self.cut(reset=reset)

    def retarget(self, target: str) -> None:
        """Forward new connections to another endpoint; those that are open stay where they are."""
        place = urlsplit(target if "//" in target else f"//{target}")
        assert place.hostname is not None
        assert place.port is not None
        self._target = (place.hostname, place.port)

    def swallow(self) -> None:
        """Be a black hole: connections stay open, new ones are accepted, nothing is forwarded."""
        self._loop.call_soon_threadsafe(self._flowing.clear)
        self._call(_nothing())

    def heal(self) -> None:
        """Be a good network again. What was swallowed arrives late, as TCP would send it again."""
        self.delay, self.rate = 0.0, 0
        self._loop.call_soon_threadsafe(self._flowing.set)
        self._call(self._listen())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_DEADLINE)

    # In the proxy's own thread.

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._listener.setblocking(False)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(1024)
        self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _deafen(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        # Not by a task, whose end could lose a connection that it has just been given.
        try:
            client, _ = listener.accept()
        except OSError:
            return  # gone again
        self.accepted += 1
        link = _Link(client)
        link.task = self._loop.create_task(self._serve(link))
        self._links.add(link)

    async def _serve(self, link: _Link) -> None:
        try:
            await self._flowing.wait()
            await self._loop.sock_connect(link.server, self._target)
            async with asyncio.TaskGroup() as group:
                for source, sink in ((link.client, link.server), (link.server, link.client)):
                    way: _Way = asyncio.Queue(IN_FLIGHT)
                    group.create_task(self._read(source, way))
                    group.create_task(self._write(sink, way))
        except* OSError:
            link.reset = True
        finally:
            self._links.discard(link)
            if link.reset:
                link.close()
            else:
                link.finish()
                ending = self._loop.create_task(link.read_rest())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def _read(self, source: socket.socket, way: _Way) -> None:
        data = b"-"
        while data:
            await self._flowing.wait()
            chunk = min(CHUNK, max(1, self.rate // 20)) if self.rate else CHUNK
            data = await self._loop.sock_recv(source, chunk)
            await way.put((self._loop.time() + self.delay, data))

    async def _write(self, sink: socket.socket, way: _Way) -> None:
        while True:
            due, data = await way.get()
            if (left := due - self._loop.time()) > 0:
                await asyncio.sleep(left)
            await self._flowing.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, data)
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)

    async def _cut(self, reset: bool) -> int:
        links = list(self._links)
        for link in links:
            link.reset = reset
            link.task.cancel()
        if links:
            await asyncio.wait([link.task for link in links])
        for link in self._links.intersection(links):
            # Cancelled before its first step, so that nobody else closes it.
            self._links.discard(link)
            link.close()
        return len(links)

    async def _stop(self) -> None:
        await self._deafen()
        await self._cut(reset=True)
        for task in self._ending:
            task.cancel()
        if self._ending:
            await asyncio.wait(self._ending)


_Way = asyncio.Queue[tuple[float, bytes]]
"""What is on its way in one direction, with the time at which it arrives; empty at the end."""


class _Link:
    """The two sockets of one connection."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server = socket.socket()
        self.client.setblocking(False)
        self.server.setblocking(False)
        self.reset = False
        self.task: asyncio.Task[None]

    def close(self) -> None:
        """Close both, with an RST where that is set."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                if self.reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()

    def finish(self) -> None:
        """Send FIN both ways."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)

    async def read_rest(self) -> None:
        """Read until both peers have ended too: a close with unread data would be an RST."""
        loop = asyncio.get_running_loop()
        try:
            for end in (self.client, self.server):
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(FIN_DEADLINE):
                        while await loop.sock_recv(end, CHUNK):
                            pass
        finally:
            self.close()


async def _nothing() -> None:
    """Run after all that was asked of the loop before."""
