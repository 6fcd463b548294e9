"""The ingest parser's corners, one by one."""

from __future__ import annotations

import asyncio
import logging

import pytest

from natsbridge.bridge.errors import BrokerError
from natsbridge.bridge.nats import ingest
from natsbridge.bridge.nats.ingest import MAX_PAYLOAD, Ingest, IngestError, Tap
from tests.support.nats_client import Pong, ScriptedClient, feed, run, scripted


class Inner(asyncio.Protocol):
    """nats-py's side of a tap."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.got.append(data)


class QuietReads:
    """Nothing is to be written here."""

    def begin(self) -> None:
        pass

    def end(self, more: bool, /) -> None:
        pass


def test_an_own_message_goes_to_the_bridge() -> None:
    """Subscription id, subject, no headers, payload; a reply subject is of no interest."""
    client, parser = scripted()
    feed(parser, b"MSG live.all.a.b.- i7 3\r\nabc\r\nMSG a i7 reply.to 1\r\nx\r\n")
    assert client.calls == [
        ("own", b"i7", b"live.all.a.b.-", b"", b"abc"),
        ("own", b"i7", b"a", b"", b"x"),
    ]


def test_headers_come_apart_from_the_payload() -> None:
    """The header block is handed over as it stands, and the payload behind it."""
    client, parser = scripted()
    block = b"NATS/1.0\r\nA: 1\r\n\r\n"
    feed(parser, b"HMSG a i1 %d %d\r\n%b{}\r\n" % (len(block), len(block) + 2, block))
    assert client.calls == [("own", b"i1", b"a", block, b"{}")]


def test_headers_without_a_payload() -> None:
    """A message of headers alone has an empty payload."""
    client, parser = scripted()
    block = b"NATS/1.0 503\r\n\r\n"
    feed(parser, b"HMSG a i1 %d %d\r\n%b\r\n" % (len(block), len(block), block))
    assert client.calls == [("own", b"i1", b"a", block, b"")]


def test_an_empty_payload() -> None:
    """A message of no bytes is a message."""
    client, parser = scripted()
    feed(parser, b"MSG a i1 0\r\n\r\nMSG b 2 0\r\n\r\nPING\r\n")
    assert client.calls == [
        ("own", b"i1", b"a", b"", b""),
        ("nats", 2, b"b", b"", b"", b""),
        ("ping",),
    ]


def test_protocol_text_in_a_payload_is_payload() -> None:
    """What looks like an operation inside a message is not read as one."""
    client, parser = scripted(pongs=1)
    payload = b"PING\r\nPONG\r\nMSG x i2 0\r\n\r\n-ERR 'x'\r\n"
    feed(parser, b"MSG a i1 %d\r\n%b\r\n" % (len(payload), payload))
    assert client.calls == [("own", b"i1", b"a", b"", payload)]


def test_nats_pys_messages_go_to_nats_py() -> None:
    """Numbers are its subscription ids: requests, control and JetStream go its own way."""
    client, parser = scripted()
    feed(parser, b"MSG _INBOX.x 3 answer.to 2\r\nhi\r\n")
    assert client.calls == [("nats", 3, b"_INBOX.x", b"answer.to", b"hi", b"")]


def test_a_fault_with_one_message_is_logged_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever handles a message may fail: the next ones come, in the same read and after."""
    got: list[bytes] = []

    def receive(subject: bytes, headers: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise RuntimeError("a fault")
        got.append(payload)

    client, parser = scripted(receivers={b"i1": receive})
    with caplog.at_level(logging.ERROR):
        feed(
            parser,
            b"MSG a i1 1\r\n1\r\nMSG a i1 3\r\nbad\r\nMSG a i1 1\r\n2\r\nPING\r\nMSG a i",
            b"1 3\r\nbad\r\nMSG a i1 1\r\n3\r\n",
        )
    assert got == [b"1", b"2", b"3"]
    assert client.calls == [("ping",)]
    assert len(caplog.records) == 2


def test_what_nats_py_can_not_read_is_dropped_alone(caplog: pytest.LogCaptureFixture) -> None:
    """nats-py may fail with what somebody published: the next operations are read."""

    class Choosy(ScriptedClient):
        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
        ) -> None:
            subject.decode()
            await super()._process_msg(sid, subject, reply, data, headers)

    client = Choosy()
    parser = Ingest(client, {})  # type: ignore[arg-type]  # a stand-in
    with caplog.at_level(logging.WARNING):
        feed(parser, b"MSG \xff 1 1\r\n1\r\nMSG a 1 1\r\n2\r\nPING\r\n")
    assert client.calls == [("nats", 1, b"a", b"", b"2", b""), ("ping",)]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_a_subscription_that_was_left_has_no_say() -> None:
    """A message of an id that nobody receives any more is dropped; the next one is read."""
    got: list[bytes] = []
    receivers = {b"i2": lambda subject, headers, payload: got.append(payload)}
    client, parser = scripted(receivers=receivers)
    feed(parser, b"MSG a i1 1\r\n1\r\nMSG a i2 1\r\n2\r\n")
    del receivers[b"i2"]
    feed(parser, b"MSG a i2 1\r\n3\r\nPING\r\n")
    assert got == [b"2"]
    assert client.calls == [("ping",)]


