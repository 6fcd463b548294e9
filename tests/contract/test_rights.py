"""What the NATS users of ``deploy/`` may do: all that bridges, services and operators need."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from uuid import uuid4

import pytest

from natsbridge.publishers import (
    Command,
    Commands,
    EventPublisher,
    PublisherSettings,
    Refused,
    ReviewEvents,
    UploadEvents,
)
from natsbridge.publishers.lookup import CannotTell, find
from natsbridge.schemas.events import UploadCompleted
from tests.support.bridge import ROOT
from tests.support.clients import Client, Clients, http, mint, new_user, ticket
from tests.support.peers import PEERS, Failed
from tests.support.rights import Deployed, event


def service(deployed: Deployed, user: str) -> EventPublisher:
    """The SDK's publisher as this NATS user, configured by its variables alone."""
    settings = deployed.guarded.login(user).settings
    return EventPublisher(PublisherSettings.from_environment(settings))


async def received(client: Client, *ids: str) -> None:
    """See that these events come, in this order, and nothing else."""
    for each in ids:
        await client.expect_event(each)


async def test_services_with_the_sdk(deployed: Deployed) -> None:
    """Durable and ephemeral events of two services reach users, subscribers and everybody, at both
    bridges, and a client that comes back to the other one has what it missed replayed.
    """
    first, second = deployed.bridges
    user, upload = new_user(), uuid4().hex
    async with (
        Clients(first.url) as here,
        Clients(second.url) as there,
        service(deployed, "upload-service") as uploader,
        service(deployed, "review-service") as reviewer,
    ):
        uploads, reviews = UploadEvents(uploader), ReviewEvents(reviewer)
        clients = [await here.join(user), await there.join(user)]
        for client in clients:
            await client.subscribe("review.updated")
        progress = await uploads.progress(upload, 40, to=user)
        completed = await uploads.completed(upload, {"size": 3}, to=user)
        updated = await reviews.updated("77", {"status": "open"})
        for client in clients:
            await received(client, *(receipt[0].id for receipt in (progress, completed)))
            message = await client.expect_event(_id(updated))
        cursor = message["cursor"]
        await clients[1].socket.close()
        missed = await uploads.error(upload, "disk full", to=user)
        back = await there.join(user, query={"cursor": cursor})
        await received(back, missed[0].id)
        told = await back.expect("resume.completed")
        assert told["data"]["recovered"], told


def _id(receipts: object) -> str:
    receipt = receipts[0] if isinstance(receipts, list | tuple) else receipts
    found: str = receipt.id  # type: ignore[attr-defined]  # a Receipt
    return found


@pytest.mark.parametrize("client", PEERS)
async def test_services_with_a_client_of_their_own(deployed: Deployed, client: str) -> None:
    """A service publishes and is acknowledged, answers commands, and reads its own rejects with
    their reason, with the rights of the files and no SDK; another service sees none of it.
    """
    first = deployed.bridges[0]
    user, upload = new_user(), uuid4().hex
    async with (
        Clients(first.url) as clients,
        deployed.guarded.peer("upload-service", client) as uploader,
        deployed.guarded.peer("review-service", client) as reviewer,
    ):
        browser = await clients.join(user)
        for peer, domain in ((uploader, "upload"), (reviewer, "review")):
            await peer.subscribe(f"rejected.*.user.*.{domain}.*.*")
            assert not peer.refusals
        await uploader.subscribe("commands.upload.*.*.*", queue="q", answer='{"accepted": true}')

        data = {"upload_id": upload, "progress": 40}
        await uploader.publish(
            f"live.service.user.{user}.upload.progress.{upload}", event("upload.progress", data)
        )
        assert not uploader.refusals
        assert (await browser.receive())["type"] == "upload.progress"
        data = {"upload_id": upload, "result": {}}
        sequence = await uploader.store(
            f"events.user.{user}.upload.completed.{upload}", event("upload.completed", data)
        )
        stored = await browser.receive()
        assert stored["type"] == "upload.completed"
        assert str(sequence) in stored["cursor"]

        answer = await browser.ask("upload.cancel", {"upload_id": upload})
        assert answer["type"] == "command.accepted", answer

        wrong = f"live.service.user.{user}.upload.progress.{upload}"
        await uploader.publish(wrong, event("upload.progress", {"upload_id": upload}))
        rejected = f"rejected.service.user.{user}.upload.progress.{upload}"
        told = await uploader.wait_for(rejected)
        assert told.headers["Bridge-Reject-Reason"]
        assert json.loads(told.data)["data"] == {"upload_id": upload}
        assert await reviewer.messages() == []
        assert not uploader.refusals
        assert not reviewer.refusals


