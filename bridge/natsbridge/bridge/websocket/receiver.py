"""What a connection's owner is told."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """What a connection's owner does with what happens on it. Nothing here may block."""

    def on_message(self, data: bytes, is_text: bool) -> None:
        """A whole message; text is valid UTF-8."""

    def on_sign_of_life(self) -> None:
        """The peer answered a ping, sent one, or is in the middle of a message."""

    def on_pause(self) -> None:
        """The connection can't be written to for now."""

    def on_resume(self) -> None:
        """The connection can be written to again."""

    def on_lost(self) -> None:
        """The connection is over, or about to be: nothing more can be sent. Called once."""
