"""A client's command as a request to its service, and the answer as a message for the client."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Final

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.sessions.answers import read_answer
from natsbridge.bridge.sessions.handlers import Ask
from natsbridge.bridge.telemetry.histograms import Histogram
from natsbridge.bridge.telemetry.lines import Lines
from natsbridge.bridge.telemetry.observer import Line
from natsbridge.bridge.telemetry.tracing import Tracing, end, header_of
from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import CommandRequest
from natsbridge.schemas.envelope import HEADER_TRACEPARENT, new_id, timestamp
from natsbridge.schemas.replies import CommandAccepted, CommandAcceptedData, Error, Reply, error
from natsbridge.schemas.subjects import Subjects
from natsbridge.schemas.trace import well_formed

Request = Callable[[str, bytes, dict[str, str] | None], Awaitable[tuple[Mapping[str, str], bytes]]]
"""Takes subject, payload and headers, returns headers and payload of the answer; raises
:class:`BrokerUnavailable`."""


class Commands:
    """Takes commands to services on ``commands.<command>.<user>.<resource>``."""

    def __init__(
        self,
        request: Request,
        subjects: Subjects,
        lines: Lines,
        times: Histogram | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """``times`` counts how long services take; ``tracing`` makes a span of each command."""
        self._times: Final = Histogram() if times is None else times
        self._tracing: Final = tracing
        self._request: Final = request
        self._lines: Final = lines
        self._subjects: Final = subjects

    async def ask(self, ask: Ask, identity: Identity) -> Reply:
        """Return what to tell the client; never raises for what a service does or does not do."""
        began = perf_counter()
        if self._tracing is None:
            reply = await self._ask(ask, identity, ask.message.traceparent)
            self._times.add(perf_counter() - began)
            return reply
        subject = self._subjects.command(ask.command, "{user}", "{resource}")
        span = self._tracing.command(ask.command, subject, well_formed(ask.message.traceparent))
        failed = "cancelled"
        try:
            reply = await self._ask(ask, identity, header_of(span))
            failed = reply.data.code if isinstance(reply, Error) else ""
        finally:
            context = span.get_span_context()
            ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
            sampled = context.trace_flags.sampled
            self._times.add(perf_counter() - began, trace=ids if sampled else None)
            end(span, failed)
        return reply

    async def _ask(self, ask: Ask, identity: Identity, traceparent: str | None) -> Reply:
        message = ask.message
        if not (traceparent and traceparent.isascii() and traceparent.isprintable()):
            traceparent = None
        asked = CommandRequest(
            command=ask.command,
            user_id=identity.user_id,
            resource_id=ask.resource_id,
            id=message.id or new_id(),
            timestamp=timestamp(),
            data=message.data.model_dump(),
            traceparent=traceparent,
        )
        absent = {"traceparent"} if traceparent is None else None
        try:
            headers, payload = await self._request(
                self._subjects.command(ask.command, identity.user, ask.resource),
                asked.model_dump_json(exclude=absent).encode(),
                None if traceparent is None else {HEADER_TRACEPARENT: traceparent},
            )
        except BrokerUnavailable as problem:
            return error(
                ErrorCode.SERVICE_UNAVAILABLE,
                f"The service behind {ask.command} is not available: {problem}",
                reply_to=message.id,
            )
        answer = read_answer(payload, headers)
        if answer.wrong:
            self._lines.say(
                logging.WARNING,
                Line.COMMAND_ANSWER,
                lambda: {"command": ask.command, "problem": answer.wrong},
                kind=ask.command,
            )
        if not answer.accepted:
            return error(answer.code, answer.reason or "The service refused", reply_to=message.id)
        return CommandAccepted(
            data=CommandAcceptedData(command=ask.command, upload_id=ask.resource_id),
            reply_to=message.id,
        )
