"""A hostile service with the rights of ``deploy/``: it can harm nobody and read nobody else's."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.attacks import FORGED, attack
from tests.support.bus import protocol, with_header
from tests.support.clients import Client, Clients, Message, http, mint, new_user, ticket
from tests.support.peers import PEERS, Peer
from tests.support.rights import CONFIGURATIONS, Deployed, Guarded, event

EARS = [
    ">",
    "*.>",
    "live.>",
    "live.*.user.*.>",
    "live.stream.>",
    "events.>",
    "commands.>",
    "commands.upload.>",
    "commands.*.*.*.*",
    "rejected.>",
    "rejected.*.user.*.upload.>",
    "control.>",
    "_INBOX.>",
    "_INBOX_bridge.>",
    "_INBOX_review-service.>",
    "_R_.>",
    "$JS.>",
    "$KV.>",
    "$KV.bridge_tickets.*",
]
ROUNDS = 3
PER_ROUND = 4


async def review(peer: Peer, victim: str, resource: str) -> list[str]:
    """Publish a review's events, of both audiences, and return their ids."""
    ids = []
    for place in (f"user.{victim}", "topic"):
        event_id = f"good-{uuid4().hex}"
        data = {"review_id": resource, "changes": {"status": "open"}}
        body = event("review.updated", data, id=event_id)
        await peer.store(f"events.{place}.review.updated.{resource}", body)
        ids.append(event_id)
    return ids


def reviews(messages: list[Message]) -> list[str]:
    """The ids of the reviews among them; all else there is the attacker may say in its own name.

    What it has stored and is no event is told as a gap in its place, over which no review is lost.
    """
    told = {
        place
        for each in messages
        if each["type"] == "gap"
        for place in range(sequence(each["data"]["from"]) + 1, sequence(each["data"]["to"]) + 1)
    }
    found = []
    for message in messages:
        assert FORGED not in json.dumps(message), message
        if message["type"].startswith("upload."):
            assert ("cursor" in message) == (message["type"] == "upload.completed"), message
        elif message["type"] == "gap":
            assert message["data"]["reason"] == "INVALID_EVENT", message
        else:
            assert message["type"] == "review.updated", message
            assert sequence(message["cursor"]) not in told, message
            found.append(message["id"])
    return found


def sequence(cursor: str) -> int:
    """The place in the stream that a cursor stands for."""
    return int(cursor.split("-")[1])


async def gather(client: Client, wanted: list[str]) -> tuple[list[Message], list[Message]]:
    """Return all events until these have come and nothing is on its way, and what was completed."""
    events: list[Message] = []
    completed: list[Message] = []
    missing = set(wanted)
    while missing:
        message = await client.receive()
        (completed if message["type"] == "resume.completed" else events).append(message)
        missing.discard(message.get("id", ""))
    await client.send("ping", {"pingId": "end"})
    while (message := await client.receive())["type"] != "pong":
        (completed if message["type"] == "resume.completed" else events).append(message)
    return events, completed


def see_cursors_rise(messages: list[Message], last: int) -> None:
    """In the order of the stream, and no further than it reaches."""
    sequences = [sequence(each["cursor"]) for each in messages if "cursor" in each]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] <= last


async def stream(operator: Peer) -> dict[str, int]:
    """The state of the stream, as the operator sees it."""
    answer = json.loads((await operator.request("$JS.API.STREAM.INFO.EVENTS")).data)
    state: dict[str, int] = answer["state"]
    return state


@pytest.mark.parametrize("client", PEERS)
async def test_a_hostile_service_harms_nobody(deployed: Deployed, client: str) -> None:
    """While it tries everything, a user and a subscriber get each event of the other service once
    and in order, and nothing in its name; who comes back misses nothing; the stream keeps all of
    it; no command, no session and no question between the bridges is made up.
    """
    guarded, (first, second) = deployed.guarded, deployed.bridges
    victim, resource, made_up = new_user(), uuid4().hex, secrets.token_urlsafe(32)
    key = hashlib.sha256(made_up.encode()).hexdigest()
    async with (
        Clients(first.url) as here,
        Clients(second.url) as there,
        guarded.peer("upload-service", client) as mallory,
        guarded.peer("review-service") as reviewer,
        guarded.peer("bridge") as witness,
        guarded.peer("operator") as operator,
    ):
        await witness.subscribe("control.all")
        await reviewer.subscribe("commands.review.>")
        watching, leaving = await here.join(victim), await there.join(victim)
        for each in (watching, leaving):
            await each.subscribe("review.updated", "upload.*")
        sent, passed = await review(reviewer, victim, resource), 0
        seen, _ = await gather(leaving, sent)
        await leaving.socket.close()
        cursor = seen[-1]["cursor"]
        good = await ticket(first.url, mint(victim))
        before = await stream(operator)
        for _ in range(ROUNDS):
            passed += await attack(mallory, victim, resource, key)
            for _ in range(PER_ROUND):
                sent += await review(reviewer, victim, resource)
        assert passed > 0
        after = await stream(operator)

        # Nothing is lost, doubled or made up, for who stays and for who comes back.
        events, _ = await gather(watching, sent)
        assert reviews(events) == sent
        see_cursors_rise(events, after["last_seq"])
        back = await there.join(victim, query={"cursor": cursor})
        await back.send("subscribe", {"events": ["review.updated", "upload.*"], "cursor": cursor})
        events, completed = await gather(back, sent[2:])
        events = [each for each in events if each["type"] != "subscription.acknowledged"]
        assert sorted(reviews(events)) == sorted(sent[2:])
        assert completed
        assert all(each["data"]["recovered"] for each in completed), completed

        # The stream has lost nothing, and what the bridges keep in JetStream is good.
        assert after["first_seq"] == before["first_seq"] == 1
        assert after.get("num_deleted", 0) == 0
        assert after["messages"] == after["last_seq"] > before["last_seq"]
        again = await here.open(query={"ticket": good})
        assert (await again.expect("connection.established"))["data"]["user_id"] == victim
        for clients in (here, there):
            forger = await clients.open(query={"ticket": made_up})
            assert await forger.until_closed() == []

        # What the server itself writes past all rights is an acknowledgement, and no more.
        told = [*await witness.messages(), *await reviewer.messages()]
        for message in told:
            assert guarded.kind == "users", message
            assert json.loads(message.data).keys() <= {"stream", "seq", "duplicate"}, message
        async with http(first.url, mint("admin", role="admin")) as admin:
            metrics = (await admin.get("/metrics")).text
        counted = 'bridge_control_ignored_total{reason="malformed question"}' in metrics
        assert counted == (guarded.kind == "users")


