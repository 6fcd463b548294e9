"""A command's way to its service: the request that goes out, and each answer that may come."""

from __future__ import annotations

import json

import pytest

from bridge.broker.connection import Nobody
from bridge.errors import BrokerUnavailable
from bridge.identity.grants import Grants, Rules
from bridge.identity.tokens import Identity
from bridge.sessions.commands import Commands
from bridge.sessions.handlers import Ask
from schemas.catalogue import Catalogue
from schemas.codes import ErrorCode
from schemas.commands import UploadCancel
from schemas.replies import CommandAccepted, Error, Reply
from schemas.subjects import Subjects

WHO = Identity(
    user_id="u@1",
    user="u=401",
    role="user",
    admin=False,
    email=None,
    name=None,
    expires_at=2e9,
    issued_at=None,
    token_id=None,
    grants=Grants(Rules(), Rules(), Catalogue.load()),
)


class Service:
    """What stands for NATS and the service behind it."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.asked: list[tuple[str, bytes, dict[str, str] | None]] = []
        self._answer = answer

    async def request(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> bytes:
        self.asked.append((subject, payload, headers))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def ask(service: Service, traceparent: str | None = None) -> Reply:
    message = UploadCancel(
        type="upload.cancel", id="m", traceparent=traceparent, data={"upload_id": "a.b"}
    )
    commands = Commands(service.request, Subjects("p"))
    return await commands.ask(Ask("upload.cancel", "a.b", "a=2Eb", message), WHO)


async def test_the_request_tells_who_asks_for_what() -> None:
    """Subject and payload name command, user and resource; the message's id goes along."""
    service = Service(b'{"accepted":true}')
    reply = await ask(service)
    ((subject, payload, headers),) = service.asked
    assert subject == "p.commands.upload.cancel.u=401.a=2Eb"
    asked = json.loads(payload)
    assert asked.pop("timestamp")
    assert asked == {
        "command": "upload.cancel",
        "user_id": "u@1",
        "resource_id": "a.b",
        "id": "m",
        "data": {"upload_id": "a.b"},
    }
    assert headers is None
    assert isinstance(reply, CommandAccepted)
    assert reply.data.model_dump() == {"command": "upload.cancel", "upload_id": "a.b"}
    assert reply.reply_to == "m"


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b'{"accepted":false}', ErrorCode.COMMAND_FAILED, "refused"),
        (b'{"accepted":false,"reason":"too late"}', ErrorCode.COMMAND_FAILED, "too late"),
        (
            b'{"accepted":false,"code":"NOT_PERMITTED","reason":"not yours"}',
            ErrorCode.NOT_PERMITTED,
            "not yours",
        ),
        (b"", ErrorCode.COMMAND_FAILED, "can't be read"),
        (b"\xff", ErrorCode.COMMAND_FAILED, "can't be read"),
        (b"[]", ErrorCode.COMMAND_FAILED, "can't be read"),
        (b'{"accepted":"yes"}', ErrorCode.COMMAND_FAILED, "can't be read"),
        (b'{"accepted":false,"code":"NO_SUCH"}', ErrorCode.COMMAND_FAILED, "can't be read"),
        (Nobody("nobody answers"), ErrorCode.SERVICE_UNAVAILABLE, "nobody answers"),
        (BrokerUnavailable("no answer"), ErrorCode.SERVICE_UNAVAILABLE, "no answer"),
    ],
)
async def test_each_answer_has_its_error(
    answer: bytes | Exception, code: ErrorCode, words: str
) -> None:
    """Refused, unreadable, nobody there: the client is told which, with its message's id."""
    reply = await ask(Service(answer))
    assert isinstance(reply, Error)
    assert reply.data.code is code
    assert words in reply.data.message
    assert reply.reply_to == "m"


@pytest.mark.parametrize(
    ("given", "sent"),
    [("00-ab-cd-01", True), ("a\r\nNats-Msg-Id: 1", False), ("é", False), ("", False)],
)
async def test_only_a_plain_traceparent_goes_on(given: str, sent: bool) -> None:
    """A client can't write headers of its own into a NATS message."""
    service = Service(b'{"accepted":true}')
    await ask(service, given)
    assert service.asked[0][2] == ({"traceparent": given} if sent else None)