@pytest.mark.parametrize("client", PEERS)
async def test_what_no_stream_stores_is_refused(deployed: Deployed, client: str) -> None:
    """A mistyped type, an ephemeral one among the durable and an event that is far too large are
    told to the publisher at once.
    """
    async with deployed.guarded.peer("upload-service", client) as peer:
        for kind in ("upload.completd", "upload.progress"):
            # Node's client takes the server's "no responders" for this.
            with pytest.raises(Failed, match=r"NoStreamResponse|jetstream is not enabled"):
                await peer.store(f"events.user.42.{kind}.u1", "{}")
            assert not peer.refusals
        with pytest.raises(Failed, match="message size exceeds maximum allowed"):
            await peer.store("events.user.42.upload.completed.u1", "x" * 500_000)


async def test_commands_with_the_sdk(deployed: Deployed) -> None:
    """What a client asks for comes to the service, and its answer back, from both bridges."""
    user, upload = new_user(), uuid4().hex
    async with service(deployed, "upload-service") as uploader:
        commands = Commands(uploader)

        @commands.on("upload.cancel")
        async def cancel(command: Command) -> None:
            if command.resource_id != upload:
                raise Refused("no such upload")

        async with commands:
            for bridge in deployed.bridges:
                async with Clients(bridge.url) as clients:
                    client = await clients.join(user)
                    answer = await client.ask("upload.cancel", {"upload_id": upload})
                    assert answer["type"] == "command.accepted", answer
                    answer = await client.ask("upload.cancel", {"upload_id": "other"})
                    assert answer["data"]["message"] == "no such upload", answer


async def test_bridges_among_themselves(deployed: Deployed) -> None:
    """A ticket of one is good at the other, an administrator's message reaches the clients of both,
    and so does a revocation.
    """
    first, second = deployed.bridges
    user = new_user()
    async with (
        Clients(first.url) as here,
        Clients(second.url) as there,
        http(first.url, mint("admin", role="admin")) as admin,
    ):
        other = await here.join(user)
        client = await there.open(query={"ticket": await ticket(first.url, mint(user))})
        assert (await client.expect("connection.established"))["data"]["user_id"] == user
        answer = await admin.post("/ws/broadcast", json={"type": "system.notice", "data": {}})
        assert answer.json()["data"]["connections_reached"] >= 2
        for each in (client, other):
            assert (await each.receive())["type"] == "system.notice"
        answer = await admin.post(f"/ws/users/{user}/disconnect", json={"revoke": True})
        assert answer.json()["data"]["connections_closed"] == 2


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_the_stream_command(deployed: Deployed, command: str) -> None:
    """``natsbridge stream plan`` and ``apply``, which adds the subjects of a new type, need no
    other
    rights than the bridge's.
    """
    settings = deployed.bridges[0].settings | {"BRIDGE_CATALOGUE": "tests.support.own_events"}
    done = subprocess.run(
        [sys.executable, "-m", "natsbridge.bridge.cli", "stream", command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (1 if command == "plan" else 0), done.stdout + done.stderr
    assert "invoice" in done.stdout


async def test_the_spool_looks_up_what_it_stored(deployed: Deployed) -> None:
    """With accounts a service finds its own event in the stream; with users alone it can't tell,
    and says what is missing.
    """
    deadline = asyncio.get_running_loop().time() + 5
    async with service(deployed, "upload-service") as uploader:
        sent = UploadCompleted(upload_id=uuid4().hex, result={})
        [prepared] = uploader.prepare(sent, to="42")
        if deployed.guarded.kind == "accounts":
            assert await find(uploader.connection, "EVENTS", prepared, 0, deadline) is None
            receipt = await uploader.send(prepared)
            found = await find(uploader.connection, "EVENTS", prepared, 0, deadline)
            assert found == receipt.sequence
        else:
            with pytest.raises(CannotTell, match=r"\$JS\.API\.DIRECT\.GET\.EVENTS"):
                await find(uploader.connection, "EVENTS", prepared, 0, deadline)


@pytest.mark.parametrize("client", PEERS)
async def test_the_operator(deployed: Deployed, client: str) -> None:
    """Sees the stream, a stored event by its sequence, and everybody's rejects."""
    upload = uuid4().hex
    async with (
        deployed.guarded.peer("operator", client) as operator,
        deployed.guarded.peer("upload-service") as uploader,
        Clients(deployed.bridges[0].url) as clients,
    ):
        user = (await clients.join()).user
        await operator.subscribe("rejected.>")
        data = {"upload_id": upload, "result": {}}
        sequence = await uploader.store(
            f"events.user.{user}.upload.completed.{upload}", event("upload.completed", data)
        )
        for name in ("INFO.EVENTS", "NAMES", "LIST"):
            answer = json.loads((await operator.request(f"$JS.API.STREAM.{name}")).data)
            assert "error" not in answer, name
            assert "EVENTS" in json.dumps(answer), name
        asked = json.dumps({"seq": sequence})
        answer = json.loads((await operator.request("$JS.API.STREAM.MSG.GET.EVENTS", asked)).data)
        assert answer["message"]["subject"].endswith(upload)
        wrong = f"live.service.user.{user}.upload.progress.{upload}"
        await uploader.publish(wrong, "{}")
        await operator.wait_for(f"rejected.service.user.{user}.upload.progress.{upload}")
        assert not operator.refusals
