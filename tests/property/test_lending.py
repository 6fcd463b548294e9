"""Frames that go past a transport, and bytes that go through it, on a real connection."""

from __future__ import annotations

import asyncio
import socket
import time

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.delivery.outbox import Flush, Outbox
from natsbridge.bridge.runtime.loop import FairLoop
from natsbridge.bridge.runtime.transport import lend

SIZES = st.integers(1, 300_000)
STEPS = st.one_of(
    st.tuples(st.just("flush"), SIZES),
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("read"), SIZES),
    st.tuples(st.just("turn"), st.just(0)),
)


@given(steps=st.lists(STEPS, max_size=30))
def test_every_byte_comes_in_the_order_in_which_it_was_written(
    steps: list[tuple[str, int]],
) -> None:
    """Whichever way each went, and however much the peer took in between."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        flush = Flush(loop.call_soon, max_frames=100, max_bytes=1 << 20, clock=time.monotonic)
        outbox = Outbox(transport.write, lambda: None)
        lend(transport, outbox)
        written, got = bytearray(), bytearray()
        for number, (kind, size) in enumerate(steps):
            data = number.to_bytes(2, "big") * (size // 2 + 1)
            if kind == "flush":
                flush.offer(outbox, data)
                flush.run()
                written += data
            elif kind == "write":
                transport.write(data)
                written += data
            elif kind == "read" and len(got) < len(written):
                got += await loop.sock_recv(far, size)
            else:
                await asyncio.sleep(0)
            assert (outbox.send is None) == (transport.get_write_buffer_size() > 0)
        async with asyncio.timeout(10):
            while len(got) < len(written):
                got += await loop.sock_recv(far, 1 << 20)
        assert got == written
        transport.close()
        far.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main())
