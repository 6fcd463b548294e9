"""A command's way to its service: the request that goes out, and each answer that may come."""

from __future__ import annotations

import json
import logging

import pytest

from natsbridge.bridge.errors import BrokerUnavailable
from natsbridge.bridge.identity.grants import Grants, Rules
from natsbridge.bridge.identity.tokens import Identity
from natsbridge.bridge.nats.connection import Nobody
from natsbridge.bridge.sessions.commands import Commands
from natsbridge.bridge.sessions.handlers import Ask
from natsbridge.bridge.telemetry.lines import Lines
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import ErrorCode
from natsbridge.schemas.commands import UploadCancel
from natsbridge.schemas.replies import CommandAccepted, Error, Reply
from natsbridge.schemas.subjects import Subjects

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

    def __init__(self, answer: bytes | Exception, headers: dict[str, str] | None = None) -> None:
        self.asked: list[tuple[str, bytes, dict[str, str] | None]] = []
        self._answer = answer
        self._headers = headers or {}

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None
    ) -> tuple[dict[str, str], bytes]:
        self.asked.append((subject, payload, headers))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._headers, self._answer


async def ask(service: Service, traceparent: str | None = None) -> Reply:
    message = UploadCancel(
        type="upload.cancel", id="m", traceparent=traceparent, data={"upload_id": "a.b"}
    )
    commands = Commands(service.request, Subjects("p"), Lines(logging.getLogger("commands")))
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
        (b"null", ErrorCode.COMMAND_FAILED, "can't be read"),
        (b'{"accepted":null}', ErrorCode.COMMAND_FAILED, "can't be read"),
        (b'{"accepted":false,"reason":"\\ud83d"}', ErrorCode.COMMAND_FAILED, "can't be read"),
        (b'{"accepted":false,"code":null,"reason":null}', ErrorCode.COMMAND_FAILED, "refused"),
        (b'{"accepted":false,"code":"NO_SUCH","reason":"r"}', ErrorCode.COMMAND_FAILED, "r"),
        (b'{"accepted":false,"code":409,"reason":"r"}', ErrorCode.COMMAND_FAILED, "r"),
        (b'{"accepted":false,"code":"403","reason":"r"}', ErrorCode.NOT_PERMITTED, "r"),
        (b'{"accepted":false,"reason":["r"]}', ErrorCode.COMMAND_FAILED, "refused"),
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
    "answer",
    [
        b'{"accepted":true}',
        b'{"accepted": true, "code": null, "reason": null, "data": null}\n',
        b'{"accepted":true,"code":"OK","reason":"' + b"x" * 600 + b'","own":[1e400]}',
        b'{"accepted":true,"code":200,"reason":{"why":1},"data":{}}',
    ],
)
async def test_what_is_beside_a_success_makes_no_failure_of_it(answer: bytes) -> None:
    """Encoders of other languages write null for what is absent, and services fields of theirs."""
    assert isinstance(await ask(Service(answer)), CommandAccepted)


async def test_a_reason_that_is_too_long_is_cut() -> None:
    """The client gets what fits of it, with the service's code."""
    text = json.dumps({"accepted": False, "code": "NOT_PERMITTED", "reason": "ö" * 600})
    reply = await ask(Service(text.encode()))
    assert isinstance(reply, Error)
    assert reply.data.code is ErrorCode.NOT_PERMITTED
    assert reply.data.message == "ö" * 512


@pytest.mark.parametrize(
    ("headers", "code", "words"),
    [
        ({"Nats-Service-Error-Code": "9", "Nats-Service-Error": "no"}, "COMMAND_FAILED", "no"),
        ({"nats-service-error-code": "403"}, "NOT_PERMITTED", "refused"),
        ({"Nats-Service-Error": "x" * 600}, "COMMAND_FAILED", "x" * 512),
        ({"Nats-Service-Error": "\udcc3\udcb6"}, "COMMAND_FAILED", "ö"),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"not JSON", b'{"accepted":true}'])
async def test_errors_of_natss_own_services(
    headers: dict[str, str], code: str, words: str, payload: bytes
) -> None:
    """Such a service says in headers what went wrong; the body is its own affair."""
    reply = await ask(Service(payload, headers))
    assert isinstance(reply, Error)
    assert reply.data.code == code
    assert words in reply.data.message
    assert len(reply.data.message) <= 512


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "it is empty"),
        (b"secret", "it is not JSON"),
        (b'["secret"]', "it is no JSON object"),
        (b'{"Accepted":true,"a":"secret"}', '"accepted" is missing'),
        (b'{"accepted":"secret"}', '"accepted" is neither true nor false'),
        (b'{"accepted":false,"code":"secret"}', '"code" is not COMMAND_FAILED or NOT_PERMITTED'),
        (b'{"accepted":false,"reason":{"a":"secret"}}', '"reason" is no text'),
    ],
)
async def test_the_log_says_what_is_wrong_with_an_answer(
    answer: bytes, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It names command and mistake, and nothing of the payload."""
    await ask(Service(answer))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["command"] == "upload.cancel"
    assert vars(record)["problem"] == told
    assert "secret" not in str(vars(record))


@pytest.mark.parametrize(
    ("given", "sent"),
    [("00-ab-cd-01", True), ("a\r\nNats-Msg-Id: 1", False), ("é", False), ("", False)],
)
async def test_only_a_plain_traceparent_goes_on(given: str, sent: bool) -> None:
    """A client can't write headers of its own into a NATS message."""
    service = Service(b'{"accepted":true}')
    await ask(service, given)
    assert service.asked[0][2] == ({"traceparent": given} if sent else None)
    assert json.loads(service.asked[0][1]).get("traceparent") == (given if sent else None)
