"""The ingest parser: any split of NATS's bytes gives the same calls, and garbage a typed error."""

from __future__ import annotations

import itertools
import json

from hypothesis import example, given
from hypothesis import strategies as st

from natsbridge.bridge.nats.ingest import MAX_CONTROL_LINE, Ingest, IngestError
from tests.support.nats_client import Call, feed, scripted

Operation = tuple[bytes, Call | None]
"""Bytes of one operation, and the call that it comes to."""

protocol_text = st.sampled_from(
    (b"MSG a i1 3\r\nabc\r\n", b"PING\r\n", b"-ERR 'x'\r\n", b"\r\n", b"HMSG a 1 12 13\r\n", b"\r")
)
payloads = st.lists(st.binary(max_size=20) | protocol_text, max_size=4).map(b"".join)
tokens = st.from_regex(rb"[a-zA-Z0-9_=$-]{1,8}", fullmatch=True)
subjects = st.lists(tokens, min_size=1, max_size=6).map(b".".join)
replies = st.just(b"") | subjects
header_lines = st.lists(st.from_regex(rb"[A-Za-z-]{1,8}: [ -~]{0,12}", fullmatch=True), max_size=3)
headers = header_lines.map(
    lambda lines: b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
)
own_ids = st.integers(1, 10**6).map(lambda number: b"i%d" % number)
nats_ids = st.integers(1, 10**6).map(lambda number: b"%d" % number)


@st.composite
def messages(draw: st.DrawFn) -> Operation:
    """``MSG`` or ``HMSG``, for the bridge or for nats-py, with or without a reply subject."""
    sid, subject, reply = draw(own_ids | nats_ids), draw(subjects), draw(replies)
    payload = draw(payloads)
    block = draw(st.none() | headers)
    words = [b"MSG" if block is None else b"HMSG", subject, sid]
    words += [reply] if reply else []
    words += [] if block is None else [b"%d" % len(block)]
    words.append(b"%d" % (len(block or b"") + len(payload)))
    text = b" ".join(words) + b"\r\n" + (block or b"") + payload + b"\r\n"
    if sid.startswith(b"i"):
        return text, ("own", sid, subject, block or b"", payload)
    return text, ("nats", int(sid), subject, reply, payload, block or b"")


plain: st.SearchStrategy[Operation] = st.one_of(
    st.just((b"PING\r\n", ("ping",))),
    st.just((b"PONG\r\n", ("pong",))),
    st.just((b"+OK\r\n", None)),
    st.sampled_from(("stale connection", "permissions violation for subscription to x")).map(
        lambda text: (f"-ERR '{text}'\r\n".encode(), ("error", f"'{text}'"))
    ),
    st.fixed_dictionaries({"server_id": st.text(max_size=20), "headers": st.booleans()}).map(
        lambda info: (b"INFO " + json.dumps(info).encode() + b"\r\n", ("info", info))
    ),
)
streams = st.lists(messages() | plain, max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The pieces between these places, wherever they are."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def expected(stream: list[Operation]) -> list[Call]:
    return [call for _, call in stream if call is not None]


@given(streams, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_gives_the_same_calls(stream: list[Operation], places: list[int]) -> None:
    """However the bytes come in, each operation is one call, whole and in its place."""
    data = b"".join(text for text, _ in stream)
    client, parser = scripted(pongs=len(stream))
    feed(parser, *cut(data, places))
    assert client.calls == expected(stream)
    assert client.pongs == sum(text == b"PONG\r\n" for text, _ in stream)


@given(st.lists(messages() | plain, max_size=5))
def test_one_byte_at_a_time_gives_the_same_calls(stream: list[Operation]) -> None:
    """The finest split of all."""
    data = b"".join(text for text, _ in stream)
    client, parser = scripted(pongs=len(stream))
    feed(parser, *(data[at : at + 1] for at in range(len(data))))
    assert client.calls == expected(stream)


garbage = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            (
                b"MSG", b"HMSG", b" ", b"  ", b"\t", b"a.b", b"i1", b"1", b"0", b"-1", b"12", b"+3",
                b"1_0", b"99999999999", b"\r\n", b"\r", b"\n", b"PING", b"PONG", b"+OK", b"-ERR",
                b"-ERR '\xff'", b"'x'", b"INFO", b"{}", b"[]", b"{bad", b"NATS/1.0", b"\x00",
                b"msg", b"i", b"x1",
            )
        ),
        max_size=30,
    ).map(b"".join),
    st.tuples(streams, st.integers(0, 10_000), st.binary(min_size=1, max_size=3)).map(
        lambda each: _damaged(b"".join(text for text, _ in each[0]), each[1], each[2])
    ),
)  # fmt: skip


def _damaged(data: bytes, place: int, noise: bytes) -> bytes:
    at = place % (len(data) + 1)
    return data[:at] + noise + data[at + len(noise) :]


def outcome(parser: Ingest, chunks: list[bytes]) -> str:
    """Parse until the end or the first error, which is of one type."""
    try:
        feed(parser, *chunks)
    except IngestError:
        return "refused"
    return "read"


@given(garbage, st.lists(st.integers(0, 10_000), max_size=6))
@example(b"INFO {bad\r\n", [])
@example(b"INFO []\r\n", [])
@example(b"INFO " + b"[" * 60_000 + b"\r\n", [])
@example(b"-ERR \r\n", [])
@example(b"-ERR '\xff'\r\n", [])
@example(b"MSG a 1 x y 3\r\nabc\r\n", [])
@example(b"MSG a i1 " + b"9" * 5000 + b"\r\n", [])
@example(b"HMSG a 1 5\r\n12345\r\nPING\r\n", [])
@example(b"HMSG a i1 5 3\r\nabc\r\n", [])
@example(b"MSG a i1 3\r\nabcde\r\n", [])
@example(b"\r\n", [])
def test_garbage_is_read_or_refused_with_one_type(data: bytes, places: list[int]) -> None:
    """Whatever comes in, the parser goes on or raises IngestError, alike for every split."""
    assert outcome(scripted(pongs=99)[1], [data]) == outcome(
        scripted(pongs=99)[1], cut(data, places)
    )


@given(garbage, streams)
def test_after_a_reset_nothing_of_the_garbage_is_left(data: bytes, stream: list[Operation]) -> None:
    """nats-py resets the parser when it reconnects: what comes then is read from the start."""
    client, parser = scripted(pongs=99)
    outcome(parser, [data])
    parser.reset()
    client.calls.clear()
    feed(parser, b"".join(text for text, _ in stream))
    assert client.calls == expected(stream)


@given(st.sampled_from((b"x", b" ", b"MSG ", b"\r", b"INFO {")), st.integers(1_000, 30_000))
def test_an_operation_without_an_end_is_refused_in_time(unit: bytes, chunk: int) -> None:
    """Bytes without a line end are kept up to a bound, whatever the size of the reads."""
    parser = scripted()[1]
    piece = unit * (chunk // len(unit) + 1)
    fed = 0
    verdict = "read"
    while verdict == "read":
        assert fed <= MAX_CONTROL_LINE
        verdict = outcome(parser, [piece])
        fed += len(piece)
