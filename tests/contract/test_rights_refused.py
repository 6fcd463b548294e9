"""What the NATS users of ``deploy/`` may not do: each is refused by the server, to both clients."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.nats_server import binary
from tests.support.peers import PEERS
from tests.support.rights import CONFIGURATIONS, Guarded

STREAM_API = [
    f"$JS.API.{request}"
    for request in (
        "STREAM.PURGE.EVENTS",
        "STREAM.DELETE.EVENTS",
        "STREAM.MSG.DELETE.EVENTS",
        "STREAM.SNAPSHOT.EVENTS",
        "STREAM.CREATE.MINE",
        "STREAM.DELETE.KV_bridge_tickets",
        "CONSUMER.CREATE.EVENTS",
        "CONSUMER.DURABLE.CREATE.EVENTS.mine",
    )
]
CHANGES = [
    "events.user.42.review.updated.7",
    "events.all.system.maintenance.-",
    "live.service.user.42.review.updated.7",
    "live.service.topic.review.updated.7",
    "live.service.all.system.notification.-",
    "live.stream.user.42.upload.completed.u1",
    "live.stream.topic.review.updated.7",
    "live.stream.all.system.maintenance.-",
    "live.user.42.upload.completed.u1",
    "$SYS.REQ.SERVER.PING",
    "anything.else",
    *STREAM_API,
]
BRIDGES_OWN = [
    "live.bridge.user.42.hello",
    "control.all",
    "control.to.a1b2",
    "commands.upload.cancel.42.u1",
    "commands.review.close.42.7",
    "rejected.service.user.42.upload.progress.u1",
    "rejected.stream.user.42.review.updated.7",
    "events.probe",
    "$KV.bridge_tickets.x",
    "$JS.API.STREAM.UPDATE.EVENTS",
    "$JS.API.STREAM.CREATE.EVENTS",
    "$JS.API.DIRECT.GET.EVENTS",
]
LOOKS = [
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.EVENTS",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.MSG.GET.EVENTS",
]
SECRET_LOOKS = ["$JS.API.STREAM.MSG.GET.KV_bridge_tickets", "$JS.API.DIRECT.GET.KV_tickets"]
OTHERS_INBOXES = ["_INBOX.x", "_INBOX_review-service.x", "_INBOX_operator.x"]

PUBLISH = {
    "upload-service": [
        *CHANGES,
        *BRIDGES_OWN,
        *LOOKS,
        *SECRET_LOOKS,
        *OTHERS_INBOXES,
        "events.user.42.upload.completed.u1.more",
        "$JS.API.DIRECT.GET.EVENTS.events.user.42.review.updated.7",
        "$JS.API.DIRECT.GET.EVENTS.events.all.system.maintenance.-",
    ],
    "bridge": [
        *CHANGES,
        *OTHERS_INBOXES,
        "events.user.42.upload.completed.u1",
        "live.service.user.42.upload.progress.u1",
        "$JS.API.INFO",
        "$JS.API.STREAM.MSG.GET.EVENTS",
    ],
    "operator": [
        *CHANGES,
        *BRIDGES_OWN,
        *SECRET_LOOKS,
        "_INBOX_bridge.x",
        "_INBOX_upload-service.x",
        "events.user.42.upload.completed.u1",
        "live.service.user.42.upload.progress.u1",
        "$JS.API.DIRECT.GET.EVENTS.events.user.42.upload.completed.u1",
    ],
}
PUBLISH_IN_ONE = {
    "accounts": {"upload-service": ["_INBOX_bridge.x"]},
    "users": {
        "upload-service": [
            "_R_.x.y",
            "$JS.API.DIRECT.GET.EVENTS.events.user.42.upload.completed.u1",
        ]
    },
}
"""What only one of the configurations refuses."""

EVERYTHING = [">", "*", "*.>", "*.*.user.*.>", "_INBOX.>", "$JS.>", "$JS.API.>", "$KV.>", "$SYS.>"]
SUBSCRIBE = {
    "upload-service": [
        *EVERYTHING,
        "live.>",
        "live.*.user.42.>",
        "live.service.>",
        "live.stream.>",
        "live.bridge.>",
        "live.service.user.*.upload.*.*",
        "events.>",
        "events.user.*.upload.*.*",
        "commands.>",
        "commands.review.*.*.*",
        "rejected.>",
        "rejected.*.user.*.review.*.*",
        "rejected.*.user.42.>",
        "control.>",
        "control.all",
        "control.to.*",
        "_INBOX_bridge.>",
        "_INBOX_review-service.>",
        "_INBOX_operator.>",
        "_R_.>",
        "$KV.bridge_tickets.*",
    ],
    "bridge": [
        *EVERYTHING,
        "events.>",
        "events.user.42.upload.completed.u1",
        "commands.>",
        "commands.upload.cancel.42.u1",
        "rejected.>",
        "live.>",
        "_INBOX_upload-service.>",
        "_INBOX_operator.>",
    ],
    "operator": [
        *EVERYTHING,
        "live.>",
        "live.*.user.42.>",
        "events.>",
        "commands.>",
        "control.>",
        "control.all",
        "_INBOX_bridge.>",
        "_INBOX_upload-service.>",
        "$KV.bridge_tickets.*",
    ],
}


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """A server with one of the configurations."""
    guarded = Guarded(request.param, tmp_path_factory.mktemp("nats"))
    yield guarded
    guarded.server.close()


@pytest.mark.parametrize("client", PEERS)
@pytest.mark.parametrize("user", PUBLISH)
async def test_publishing(guarded: Guarded, user: str, client: str) -> None:
    """Whatever is not a user's own to say is refused, each with its subject."""
    async with guarded.peer(user, client) as peer:
        for subject in PUBLISH[user] + PUBLISH_IN_ONE[guarded.kind].get(user, []):
            await peer.publish(subject, "{}")
            assert len(peer.refusals) == 1, subject
            assert f'publish to "{subject}"'.lower() in peer.refusals[0].lower()


@pytest.mark.parametrize("client", PEERS)
@pytest.mark.parametrize("user", SUBSCRIBE)
async def test_subscribing(guarded: Guarded, user: str, client: str) -> None:
    """Whatever is not a user's own to hear is refused, each with its subject."""
    async with guarded.peer(user, client) as peer:
        for subject in SUBSCRIBE[user]:
            await peer.subscribe(subject)
            assert len(peer.refusals) == 1, subject
            assert f'subscription to "{subject}"'.lower() in peer.refusals[0].lower()


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"user": "bridge", "pass": ""},
        {"user": "bridge", "pass": "guess"},
        {"user": "nobody", "pass": "guess"},
    ],
)
def test_strangers(guarded: Guarded, claims: dict[str, str]) -> None:
    """Nobody connects without a user of the file and its password."""
    place = urlsplit(guarded.server.url)
    with socket.create_connection((place.hostname, place.port), 5) as connection:
        asked = json.dumps({"verbose": False, **claims})
        connection.sendall(b"CONNECT " + asked.encode() + b"\r\nPING\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert b"-ERR 'Authorization Violation'" in answer
    assert b"PONG" not in answer


def test_no_user_may_answer_whoever_asks() -> None:
    """``allow_responses`` overrides every denial: it is in neither file."""
    for path in CONFIGURATIONS.values():
        lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if "allow_responses" in line]


def test_a_missing_password_stops_the_server(tmp_path: Path) -> None:
    """A configuration whose passwords are not in the environment is not valid."""
    for path in CONFIGURATIONS.values():
        checked = subprocess.run(
            [binary(), "-c", str(path), "-t"],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode != 0
        assert "BRIDGE_PASSWORD" in checked.stderr
