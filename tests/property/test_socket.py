"""The socket: any split of a client's bytes gives the same messages, whoever shares the parsers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.websocket.parsers import Parsers
from tests.support.scripted_peer import BINARY, CONT, PING, PONG, TEXT, Peer, client_frame

texts = st.text(max_size=60).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
controls = st.lists(st.tuples(st.sampled_from((PING, PONG)), st.binary(max_size=125)), max_size=2)
places = st.lists(st.integers(0, 1_000_000), max_size=8)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bool]], list[bytes], int]:
    """Bytes of a client; the messages, the pings, and how many frames are not a message's last."""
    data, messages, pings, signs = b"", [], [], 0
    for _ in range(draw(st.integers(0, 4))):
        is_text = draw(st.booleans())
        message = draw(texts if is_text else st.binary(max_size=200))
        message *= draw(st.sampled_from((1, 1, 1, 300)))
        messages.append((message, is_text))
        pieces = cut(message, draw(st.lists(st.integers(0, 1000), max_size=3)))
        for number, piece in enumerate(pieces):
            for opcode, payload in draw(controls):
                data += client_frame(opcode, payload, mask=draw(masks))
                pings += [payload] if opcode == PING else []
                signs += 1
            opcode = CONT if number else TEXT if is_text else BINARY
            last = number == len(pieces) - 1
            signs += not last
            data += client_frame(opcode, piece, fin=last, mask=draw(masks))
    return data, messages, pings, signs


def cut(data: bytes, where: list[int]) -> list[bytes]:
    """The pieces between these places; at least one, which may be empty."""
    edges = [0, *sorted(place % (len(data) + 1) for place in where), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(conversations(), places)
def test_any_split_gives_the_same_messages(
    conversation: tuple[bytes, list[tuple[bytes, bool]], list[bytes], int], where: list[int]
) -> None:
    """Fragments, control frames between them, reads of any size: whole messages, in order.

    Pings are answered in their order, the newest in any case (RFC 6455 §5.5.3).
    """
    data, messages, pings, signs = conversation
    peer = Peer()
    peer.send(*cut(data, where))
    assert peer.owner.messages == messages
    assert peer.owner.signs == signs
    left = iter(pings)
    assert all(pong in left for pong in peer.pongs)
    assert peer.pongs[-1:] == pings[-1:]
    assert not peer.socket.is_closing


@given(st.lists(conversations(), min_size=2, max_size=3), st.data())
def test_connections_that_share_parsers_do_not_mix(
    conversations: list[tuple[bytes, list[tuple[bytes, bool]], list[bytes], int]],
    data: st.DataObject,
) -> None:
    """However the reads of several connections alternate, each gets its own messages."""
    parsers = Parsers(1 << 20, spare=2)
    peers = [Peer(parsers) for _ in conversations]
    chunks = [cut(each[0], data.draw(places)) for each in conversations]
    while any(chunks):
        which = data.draw(st.sampled_from([at for at, each in enumerate(chunks) if each]))
        peers[which].send(chunks[which].pop(0))
    for peer, (_, messages, _, _) in zip(peers, conversations, strict=True):
        assert peer.owner.messages == messages
        assert not peer.socket.is_closing


@given(st.binary(max_size=200), places)
def test_garbage_ends_one_connection_in_order(data: bytes, where: list[int]) -> None:
    """Any bytes at all: messages, or one close frame with a code of the protocol, or nothing."""
    peer = Peer(max_size=100)
    peer.send(*cut(data, where))
    assert len(peer.closes) <= 1
    for message, is_text in peer.owner.messages:
        assert not is_text or message.decode() is not None
    if peer.transport.closed or peer.transport.ended:
        assert peer.socket.is_closing
    peer.lose()
    assert peer.owner.told.count("lost") == 1
    other = Peer()
    other.send(client_frame(TEXT, b"fine"))
    assert other.owner.messages == [(b"fine", True)]
