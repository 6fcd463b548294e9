"""Answering what clients ask of a service.

A client's ``upload.cancel`` comes as a request on ``commands.upload.cancel.<user>.<upload>``. The
handler accepts it by returning, and refuses it by raising :class:`Refused`::

    commands = Commands(publisher)

    @commands.on("upload.cancel")
    async def cancel(command: Command) -> None:
        if uploads.owner(command.resource_id) != command.user_id:
            raise Refused("you have no such upload", ErrorCode.NOT_PERMITTED)
        await uploads.stop(command.resource_id)

    async with publisher, commands:
        ...
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from opentelemetry import context, propagate, trace
from pydantic import ValidationError

from natsbridge.publishers import tracing
from natsbridge.publishers.connection import Message, Unsubscribe
from natsbridge.publishers.errors import BrokerUnavailable
from natsbridge.publishers.publisher import EventPublisher
from natsbridge.publishers.waiting import cancelled
from natsbridge.schemas.bus import describe
from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import COMMAND_RESOURCES, MAX_REASON, CommandReply, CommandRequest
from natsbridge.schemas.envelope import HEADER_TRACEPARENT
from natsbridge.schemas.errors import SchemaError
from natsbridge.schemas.subjects import Root, is_event_type

log = logging.getLogger("publishers")

QUEUE: Final = "commands"
"""The queue group that replicas of a service share: one of them gets each command."""

GRACE: Final = 0.5
"""Seconds that running handlers have when the service stops."""


class Refused(Exception):
    """Raised by a handler to refuse a command; ``reason`` is in words for the user.

    It is cut after 512 characters.
    """

    def __init__(
        self,
        reason: str,
        code: Literal[ErrorCode.COMMAND_FAILED, ErrorCode.NOT_PERMITTED] = ErrorCode.COMMAND_FAILED,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """What a client asks for.

    ``user_id`` is who asks, as the bridge has authenticated them, and ``resource_id`` what it is
    about. ``data`` is the client's own and was not checked.
    """

    name: str
    user_id: str
    resource_id: str
    id: str
    timestamp: str
    data: Mapping[str, Any]


Handler = Callable[[Command], Awaitable[None]]


class Commands:
    """The commands that one service answers; an async context manager inside the publisher's.

    ``max_running`` handlers run at the same time; what comes above that is refused. A handler has
    ``deadline`` seconds, four fifths of the bus timeout unless given: a client's request must not
    end first.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        *,
        queue: str = QUEUE,
        max_running: int = 64,
        deadline: float | None = None,
    ) -> None:
        self._publisher = publisher
        self._subjects = publisher.settings.subjects
        self._queue = queue
        self._max_running = max_running
        self._deadline = 0.8 * publisher.settings.timeout if deadline is None else deadline
        self._handlers: dict[str, Handler] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._unsubscribe: list[Unsubscribe] = []

    def on(self, command: str) -> Callable[[Handler], Handler]:
        """Declare the handler of a command (``upload.cancel``), before the block is entered.

        Raises ValueError for a name that is not ``<domain>.<action>`` or has a handler already.
        """
        if not is_event_type(command):
            raise ValueError(f"{command!r} is not <domain>.<action>")
        if command in self._handlers:
            raise ValueError(f"{command} has a handler already")

        def declare(handler: Handler) -> Handler:
            self._handlers[command] = handler
            return handler

        return declare

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Subscribe; returns when the broker knows.

        Raises :class:`publishers.BrokerUnavailable` and :class:`publishers.NotPermitted`. With a
        spool the start goes on without a broker, as publishing does: commands are answered once it
        is there, and where it refuses them the log says so.
        """
        root = self._subjects.root(Root.COMMANDS)
        try:
            for command in self._handlers:
                self._unsubscribe.append(
                    await self._publisher.connection.subscribe(
                        f"{root}.{command}.>", self._queue, self._receive
                    )
                )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take no more commands, and end those that still run after :data:`GRACE` seconds."""
        subscriptions, self._unsubscribe = self._unsubscribe, []
        await asyncio.gather(*(unsubscribe() for unsubscribe in subscriptions))
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=GRACE)
            await cancelled(*late)

    async def _receive(self, message: Message) -> None:
        if not message.reply:
            log.warning("a command without a reply subject is ignored: %s", message.subject)
        elif len(self._running) >= self._max_running:
            await self._answer(message, _refusal("the service is busy, try again later"))
        else:
            task = asyncio.get_running_loop().create_task(self._serve(message))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _serve(self, message: Message) -> None:
        try:
            command = self._read(message)
        except (SchemaError, ValidationError) as error:
            told = describe(error) if isinstance(error, ValidationError) else error
            log.warning("a malformed command is refused: %s", told)
            await self._answer(message, _refusal("malformed request"))
            return
        if HEADER_TRACEPARENT in message.headers:
            # For this task alone: what the handler publishes belongs to the command's trace.
            context.attach(propagate.extract(message.headers))
        template = f"{self._subjects.root(Root.COMMANDS)}.{command.name}.{{user}}.{{resource}}"
        with tracing.serving(command.name, template):
            try:
                reply = await self._run(command)
            except asyncio.CancelledError:
                await self._answer(message, _refusal("the service is stopping"))
                raise
            await self._answer(message, reply)

    def _read(self, message: Message) -> Command:
        name, user, resource = self._subjects.parse_command(message.subject)
        request = CommandRequest.model_validate_json(message.data)
        # The subject is what the broker's permissions guard.
        if (request.command, request.user_id, request.resource_id) != (name, user, resource):
            raise SchemaError("the request disagrees with its subject")
        if request.data.get(COMMAND_RESOURCES.get(name, ""), resource) != resource:
            raise SchemaError("the request's data disagree with its subject")
        return Command(name, user, resource, request.id, request.timestamp, request.data)

    async def _run(self, command: Command) -> CommandReply:
        span = trace.get_current_span()
        try:
            async with asyncio.timeout(self._deadline) as limit:
                await self._handlers[command.name](command)
        except Refused as refused:
            span.set_attribute("natsbridge.command.refused", str(refused.code))
            return _refusal(refused.reason, refused.code)
        except Exception as error:
            tracing.mark(span, TimeoutError() if limit.expired() else error)
            if limit.expired():
                log.error("%s took over %g s and was stopped", command.name, self._deadline)
                return _refusal("the service took too long")
            # Any bug of a handler ends here: the client must get an answer, and no details.
            log.exception("the handler of %s failed", command.name)
            return _refusal("internal error")
        return CommandReply(accepted=True)

    async def _answer(self, message: Message, reply: CommandReply) -> None:
        unneeded = {"code", "reason"} if reply.accepted else None
        payload = reply.model_dump_json(exclude=unneeded).encode()
        now = asyncio.get_running_loop().time()
        try:
            await self._publisher.connection.send(message.reply, payload, {}, now + 1.0)
        except BrokerUnavailable as error:
            log.warning("the answer to a command was lost: %s", error.detail)


def _refusal(
    reason: str,
    code: Literal[ErrorCode.COMMAND_FAILED, ErrorCode.NOT_PERMITTED] = ErrorCode.COMMAND_FAILED,
) -> CommandReply:
    clean = reason.encode("utf-8", "replace").decode()  # a lone surrogate can't be sent
    return CommandReply(accepted=False, code=code, reason=clean[:MAX_REASON])
