"""A client's command as a request to its service, and the answer as a message for the client."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic import ValidationError

from bridge.errors import BrokerUnavailable
from bridge.identity.tokens import Identity
from bridge.sessions.handlers import Ask
from schemas.codes import ErrorCode
from schemas.commands import CommandReply, CommandRequest
from schemas.envelope import HEADER_TRACEPARENT, new_id, timestamp
from schemas.replies import CommandAccepted, CommandAcceptedData, Reply, error
from schemas.subjects import Subjects

log = logging.getLogger(__name__)

Request = Callable[[str, bytes, dict[str, str] | None], Awaitable[bytes]]
"""Takes subject, payload and headers, returns the answer; raises :class:`BrokerUnavailable`."""


class Commands:
    """Takes commands to services on ``commands.<command>.<user>.<resource>``."""

    def __init__(self, request: Request, subjects: Subjects) -> None:
        self._request: Final = request
        self._subjects: Final = subjects

    async def ask(self, ask: Ask, identity: Identity) -> Reply:
        """Return what to tell the client; never raises for what a service does or does not do."""
        message = ask.message
        asked = CommandRequest(
            command=ask.command,
            user_id=identity.user_id,
            resource_id=ask.resource_id,
            id=message.id or new_id(),
            timestamp=timestamp(),
            data=message.data.model_dump(),
        )
        headers = None
        if (
            message.traceparent
            and message.traceparent.isascii()
            and message.traceparent.isprintable()
        ):
            headers = {HEADER_TRACEPARENT: message.traceparent}
        try:
            answer = await self._request(
                self._subjects.command(ask.command, identity.user, ask.resource),
                asked.model_dump_json().encode(),
                headers,
            )
        except BrokerUnavailable as problem:
            return error(
                ErrorCode.SERVICE_UNAVAILABLE,
                f"The service behind {ask.command} is not available: {problem}",
                reply_to=message.id,
            )
        try:
            reply = CommandReply.model_validate_json(answer)
        except ValidationError:
            log.warning("a service answered %s with what is no reply", ask.command)
            return error(
                ErrorCode.COMMAND_FAILED,
                "The service gave an answer that can't be read",
                reply_to=message.id,
            )
        if not reply.accepted:
            return error(
                ErrorCode(reply.code), reply.reason or "The service refused", reply_to=message.id
            )
        return CommandAccepted(
            data=CommandAcceptedData(command=ask.command, upload_id=ask.resource_id),
            reply_to=message.id,
        )
