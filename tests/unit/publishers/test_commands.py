"""Declaring command handlers."""

from __future__ import annotations

import pytest

from natsbridge.publishers import Command, Commands, EventPublisher, Refused
from natsbridge.schemas.codes import ErrorCode


async def handler(command: Command) -> None:
    """Accept."""


def test_a_handler_is_returned_as_it_is() -> None:
    """The decorator leaves the function usable, in tests above all."""
    assert Commands(EventPublisher()).on("upload.cancel")(handler) is handler


@pytest.mark.parametrize("name", ["", "upload", "upload.cancel.now", "Upload.cancel", "upload.*"])
def test_a_malformed_name_is_refused_where_it_is_declared(name: str) -> None:
    """A typo is found at start, not by the first client."""
    with pytest.raises(ValueError, match="domain"):
        Commands(EventPublisher()).on(name)


def test_two_handlers_for_one_command_are_refused() -> None:
    """Which of them runs would be chance."""
    commands = Commands(EventPublisher())
    commands.on("upload.cancel")(handler)
    with pytest.raises(ValueError, match="handler already"):
        commands.on("upload.cancel")


def test_a_refusal_says_why() -> None:
    """A handler's refusal carries its reason and its code."""
    refused = Refused("not yours", ErrorCode.NOT_PERMITTED)
    assert (refused.reason, refused.code) == ("not yours", ErrorCode.NOT_PERMITTED)
    assert Refused("no").code is ErrorCode.COMMAND_FAILED
