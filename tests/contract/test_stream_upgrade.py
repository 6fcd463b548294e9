"""The stream's subjects: added by whoever needs them, kept by everybody, mended by the command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client as NatsClient

from natsbridge.bridge.nats.shape import HEADERS, event_subjects
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.envelope import new_id
from natsbridge.schemas.subjects import Root, Subjects
from tests.support import own_events
from tests.support.bridge import ROOT, BridgeProcess, StartBridge, settings_of
from tests.support.bus import Bus, envelope, to_user, topic
from tests.support.clients import Clients, http, new_user
from tests.support.nats_server import NatsServer

OWN = {"BRIDGE_CATALOGUE": own_events.__name__}
LINE = re.compile(r"delivery is live only")


async def ask(client: NatsClient, operation: str, name: str, config: object = None) -> Any:
    """Ask JetStream as it is asked on the wire, so that nothing of an answer is left out."""
    payload = b"" if config is None else json.dumps(config).encode()
    answer = await client.request(f"$JS.API.STREAM.{operation}.{name}", payload, timeout=5)
    found = json.loads(answer.data)
    assert "error" not in found, found
    return found.get("config")


def stream(action: str, settings: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run ``natsbridge stream``; return its exit code and what it said."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "natsbridge.bridge.cli", "stream", action, *arguments],
        cwd=ROOT,
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def settings(nats_server: NatsServer) -> dict[str, str]:
    """Settings of one deployment."""
    return settings_of(nats_server.url)


def own(settings: dict[str, str]) -> dict[str, str]:
    """What places a bridge in this deployment."""
    return {name: settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")}


async def make_01(client: NatsClient, settings: dict[str, str], **more: object) -> None:
    """Make the stream as version 0.1 did."""
    prefix = settings["BRIDGE_SUBJECT_PREFIX"]
    name = settings["BRIDGE_STREAM"]
    config = {
        "name": name,
        "subjects": [f"{prefix}.events.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "max_age": 24 * 3600 * 10**9,
        "max_bytes": 1 << 24,
        "max_msgs": -1,
        "duplicate_window": 120 * 10**9,
        "allow_direct": True,
        "republish": {"src": f"{prefix}.events.>", "dest": f"{prefix}.live.>"},
        **more,
    }
    await ask(client, "CREATE", name, config)


async def test_from_01(
    nats_server: NatsServer, settings: dict[str, str], start_bridge: StartBridge
) -> None:
    """0.1's stream is not used, and log and ``/readyz`` name the command; ``plan`` says what it
    will do, ``apply`` does it, and then what 0.1 stored comes by the cursors that 0.1 gave.
    """
    subjects, name = Subjects(settings["BRIDGE_SUBJECT_PREFIX"]), settings["BRIDGE_STREAM"]
    client = await nats.connect(nats_server.url)
    await make_01(client, settings, metadata={"team": "mine"}, description="kept")
    user = new_user()
    events = [envelope(to_user(user, "upload.completed", str(at))) for at in range(4)]
    sequences = []
    for at, event in enumerate(events):
        subject = subjects.event(Root.EVENTS, to_user(user, "upload.completed", str(at)))
        answer = await client.request(subject, json.dumps(event).encode(), timeout=5)
        sequences.append(json.loads(answer.data)["seq"])
    created = (await client.jetstream().stream_info(name)).created
    assert created is not None
    identity = f"{int(created.timestamp() * 1_000_000):x}"

    early = start_bridge(**own(settings))
    told = early.wait_for_line(LINE, 10).string
    assert "it is as version 0.1 made it" in told
    assert "`natsbridge stream apply`" in told
    async with http(early.url) as caller:
        assert (
            "`natsbridge stream apply`" in (await caller.get("/readyz")).json()["checks"]["stream"]
        )
    early.terminate()
    assert early.wait() == 0

    code, said = stream("plan", settings)
    assert code == 1
    wanted = event_subjects(Catalogue.load(), subjects)
    assert f"- subject {subjects.prefix}.events.>" in said
    assert all(f"+ subject {each}" in said for each in wanted)
    assert "live.stream.>" in said
    assert f"max_msg_size: -1 → {64 * 1024 + HEADERS}" in said
    assert (await ask(client, "INFO", name))["subjects"] == [f"{subjects.prefix}.events.>"]

    code, said = stream("apply", settings)
    assert (code, "changed" in said) == (0, True), said
    found = await ask(client, "INFO", name)
    assert found["subjects"] == wanted
    assert found["republish"]["dest"] == f"{subjects.prefix}.live.stream.>"
    assert (found["metadata"]["team"], found["description"]) == ("mine", "kept")
    assert stream("plan", settings) == (0, f"stream {name}: nothing to do\n")
    await client.close()

    bridge = start_bridge(**own(settings))
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        back = await clients.join(user, query={"cursor": f"{identity}-{sequences[0]}"})
        for event in events[1:]:
            assert (await back.expect_event(event["id"]))["data"] == event["data"]
        assert (await back.expect("resume.completed"))["data"]["recovered"]
        live = await bus.publish(to_user(user, "upload.completed", "5"), root=Root.EVENTS)
        assert (await back.expect_event(live))["cursor"].startswith(f"{identity}-")


async def test_each_bridge_adds_its_own_types(
    nats_server: NatsServer, settings: dict[str, str], start_bridge: StartBridge
) -> None:
    """Two that start at once with two catalogues both keep their types, what is unknown to them
    survives, and neither takes the other's away.
    """
    first = start_bridge(**own(settings))
    client = await nats.connect(nats_server.url)
    name = settings["BRIDGE_STREAM"]
    subjects = Subjects(settings["BRIDGE_SUBJECT_PREFIX"])
    other = f"{subjects.prefix}.events.topic.somebody.else.*"
    config = await ask(client, "INFO", name)
    config |= {"subjects": [other], "metadata": {"team": "theirs"}, "description": "kept"}
    await ask(client, "UPDATE", name, config)
    plain, both = (
        event_subjects(Catalogue.load(), subjects),
        event_subjects(Catalogue.load([own_events.__name__]), subjects),
    )
    second, third = await asyncio.gather(
        *(asyncio.to_thread(lambda more=more: start_bridge(**own(settings), **more))
          for more in (OWN, {}))
    )  # fmt: skip
    assert set(both) > set(plain)
    for _ in range(100):
        found = await ask(client, "INFO", name)
        if set(found["subjects"]) == {*both, other}:
            break
        await asyncio.sleep(0.1)  # there is no event for what a stream is told
    else:
        raise AssertionError({*both, other} ^ set(found["subjects"]))
    assert (found["metadata"]["team"], found["description"]) == ("theirs", "kept")
    for bridge in (first, second, third):
        async with http(bridge.url) as caller:
            assert (await caller.get("/readyz")).json()["checks"]["stream"] == "ok"
    await client.close()


async def test_a_bridge_that_may_not_change_the_stream_says_what_it_lacks(
    nats_server: NatsServer, settings: dict[str, str], start_bridge: StartBridge
) -> None:
    """With ``BRIDGE_STREAM_CREATE=false``: the types that the stream has are delivered all the
    same, and ``natsbridge stream apply`` adds the others.
    """
    start_bridge(**own(settings))
    bridge = start_bridge(**own(settings), **OWN, BRIDGE_STREAM_CREATE="false")
    lacking = re.compile(
        r"does not take \S+events\.\S+audit\.recorded\.\*.*natsbridge stream apply"
    )
    bridge.wait_for_line(lacking, 10)
    async with Clients(bridge.url) as clients, Bus(bridge) as bus:
        client = await clients.join()
        event = await bus.publish(to_user(client.user, "upload.completed", "5"), root=Root.EVENTS)
        assert "cursor" in await client.expect_event(event)
        address = to_user(client.user, "invoice.paid", "1")
        paid = {"invoice_id": "1", "amount_cents": 5}
        with pytest.raises(nats.errors.NoRespondersError):
            await bus.publish(address, paid, root=Root.EVENTS)
        code, said = stream("apply", {**settings, **OWN}, "--json")
        assert code == 0
        done = json.loads(said)
        assert done["done"]
        assert bus.subjects.event(Root.EVENTS, address).replace(".1", ".*") not in done["remove"]
        assert done["remove"] == []
        event = await bus.publish(address, paid, root=Root.EVENTS)
        assert "cursor" in await client.expect_event(event)


async def test_another_stream_has_a_subject(
    nats_server: NatsServer, settings: dict[str, str]
) -> None:
    """What NATS refuses is told with its cause, and nothing is changed."""
    client = await nats.connect(nats_server.url)
    subjects = Subjects(settings["BRIDGE_SUBJECT_PREFIX"])
    other = f"O{settings['BRIDGE_STREAM']}"
    taken = f"{subjects.prefix}.events.topic.review.updated.7"
    await ask(client, "CREATE", other, {"name": other, "subjects": [taken], "storage": "memory"})
    code, said = stream("plan", settings)
    assert (code, "does not exist: it will be made" in said) == (1, True)
    code, said = stream("apply", settings)
    assert code == 1
    assert "overlap with an existing stream: another stream takes some" in said
    assert "Traceback" not in said
    await client.request(f"$JS.API.STREAM.DELETE.{other}")
    code, said = stream("apply", settings)
    assert code == 0
    assert stream("plan", settings)[0] == 0
    await client.request(f"$JS.API.STREAM.DELETE.{settings['BRIDGE_STREAM']}")
    await client.close()


def test_what_can_not_be_told(plain_nats_server: NatsServer) -> None:
    """Without JetStream, or without NATS, a plan ends with 2 and a line."""
    settings = settings_of(plain_nats_server.url)
    assert stream("plan", settings) == (2, "natsbridge: NATS has no JetStream\n")
    code, said = stream("plan", {**settings, "BRIDGE_NATS_URL": "nats://127.0.0.1:1"})
    assert code == 2
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": [{"name": "ELSEWHERE"}]}, "sources is set, not off"),
        ({"subjects+": ["{prefix}.other.>"]}, "{prefix}.other.>"),
        ({"republish": {"src": "{prefix}.events.>", "dest": "{prefix}.live.>"}}, "stream apply"),
    ],
)
async def test_what_is_changed_later_is_seen(
    nats_server: NatsServer,
    settings: dict[str, str],
    start_bridge: StartBridge,
    change: dict[str, Any],
    words: str,
) -> None:
    """A stream that was in order and is changed under a running bridge is not relied on any more,
    and the bridge leaves it as it is.
    """
    bridge = start_bridge(**own(settings))
    prefix, name = settings["BRIDGE_SUBJECT_PREFIX"], settings["BRIDGE_STREAM"]
    change = json.loads(json.dumps(change).replace("{prefix}", prefix))
    client = await nats.connect(nats_server.url)
    config = await ask(client, "INFO", name)
    config["subjects"] += change.pop("subjects+", [])
    config |= change
    await ask(client, "UPDATE", name, config)
    told = bridge.wait_for_line(LINE, 10).string
    assert words.replace("{prefix}", prefix) in told
    async with http(bridge.url) as caller:
        said = (await caller.get("/readyz")).json()["checks"]["stream"]
    assert said.startswith("live only: ")
    assert (await ask(client, "INFO", name))["subjects"] == config["subjects"]
    await client.close()


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        ("user.42.upload.completd.u1", 0),
        ("users.42.upload.completed.u1", 0),
        ("user.alice@example.com.upload.completed.u1", 0),
        ("user.42.upload.completed.a.b", 0),
        ("user.42.upload.progress.u1", 0),
        ("topic.upload.completed", 0),
        ("user.42.upload.completed.u1", 78_000),
    ],
)
async def test_nats_itself_refuses(bridge: BridgeProcess, tail: str, size: int) -> None:
    """A mistyped type or audience, a dot in an id, an ephemeral type, and an event far too large:
    whoever publishes hears of it from NATS, with any client.
    """
    async with Bus(bridge) as bus:
        address = to_user("42", "upload.completed", "u1")
        event = envelope(address, {"upload_id": "u1", "result": {"x": "x" * size}})
        subject = f"{bus.subjects.root(Root.EVENTS)}.{tail}"
        if size:
            answer = await bus.connection.request(subject, json.dumps(event).encode(), timeout=5)
            assert json.loads(answer.data)["error"]["err_code"] == 10054
        else:
            with pytest.raises(nats.errors.NoRespondersError):
                await bus.connection.request(subject, json.dumps(event).encode(), timeout=5)
        right = f"{bus.subjects.root(Root.EVENTS)}.user.42.upload.completed.u1"
        headers = {"Nats-Msg-Id": new_id()}
        assert await bus.store(right, json.dumps(envelope(address)).encode(), headers)
        assert await bus.publish(topic("review.updated", "7"), root=Root.EVENTS)