async def test_a_pong_for_a_waiter_that_gave_up_is_no_fault() -> None:
    """A round trip that ran out of time leaves its future: its PONG, and the next, are read."""
    client, parser = scripted()
    loop = asyncio.get_running_loop()
    gone, there = loop.create_future(), loop.create_future()
    client.waiting.extend((gone, there))
    gone.cancel()
    await parser.parse(b"PONG\r\nPONG\r\n")
    assert there.result() is True
    assert gone.cancelled()
    assert client.waiting == []


def test_a_fault_with_one_pong_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for a PONG may fail with it: the next one, and what follows, are read."""

    class Faulty(Pong):
        def set_result(self, result: bool, /) -> None:
            raise RuntimeError("a fault")

    client, parser = scripted()
    client.waiting.extend((Faulty(client), Pong(client)))
    with caplog.at_level(logging.ERROR):
        feed(parser, b"PONG\r\nPONG\r\nPING\r\n")
    assert client.calls == [("pong",), ("ping",)]
    assert client.pongs == 2
    assert len(caplog.records) == 1


def test_a_fault_at_the_end_of_a_read_is_logged_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a read brought may cause a fault at its end: nats-py has its part, reading goes on."""
    inner = Inner()

    class FaultyReads:
        def begin(self) -> None:
            pass

        def end(self, more: bool, /) -> None:
            raise RuntimeError("a fault")

    got: list[bytes] = []
    receivers = {b"i1": lambda subject, headers, payload: got.append(payload)}
    tap = Tap(inner, receivers, FaultyReads(), lambda _: False)
    with caplog.at_level(logging.ERROR):
        for number in (b"1", b"2"):
            tap.data_received(b"MSG a i1 1\r\n%b\r\nPING\r\n" % number)
    assert got == [b"1", b"2"]
    assert inner.got == [b"PING\r\n"] * 2
    assert len(caplog.records) == 2


def tapped(pongs: int = 0) -> tuple[ScriptedClient, Ingest, Tap, Inner]:
    """Return a parser with a tap before it, and what is behind the tap."""
    client, parser = scripted(pongs)
    parser.tapped = True
    inner = Inner()
    return client, parser, Tap(inner, parser._receivers, QuietReads(), parser.at_once), inner


def test_a_pong_of_the_bridge_comes_between_its_messages() -> None:
    """Right where it stands in the read; nats-py, which did not ask for it, does not see it."""
    client, _, tap, inner = tapped(pongs=2)
    tap.data_received(b"MSG a i1 1\r\n1\r\nPONG\r\nMSG a i1 1\r\n2\r\nPO")
    tap.data_received(b"NG\r\nPING\r\n")
    assert [call[0] for call in client.calls] == ["own", "pong", "own", "pong"]
    assert client.pongs == 2
    assert client.waiting == []
    assert inner.got == [b"PING\r\n"]


async def test_a_pong_of_nats_py_goes_its_way_with_those_behind_it() -> None:
    """PONGs come in the order of the PINGs: while nats-py has not read its own, none overtakes."""
    client, parser, tap, inner = tapped()
    mine = asyncio.get_running_loop().create_future()
    client.waiting.extend((mine, Pong(client)))
    tap.data_received(b"PONG\r\nPONG\r\n")
    assert inner.got == [b"PONG\r\nPONG\r\n"]
    assert not mine.done()
    await parser.parse(inner.got[0])
    assert mine.result() is True
    assert client.calls == [("pong",)]


def test_a_refusal_is_told_before_the_pong_behind_it_and_once() -> None:
    """nats-py hears of it too, in its own time, when the subject may be held anew."""
    client, parser, tap, inner = tapped(pongs=1)
    parser.on_denied = lambda subject: client.calls.append(("denied", subject))
    tap.data_received(b"-ERR 'Permissions Violation for Subscription to \"a.B\"'\r\nPONG\r\n")
    assert client.calls == [("denied", "a.B"), ("pong",)]
    feed(parser, *inner.got)
    assert [call[0] for call in client.calls] == ["denied", "pong", "error"]


