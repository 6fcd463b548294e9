"""NATS with the rights of ``deploy/``: the very files, on a port and a folder of the test's own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

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
