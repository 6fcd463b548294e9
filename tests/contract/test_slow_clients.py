"""Clients that do not read: what waits for them is bounded, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
import time

from schemas import codes
from schemas.subjects import Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, envelope, everyone, to_user
from tests.support.clients import Clients, mint, new_user
from tests.support.lean import CLOSE, TEXT, LeanClient

EVENTS = 800
PADDING = "x" * 30_000
"""Together far more than what the kernel holds for a connection."""


async def test_nothing_is_dropped_without_a_word(bridge: BridgeProcess) -> None:
    """A stalled client reads all up to some event and then 4002; others get every event."""
    user = new_user()
    numbers: list[int] = []
    close = bytearray()
    opened, closed = asyncio.Event(), asyncio.Event()

    def on_frame(opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            close.extend(payload)
            closed.set()
        elif opcode == TEXT:
            message = json.loads(payload)
            if message["type"] == "connection.established":
                opened.set()
            else:
                numbers.append(message["data"]["result"]["number"])

    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        other = await clients.join(user)
        stalled = await LeanClient.connect(bridge.url, f"/ws/{mint(user)}", on_frame)
        try:
            async with asyncio.timeout(5):
                await opened.wait()
            stalled.transport.pause_reading()
            for number in range(EVENTS):
                result = {"number": number, "padding": PADDING}
                data = {"upload_id": "1", "result": result}
                event = await bus.publish(to_user(user, "upload.completed", "1"), data)
                await other.expect_event(event)
            stalled.transport.resume_reading()
            async with asyncio.timeout(10):
                await closed.wait()
            assert close[:2] == codes.SLOW_CONSUMER.code.to_bytes(2, "big")
            assert close[2:].decode() == codes.SLOW_CONSUMER.name
            assert 0 < len(numbers) < EVENTS
            assert numbers == list(range(len(numbers)))
            await other.ping()
        finally:
            stalled.transport.abort()


async def test_stalled_clients_delay_nobody(bridge: BridgeProcess) -> None:
    """With many clients that never read, the others' events come as they are published."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        reader = await clients.join()
        stalled = [
            await LeanClient.connect(bridge.url, f"/ws/{mint(new_user())}", lambda *_: None)
            for _ in range(20)
        ]
        for client in stalled:
            client.transport.pause_reading()
        try:
            address = everyone("system.notification")
            subject = bus.subjects.event(Root.LIVE, address)
            worst = 0.0
            for _ in range(300):
                event = envelope(address, {"message": "x" * 60_000})
                before = time.monotonic()
                await bus.connection.publish(subject, json.dumps(event).encode())
                await reader.expect_event(event["id"])
                worst = max(worst, time.monotonic() - before)
            assert worst < 1
            await reader.ping()
        finally:
            for client in stalled:
                client.transport.abort()