@pytest.mark.parametrize("client", PEERS)
async def test_a_hostile_service_reads_nothing(deployed: Deployed, client: str) -> None:
    """It listens wherever the server lets it, while others' events, replays, tickets, commands and
    rejects go about, and hears its own alone.
    """
    guarded, (first, second) = deployed.guarded, deployed.bridges
    victim, resource = new_user(), uuid4().hex
    async with (
        Clients(first.url) as clients,
        guarded.peer("upload-service", client) as mallory,
        guarded.peer("review-service") as reviewer,
        http(second.url, mint("admin", role="admin")) as admin,
    ):
        for subject in EARS:
            await mallory.subscribe(subject)
        await mallory.subscribe("commands.upload.>", answer='{"accepted": true}')
        browser = await clients.join(victim)
        await browser.subscribe("review.updated")
        sent = await review(reviewer, victim, resource)
        await gather(browser, sent)
        cursor = browser.established["data"]["cursor"]
        back = await clients.join(victim, query={"cursor": cursor})
        await gather(back, sent[:1])
        await ticket(first.url, mint(victim))
        await admin.post("/ws/broadcast", json={"type": "system.notice", "data": {}})
        await reviewer.publish(f"live.service.user.{victim}.review.created.{resource}", "no JSON")
        await back.expect("system.notice")
        answer = await back.ask("upload.cancel", {"upload_id": resource})
        assert answer["type"] == "command.accepted", answer
        heard = await mallory.messages()
        assert {each.subject for each in heard} == {f"commands.upload.cancel.{victim}.{resource}"}


@pytest.mark.parametrize("header", [b"\x00", b"N", b"\n", b"NATS/1.0\r\nNats-Seq", b"\xff\xfe"])
async def test_half_a_header_stops_nobody(deployed: Deployed, header: bytes) -> None:
    """Stored as it is, a header of one byte ends nats-server 2.15.1 when it republishes the event.

    Between accounts it first adds a header of its own. In one account nothing keeps it off, and
    ``deploy/nats-users.conf`` says so.
    """
    guarded = deployed.guarded
    if guarded.kind == "users" and len(header) == 1:
        pytest.skip("this ends the server")
    mallory, resource, victim = guarded.login("upload-service"), uuid4().hex, new_user()
    async with (
        Clients(deployed.bridges[0].url) as clients,
        guarded.peer("review-service") as reviewer,
    ):
        browser = await clients.join(victim)
        await browser.subscribe("review.updated")
        body = event("upload.completed", {"upload_id": "u", "result": {}}).encode()
        subject = f"events.user.{victim}.upload.completed.u".encode()
        login = {"user": mallory.user, "pass": mallory.password}
        await protocol(mallory.url, with_header(subject, header, body), login)
        sent = await review(reviewer, victim, resource)
        events, _ = await gather(browser, sent)
        assert reviews(events) == sent


@pytest.mark.parametrize("loosened", ["strict", "rights"])
async def test_the_attack_bites(tmp_path: Path, loosened: str) -> None:
    """Where the stream's administration is read leniently, or a service may publish anything, the
    same attack does harm: the stream loses what others stored.
    """
    text = CONFIGURATIONS["users"].read_text()
    if loosened == "strict":
        text = text.replace("strict: true", "strict: false")
    else:
        text = text.replace('"events.user.*.upload.*.*"', '">"')
    (tmp_path / "loose.conf").write_text(text)
    guarded = Guarded("users", tmp_path / "nats", tmp_path / "loose.conf")
    try:
        async with (
            guarded.peer("bridge") as bridge,
            guarded.peer("upload-service") as mallory,
            guarded.peer("review-service") as reviewer,
        ):
            configuration = {"name": "EVENTS", "subjects": ["events.>"], "storage": "memory"}
            await bridge.request("$JS.API.STREAM.CREATE.EVENTS", json.dumps(configuration))
            sent = await review(reviewer, "victim", "77")
            await attack(mallory, "victim", "77", "key")
            answer = json.loads((await bridge.request("$JS.API.STREAM.INFO.EVENTS")).data)
            lost = "error" in answer or answer["state"]["first_seq"] > len(sent)
            assert lost, answer
    finally:
        guarded.server.close()
