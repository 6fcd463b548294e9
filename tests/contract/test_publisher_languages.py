"""Whatever a publisher of any language sends, it is told of or delivered: nothing is silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import pytest
from nats.errors import NoRespondersError

from natsbridge.schemas.subjects import Audience, Root, encode_id
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus, next_message
from tests.support.clients import Clients
from tests.support.languages import DELIVERED, DONE, PLAIN, REFUSED, TRACE, Case, cases

CASES = cases()
TOO_LARGE = 10054
SPLICED = re.compile(rb'(?:,"traceparent":"([^"\\]+)")?(?:,"cursor":"([^"\\]+)")?}$')


def test_the_table_is_large_and_its_names_tell_cases_apart() -> None:
    """So that none is left out by accident."""
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
    assert {DELIVERED, REFUSED} < {case.ends for case in CASES}


def place(case: Case, user: str) -> str:
    """Return what of the subject stands before the type."""
    return f"user.{encode_id(user)}" if case.audience is Audience.USER else str(case.audience)


async def publish(bus: Bus, subject: str, case: Case) -> bool:
    """Publish as any client does; return whether NATS took it."""
    headers = case.headers or None
    if not case.stored:
        await bus.raw(subject, case.payload, headers)
        return True
    try:
        answer = await bus.connection.request(subject, case.payload, timeout=5, headers=headers)
    except NoRespondersError:
        return False
    receipt: dict[str, Any] = json.loads(answer.data)
    if "error" in receipt:
        assert receipt["error"]["err_code"] == TOO_LARGE, receipt
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_is_delivered_refused_or_rejected(bridge: BridgeProcess, case: Case) -> None:
    """A receiver reads the very bytes, but for cursor and trace; or NATS says no to the publisher;
    or the event comes back with its reason on subjects that its owner may subscribe to.
    """
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        await client.subscribe("upload.*", "review.*", "file.*", "user.*", "system.*")
        rejected = bus.subjects.root(Root.REJECTED)
        domain = case.tail.partition(".")[0]
        backs = [
            await bus.watch(f"{rejected}.*.{audience}.{domain}.>")
            for audience in ("user.*", "topic", "all")
        ]
        root = bus.subjects.root(Root.EVENTS if case.stored else Root.SERVICE)
        taken = await publish(bus, f"{root}.{place(case, client.user)}.{case.tail}", case)
        assert taken is (case.ends != REFUSED)
        returned = []
        if case.ends not in (DELIVERED, REFUSED):
            back = backs[("user", "topic", "all").index(str(case.audience))]
            returned.append(await next_message(back))
        marker = await bus.marker(client.user, Root.EVENTS if case.stored else Root.SERVICE)
        texts = []
        while marker not in (text := await client.receive_text()):
            texts.append(text.encode())
        await bus.settle()
        assert sum(back.pending_msgs for back in backs) == 0
        if case.ends == DELIVERED:
            (delivered,) = texts
            added = SPLICED.search(delivered) if case.stored or case.gains else None
            if added is not None:
                assert (added[1] or b"").decode() == case.gains
                assert (added[2] is not None) is case.stored
                delivered = delivered[: added.start()] + b"}"
            assert delivered == (case.payload.rstrip() if added else case.payload)
            return
        # Of the stream's events a client is told that one is missing.
        assert {json.loads(each)["type"] for each in texts} <= ({"gap"} if case.stored else set())
        for message in returned:
            assert message.headers is not None
            assert message.headers["Bridge-Reject-Reason"] == case.ends, message.headers
            assert message.headers["Bridge-Reject-Detail"]
            assert message.data == case.payload


async def test_a_replay_gives_what_came_live(bridge: BridgeProcess) -> None:
    """The trace of the headers too: a client reads the same, whenever it comes."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = f"{bus.subjects.root(Root.EVENTS)}.user.{client.user}.upload.completed.u1"
        headers = {"Nats-Msg-Id": f"{client.user}-1", "Traceparent": TRACE, "X-Mine": "x"}
        await bus.store(subject, DONE, headers)
        live = await client.receive_text()
        assert f'"traceparent":"{TRACE}"' in live
        told = json.loads(live)
        stream, sequence, *_ = told.pop("cursor").split("-")
        # What its headers contradict is not delivered, live or later.
        await bus.store(subject, DONE, {"Bridge-Schema": "upload.error@1", "Nats-Msg-Id": "other"})
        before = f"{stream}-{int(sequence) - 1}"
        again = await clients.join(client.user, query={"cursor": before})
        replayed = []
        while (message := await again.receive())["type"] != "resume.completed":
            replayed.append(message)
        (event,) = [each for each in replayed if each["type"] == "upload.completed"]
        assert event.pop("cursor")
        assert event == told


async def test_the_log_tells_owners_what_is_wrong(bridge: BridgeProcess) -> None:
    """The type that is not known, where it would have to be named, and who sent it."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = f"{bus.subjects.root(Root.SERVICE)}.user.{client.user}.invoice.paid.i1"
        payload = PLAIN[:-1] + b', "source": "billing", "data": {"amount": 990}}'
        told = re.compile(r".*event rejected.*invoice\.paid.*billing.*")
        async with asyncio.timeout(60):
            # Right behind the table its line is one of a flood, which is summed up.
            while not told.search(bridge.output):
                await bus.raw(subject, payload)
                await client.expect_event(await bus.marker(client.user))
                with contextlib.suppress(AssertionError):
                    await asyncio.to_thread(bridge.wait_for_line, told, 2)
        line = bridge.wait_for_line(told, 5)[0]
        assert "UNKNOWN_EVENT" in line
        assert "BRIDGE_CATALOGUE" in line
        assert "billing" in line
        assert "990" not in line
        assert "RejectReason" not in line
