"""Publishers and services that mean harm: what they choose costs nobody else an event."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from natsbridge.schemas.subjects import Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, envelope, everyone, next_message, protocol, to_user, with_header
from tests.support.clients import Clients, http, new_user


@contextlib.asynccontextmanager
async def nothing_lost(bridge: BridgeProcess) -> AsyncIterator[None]:
    """See that a client gets each event that is published during the block, in order."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join(query={"direct": "off"})
        await client.subscribe("file.ready")
        address = to_user(client.user, "file.ready", "1")
        done = asyncio.Event()
        ids: list[str] = []

        async def publish() -> None:
            while not done.is_set():
                ids.append(await bus.publish(address))
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        try:
            yield
        finally:
            done.set()
            await publishing
        end = await bus.publish(address)
        received = [message["id"] for message in await client.until(end)]
        assert received == ids, f"{len(set(ids) - {*received})} of {len(ids)} lost"
    async with http(bridge.url) as probe:
        assert (await probe.get("/readyz")).status_code == 200


@pytest.mark.parametrize("payload", [b"wrong", b""])
@pytest.mark.parametrize("size", [600, 2_000, 3_900, 4_020, 4_050])
async def test_long_subjects(bridge: BridgeProcess, size: int, payload: bytes) -> None:
    """A subject as long as the broker takes does no harm on its way in, nor on its way back."""
    async with nothing_lost(bridge), Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        root = bus.subjects.root(Root.SERVICE)
        for place in (f"{root}.all.", f"{root}.user.{client.user}."):
            subject = (place + "x" * 5_000)[:size].encode()
            await protocol(
                bridge.nats_url, b"PUB %s %d\r\n%s\r\n" % (subject, len(payload), payload)
            )
        marker = await bus.publish(everyone("system.notification"))
        assert await client.until(marker) == []


ODD_BYTES = [
    b"\x0b",
    b"\x0c",
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x85",
    b"\xa0",
    b"\xff",
    b"\xe2\x80\xa8",
]


@pytest.mark.parametrize("odd", ODD_BYTES)
async def test_odd_bytes_in_subjects(bridge: BridgeProcess, odd: bytes) -> None:
    """Whatever the broker lets through in a subject reaches nobody, and cuts nothing."""
    event = json.dumps(envelope(everyone("system.notification"))).encode()
    async with nothing_lost(bridge), Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        root = bus.subjects.root(Root.SERVICE).encode()
        for tail in (
            b"a" + odd + b"b",
            odd + odd,
            b"system.notification.-" + odd,
            b"system" + odd + b"notification.-",
            b"system.notification.-" + odd + b"1" + odd + b"5",
        ):
            subject = root + b".all." + tail
            await protocol(bridge.nats_url, b"PUB %s %d\r\n%s\r\n" % (subject, len(event), event))
        marker = await bus.publish(everyone("system.notification"))
        assert await client.until(marker) == []


@pytest.mark.parametrize("blank", [b"\x0b", b"\x0c"])
async def test_forged_recipient(bridge: BridgeProcess, blank: bytes) -> None:
    """Who may publish to ``all`` only can't reach one user by a blank that the broker overlooks."""
    forged = json.dumps(envelope(to_user("x", "upload.error", "1"))).encode()
    async with nothing_lost(bridge), Clients(bridge.url) as clients, Bus(bridge) as bus:
        victim = await clients.join(new_user())
        root = bus.subjects.root(Root.SERVICE).encode()
        for pad in range(0, 40, 3):
            for number in range(12):
                tail = b"x" * pad + b".upload.error.1" + blank + b"i%d" % number
                subject = root + b".all." + tail
                await protocol(
                    bridge.nats_url, b"PUB %s %d\r\n%s\r\n" % (subject, len(forged), forged)
                )
        marker = await bus.marker(victim.user)
        assert await victim.until(marker) == []


FORGED_SUBJECTS = [
    "a b c d e f",
    "a.>",
    "*",
    "",
    "x" * 5_000,
    "{prefix}.events.all." + "x" * 5_000,
    "{prefix}.events.all.a b",
    "{prefix}.commands.upload.cancel.1.1",
    "{prefix}.live.service.all.system.notification.-",
    "$JS.API.STREAM.LIST",
]


@pytest.mark.parametrize("origin", FORGED_SUBJECTS)
async def test_forged_origin(bridge: BridgeProcess, origin: str) -> None:
    """A wrong event with the stream's headers forged goes back under its own roots, or not."""
    async with nothing_lost(bridge), Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        everything = await bus.watch(">")
        subject = bus.subjects.event(Root.SERVICE, everyone("system.notification"))
        headers = {
            "Nats-Stream": bridge.settings["BRIDGE_STREAM"],
            "Nats-Subject": origin.replace("{prefix}", bus.subjects.prefix),
            "Nats-Sequence": "1",
        }
        block = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        data = with_header(subject.encode(), f"NATS/1.0\r\n{block}\r\n".encode(), b"forged")
        await protocol(bridge.nats_url, data)
        marker = await bus.publish(everyone("system.notification"))
        assert await client.until(marker) == []
        rejected = bus.subjects.root(Root.REJECTED)
        seen = []
        while marker.encode() not in (message := await next_message(everything)).data:
            if message.data == b"forged":
                seen.append(message.subject)
        seen.remove(subject)  # as it was published; NATS may write it behind what follows from it
        assert all(
            each.startswith((f"{rejected}.service.", f"{rejected}.stream.")) for each in seen
        )


FORGED_SEQUENCES = ['5","type":"upload.error', "abc", "-1", "9" * 60, "1 2", "1\x0b2", "²", ""]


@pytest.mark.parametrize("sequence", FORGED_SEQUENCES)
async def test_forged_sequence(bridge: BridgeProcess, sequence: str) -> None:
    """Headers can't put anything into what clients read but a cursor in its form."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        address = to_user(client.user, "system.notification")
        event = envelope(address)
        block = f"Nats-Stream: {bridge.settings['BRIDGE_STREAM']}\r\nNats-Sequence: {sequence}\r\n"
        data = with_header(
            bus.subjects.event(Root.SERVICE, address).encode(),
            f"NATS/1.0\r\n{block}\r\n".encode(),
            json.dumps(event).encode(),
        )
        await protocol(bridge.nats_url, data)
        marker = await bus.marker(client.user)
        for message in await client.until(marker):
            assert {**message, "cursor": None} == {**event, "cursor": None}


BROKEN_REPLIES = [
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    b"NATS/1.0",
    b"",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
    b"garbage",
]


@pytest.mark.parametrize("header", BROKEN_REPLIES)
async def test_broken_answers(bridge: BridgeProcess, header: bytes) -> None:
    """A service that answers a command with broken headers costs its own answer at most."""
    async with nothing_lost(bridge), Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = bus.subjects.command("upload.cancel", client.user, "*")
        requests = await bus.watch(subject)
        await client.send("upload.cancel", {"upload_id": "1"}, "c1")
        request = await next_message(requests)
        payload = b'{"accepted": true}'
        await protocol(bridge.nats_url, with_header(request.reply.encode(), header, payload))
        answer = await client.receive(8)
        assert answer["reply_to"] == "c1"
        assert answer["type"] in ("command.accepted", "error")
        await client.ping()


@pytest.fixture(scope="module")
def bridge_settings() -> dict[str, str]:
    """A short wait for answers, some of which never come."""
    return {"BRIDGE_NATS_TIMEOUT": "2"}
