"""What comes on the control subjects, from somebody who may publish there and is no bridge."""

from __future__ import annotations

import json
import re
import time

from nats.aio.msg import Msg

from natsbridge.schemas.subjects import Root
from tests.support.bridge import BridgeProcess
from tests.support.bus import Bus
from tests.support.clients import Clients, http, mint, new_user

NOTICE = {"type": "system.notice", "data": {}}


def ignored(metrics: str) -> int:
    """How many control messages the bridge has not taken."""
    counts = re.findall(r"^bridge_control_ignored_total\{.*\} (\S+)$", metrics, re.MULTILINE)
    return sum(int(float(each)) for each in counts)


async def test_a_flood_of_answers(bridge: BridgeProcess) -> None:
    """An administrator has an answer in time, which adds up one result of each replica that has the
    form of one; what else comes is counted.
    """
    async with (
        Bus(bridge) as bus,
        Clients(bridge.url) as clients,
        http(bridge.url, mint("admin", role="admin")) as admin,
    ):
        client = await clients.join()
        before = ignored((await admin.get("/metrics")).text)

        async def answer(message: Msg) -> None:
            for result in ("9", -9, [], {}, None, True, 9.5):
                await message.respond(json.dumps({"replica": "x", "result": result}).encode())
            for _ in range(300):
                await message.respond(b'{"stream": "EVENTS", "seq": 7}')
                await message.respond(json.dumps({"replica": "x", "result": 100}).encode())
                await message.respond(b"x" * 10_000)
            await message.respond(json.dumps({"replica": "y", "result": 1000}).encode())

        await bus.connection.subscribe(f"{bus.subjects.root(Root.CONTROL)}.all", cb=answer)
        await bus.settle()
        begin = time.monotonic()
        told = await admin.post("/ws/broadcast", json=NOTICE)
        assert time.monotonic() - begin < 2.0
        assert told.status_code == 200
        reached = told.json()["data"]["connections_reached"]
        # Its own client, and 100 of "x"; "y" comes where the time was enough for what is before it.
        assert reached in (101, 1101)
        assert (await client.expect("system.notice"))["data"] == {}
        assert ignored((await admin.get("/metrics")).text) > before + 100
        await client.ping()


async def test_questions_without_form(bridge: BridgeProcess) -> None:
    """They do nothing: nobody gets a message that is none or too large, nobody is sent away."""
    user = new_user()
    async with (
        Bus(bridge) as bus,
        Clients(bridge.url) as clients,
        http(bridge.url, mint("admin", role="admin")) as admin,
    ):
        client = await clients.join(user)
        before = ignored((await admin.get("/metrics")).text)
        large = json.dumps({"type": "system.notice", "data": "x" * 70_000})
        questions: list[object] = [
            {"stream": "EVENTS", "seq": 7},
            {"from": "a.b", "op": "broadcast", "args": {"text": json.dumps(NOTICE)}},
            {"from": "other", "op": "broadcast", "args": {"text": "no JSON"}},
            {"from": "other", "op": "broadcast", "args": {"text": large}},
            {"from": "other", "op": "broadcast", "args": {"text": large * 10}},
            {"from": "other", "op": "disconnect", "args": {"user": user, "revoke": "yes"}},
            {"from": "other", "op": "disconnect", "args": {"user": user}},
            {"from": "other", "op": "close", "args": {"id": [client.id]}},
            {"from": "other", "op": "redeem", "args": {}},
            "nonsense",
        ]
        for question in questions:
            await bus.connection.publish(
                f"{bus.subjects.root(Root.CONTROL)}.all",
                json.dumps(question).encode(),
                reply="nobody.listens",
            )
        await bus.settle()
        await client.ping()
        assert ignored((await admin.get("/metrics")).text) == before + len(questions)
        assert bridge.output.count("control: ") <= 1
