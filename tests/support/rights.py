"""NATS with the rights of ``deploy/``: the very files, on a port and a folder of the test's own."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from natsbridge.schemas.envelope import new_id, timestamp
from tests.support.bridge import BridgeProcess, finish
from tests.support.nats_server import EmbeddedNats
from tests.support.peers import PEERS, Login, Peer

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
CONFIGURATIONS: Final = {
    "accounts": DEPLOY / "nats-accounts.conf",
    "users": DEPLOY / "nats-users.conf",
}
USERS: Final = {
    "bridge": "BRIDGE_PASSWORD",
    "operator": "OPERATOR_PASSWORD",
    "upload-service": "UPLOAD_PASSWORD",
    "review-service": "REVIEW_PASSWORD",
}
"""The users of the files, and the variables of their passwords."""

START: Final = 60.0
"""Longest wait for two bridges that start at once, in seconds; a busy machine takes long."""


class Guarded:
    """A server with one of the two configurations."""

    def __init__(self, kind: str, folder: Path, configuration: Path | None = None) -> None:
        """``configuration`` is another file than the one of this kind."""
        self.kind: Final = kind
        self._passwords: Final = {user: f"p{secrets.token_hex(8)}" for user in USERS}
        self._folder: Final = folder
        self.server: Final = EmbeddedNats(
            folder,
            arguments=("-c", str(configuration or CONFIGURATIONS[kind])),
            environment=os.environ | {USERS[u]: p for u, p in self._passwords.items()},
        )
        self.server.start()

    def login(self, user: str) -> Login:
        """How this user connects."""
        return Login(self.server.url, user, self._passwords[user])

    def peer(self, user: str, client: str = "nats-py") -> Peer:
        """A client of this user, to be entered."""
        return PEERS[client](self.login(user))

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self._folder / "log").read_text()

    @property
    def violations(self) -> list[str]:
        """What the server refused to its users."""
        return [line for line in self.log.splitlines() if "Violation" in line]


class Deployed:
    """Two bridges on a guarded server, as its user ``bridge``, with a stream that they make."""

    def __init__(self, guarded: Guarded) -> None:
        self.guarded: Final = guarded
        settings = guarded.login("bridge").settings | {
            "BRIDGE_SUBJECT_PREFIX": "",
            "BRIDGE_STREAM": "EVENTS",
        }
        self.bridges: Final = [BridgeProcess(guarded.server.url, settings) for _ in range(2)]
        try:
            for bridge in self.bridges:
                bridge.wait_ready(START)
        except BaseException:
            for bridge in self.bridges:
                bridge.kill()
            raise

    def close(self) -> None:
        """Stop the bridges, and see that the server refused them nothing."""
        finish(self.bridges)
        refused = [line for line in self.guarded.violations if '/user:bridge"' in line]
        assert not refused, refused
        for bridge in self.bridges:
            assert "live only" not in bridge.output, bridge.output


def event(kind: str, data: Mapping[str, Any], **fields: Any) -> str:
    """Return an envelope as a service of any language would write it."""
    whole = {"type": kind, "id": new_id(), "timestamp": timestamp(), "data": data, **fields}
    return json.dumps(whole)


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def deployed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    """Two bridges on a server with one of the configurations, for the tests of one module."""
    guarded = Guarded(request.param, tmp_path_factory.mktemp("nats"))
    try:
        deployed = Deployed(guarded)
        yield deployed
        deployed.close()
    finally:
        guarded.server.close()
