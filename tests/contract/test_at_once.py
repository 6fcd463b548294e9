"""Limits hold when many come at the same moment."""

from __future__ import annotations

import asyncio

from websockets.exceptions import InvalidStatus

from natsbridge.schemas import codes
from natsbridge.schemas.commands import CommandReply
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.bus import Bus, to_user
from tests.support.clients import Clients, http, mint, new_user, ticket


async def test_connections_of_one_user(bridge: BridgeProcess) -> None:
    """Of twelve connections at once three stay; the others are told that they were replaced."""
    user = new_user()
    token = mint(user)
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        crowd = await asyncio.gather(*(clients.connect(token) for _ in range(12)))
        messages = [asyncio.create_task(each.until_closed(10)) for each in crowd]
        done: set[asyncio.Task[object]] = set()
        async with asyncio.timeout(10):
            while len(done) < 9:
                finished, _ = await asyncio.wait(messages, return_when=asyncio.FIRST_COMPLETED)
                done |= finished
                messages = [task for task in messages if task not in done]
        for task in messages:
            task.cancel()
        await asyncio.gather(*messages, return_exceptions=True)
        closed = [each.socket.close_code for each in crowd]
        assert closed.count(None) == 3
        assert closed.count(codes.REPLACED.code) == 9
        event = await bus.publish(to_user(user, "upload.progress", "1"))
        for client in crowd:
            if client.socket.close_code is None:
                await client.until(event)


async def test_places_on_the_server(start_bridge: StartBridge) -> None:
    """Of twenty clients at once five get the five places, the others 503."""
    bridge = start_bridge(BRIDGE_MAX_CONNECTIONS="5")
    async with Clients(bridge.url) as clients:

        async def come() -> int:
            try:
                client = await clients.connect(mint(new_user()))
            except InvalidStatus as refusal:
                return refusal.response.status_code
            if await client.until_closed_or("connection.established"):
                return 101
            return client.socket.close_code or 0

        answers = await asyncio.gather(*(come() for _ in range(20)))
        assert answers.count(101) == 5
        assert set(answers) <= {101, 503, codes.TRY_AGAIN_LATER.code}
        async with http(bridge.url, mint("admin", role="admin")) as client:
            data = (await client.get("/ws/connections")).json()["data"]
        assert len(data) == 5


async def test_one_ticket(bridge: BridgeProcess) -> None:
    """Of ten clients that bring one ticket at once, one comes in."""
    query = {"ticket": await ticket(bridge.url, mint(new_user()))}
    async with Clients(bridge.url) as clients:
        crowd = await asyncio.gather(*(clients.open(query=query) for _ in range(10)))
        first = [await each.until_closed_or("connection.established") for each in crowd]
        assert sum(map(bool, first)) == 1
        refused = [each for each, messages in zip(crowd, first, strict=True) if not messages]
        assert {each.socket.close_code for each in refused} == {codes.TOKEN_EXPIRED.code}


async def test_commands_in_flight(bridge: BridgeProcess) -> None:
    """Many commands at once are all answered, each by its id, whatever the order."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = bus.subjects.command("upload.cancel", client.user, "*")
        subscription = await bus.connection.subscribe(subject)
        await bus.settle()
        for number in range(10):
            await client.send("upload.cancel", {"upload_id": str(number)}, str(number))
        requests = [await subscription.next_msg(5) for _ in range(10)]
        for request in reversed(requests):
            await request.respond(CommandReply(accepted=True).model_dump_json().encode())
        answers = [await client.expect("command.accepted") for _ in range(10)]
        for answer in answers:
            assert answer["data"]["upload_id"] == answer["reply_to"]
        assert {answer["reply_to"] for answer in answers} == {str(number) for number in range(10)}
        await client.ping()


async def test_too_many_commands_in_flight(bridge: BridgeProcess) -> None:
    """A command over the number that may wait is refused by an error, and the rest goes on."""
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        subject = bus.subjects.command("upload.cancel", client.user, "*")
        subscription = await bus.connection.subscribe(subject)
        await bus.settle()
        for number in range(11):
            await client.send("upload.cancel", {"upload_id": str(number)}, str(number))
        refusal = await client.expect("error")
        assert refusal["reply_to"] == "10"
        for _ in range(10):
            request = await subscription.next_msg(5)
            await request.respond(CommandReply(accepted=True).model_dump_json().encode())
        for _ in range(10):
            await client.expect("command.accepted")
        await client.send("upload.cancel", {"upload_id": "11"}, "11")
        request = await subscription.next_msg(5)
        await request.respond(CommandReply(accepted=True).model_dump_json().encode())
        assert (await client.expect("command.accepted"))["reply_to"] == "11"
