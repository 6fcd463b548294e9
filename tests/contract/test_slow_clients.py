"""Clients that do not read: what waits for them is bounded, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from schemas.subjects import Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, envelope, everyone, to_user
from tests.support.clients import Clients, mint, new_user
from tests.support.lean import CLOSE, TEXT, LeanClient

EVENTS = 800
PADDING = "x" * 30_000
"""Together far more than what the kernel holds for a connection."""


async def test_newest_of_each_is_kept(bridge: BridgeProcess) -> None:
    """A stalled client finds the newest ``upload.progress`` of each upload when it reads again.

    Meanwhile other clients get every event, and what the stalled one gets is in order.
    """
    user = new_user()
    messages: list[dict[str, Any]] = []
    news = asyncio.Event()

    def on_frame(opcode: int, payload: bytes) -> None:
        if opcode in (TEXT, CLOSE):
            messages.append(json.loads(payload) if opcode == TEXT else {"type": "close"})
            news.set()

    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        other = await clients.join(user)
        stalled = await LeanClient.connect(bridge.url, f"/ws/{mint(user)}", on_frame)
        try:
            while not messages:
                await news.wait()
            stalled.transport.pause_reading()
            for number in range(EVENTS):
                upload = str(number % 2)
                data = {"upload_id": upload, "progress": 1, "number": number, "padding": PADDING}
                address = to_user(user, "upload.progress", upload)
                event = await bus.publish(address, data)
                message = await other.expect_event(event)
                assert message["data"]["number"] == number
            stalled.transport.resume_reading()
            newest = {"0": EVENTS - 2, "1": EVENTS - 1}
            async with asyncio.timeout(20):
                while latest(messages) != newest:
                    news.clear()
                    await news.wait()
            for upload in newest:
                numbers = [each for each, of in progress(messages) if of == upload]
                assert numbers == sorted(set(numbers))
            assert len(progress(messages)) < EVENTS, "the client was not slow at all"
            assert all(each["type"] != "close" for each in messages)
            await other.ping()
        finally:
            stalled.transport.abort()


def progress(messages: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return number and upload of each progress event."""
    events = [each["data"] for each in messages if each["type"] == "upload.progress"]
    return [(data["number"], data["upload_id"]) for data in events]


def latest(messages: list[dict[str, Any]]) -> dict[str, int]:
    """Return the newest number of each upload."""
    return {upload: number for number, upload in progress(messages)}


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