async def test_a_pong_that_nobody_waits_for_is_counted() -> None:
    """More PONGs than PINGs do no harm."""
    client, parser = scripted()
    await parser.parse(b"PONG\r\n")
    assert client.pongs == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"   \r\n",
        b"FOO\r\n",
        b"ping\r\n",
        b"PING now\r\n",
        b"MSG\r\n",
        b"MSG a\r\n",
        b"MSG a i1\r\n",
        b"MSG a i1 x\r\n",
        b"MSG a i1 -1\r\n",
        b"MSG a i1 r s 3\r\nabc\r\n",
        b"MSG a i1 1_0\r\n0123456789\r\n",
        b"MSG a i1 +3\r\nabc\r\n",
        b"MSG a i1 3\r\nabcd\r\n",
        b"MSG a i1 %d\r\n" % (MAX_PAYLOAD + 1),
        b"MSG a x1 3\r\nabc\r\n",
        b"HMSG\r\n",
        b"HMSG 3\r\n",
        b"HMSG a i1 3\r\nabc\r\n",
        b"HMSG a i1 4 3\r\nabc\r\n",
        b"HMSG a 1 3\r\nabc\r\n",
        b"HMSG a i1 -1 3\r\nabc\r\n",
        b"INFO {bad\r\n",
        b"INFO\r\n",
        b"-ERR \r\n",
        b"-ERR '\xff'\r\n",
    ],
)
def test_what_is_no_protocol_is_refused(data: bytes) -> None:
    """Each is an IngestError, which nats-py takes for a reason to reconnect."""
    parser = scripted()[1]
    with pytest.raises(IngestError):
        run(parser.parse(data))


def test_the_error_says_what_is_wrong() -> None:
    """It is the bridge's and nats-py's own kind, and its words reach a log."""
    parser = scripted()[1]
    with pytest.raises(BrokerError, match="line"):
        run(parser.parse(b"MSG a i1 x\r\n"))


def test_a_subscription_that_is_denied_is_told() -> None:
    """With its subject as it is; nats-py hears of the error as well."""
    client, parser = scripted()
    denied: list[str] = []
    parser.on_denied = denied.append
    feed(
        parser,
        b"-ERR 'Permissions Violation for Subscription to \"live.user.Ab.>\"'\r\n",
        b"-ERR 'Permissions Violation for Publish to \"rejected.x\"'\r\n",
    )
    assert denied == ["live.user.Ab.>"]
    assert [call[0] for call in client.calls] == ["error", "error"]


def test_an_answer_that_nobody_waits_for_goes_no_further() -> None:
    """Whoever may publish to the bridges' inbox can't fill what nats-py keeps for its requests."""
    client, parser = scripted()
    feed(parser, b"MSG _INBOX_b.own.x 3 2\r\nhi\r\n")
    client._resp_sub_prefix = bytearray(b"_INBOX_b.own.")
    client._resp_map["asked"] = None
    feed(parser, b"MSG _INBOX_b.own.x 3 2\r\nhi\r\n", b"MSG _INBOX_b.own.asked 3 2\r\nhi\r\n")
    feed(parser, b"MSG _INBOX_b.owner 3 2\r\nhi\r\n", b"MSG _INBOX_b.own.asked.x 3 2\r\nhi\r\n")
    assert [call[2] for call in client.calls] == [
        b"_INBOX_b.own.x",
        b"_INBOX_b.own.asked",
        b"_INBOX_b.owner",
    ]
    assert parser.unasked == 2


def test_a_refused_inbox_is_given_up_when_nats_py_comes_to_it() -> None:
    """Not before: answers that came ahead of the refusal are still on their way."""
    client, parser = scripted()
    client._resp_sub_prefix = bytearray(b"_INBOX.Ab.")
    refusal = b"-ERR 'Permissions Violation for Subscription to \"%b\"'\r\n"
    feed(parser, refusal % b"_INBOX.Ac.*")
    assert client._resp_sub_prefix is not None
    parser.at_once(refusal % b"_INBOX.Ab.*")
    assert client._resp_sub_prefix is not None
    feed(parser, refusal % b"_INBOX.Ab.*")
    assert client._resp_sub_prefix is None


def test_a_reset_forgets_half_a_message() -> None:
    """What was half read when the connection broke is gone; the new connection starts clean."""
    client, parser = scripted()
    feed(parser, b"MSG a i1 100\r\nhalf of it")
    parser.reset()
    feed(parser, b"MSG a i1 2\r\nok\r\n")
    assert client.calls == [("own", b"i1", b"a", b"", b"ok")]


async def test_operations_are_written_at_once_and_in_order() -> None:
    """``write`` goes past nats-py's queue, straight to its transport."""
    written: list[bytes] = []

    class Transport:
        def write(self, data: bytes) -> None:
            written.append(data)

    client = ScriptedClient()
    client._transport = Transport()  # type: ignore[attr-defined]  # nats-py's own name
    ingest.write(client, b"SUB a  i1\r\n")  # type: ignore[arg-type]
    waiter = asyncio.get_running_loop().create_future()
    ingest.await_pong(client, waiter)  # type: ignore[arg-type]
    assert written == [b"SUB a  i1\r\n"]
    assert client.waiting == [waiter]
