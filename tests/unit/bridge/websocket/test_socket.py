"""One connection after its upgrade: messages, control frames, both closes, and what is broken."""

from __future__ import annotations

import pytest

from natsbridge.bridge.websocket.closing import CLOSE_TIMEOUT, LAST_SECOND, MAX_DISCARDED, QUIET
from natsbridge.bridge.websocket.parsers import Parsers
from natsbridge.schemas.codes import GOING_AWAY, RECONNECT
from tests.support.scripted_peer import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Owner,
    Peer,
    client_frame,
    close_payload,
)


@pytest.fixture
def peer() -> Peer:
    """A connection with a cap of 1,000 bytes a message."""
    return Peer(max_size=1000)


class TestMessages:
    """Whole messages, whatever they come in."""

    def test_text_and_binary(self, peer: Peer) -> None:
        """The owner is told which it was; an empty message is a message."""
        peer.send(client_frame(TEXT, b"a"), client_frame(BINARY, b"\xff"), client_frame(TEXT))
        assert peer.owner.messages == [(b"a", True), (b"\xff", False), (b"", True)]

    def test_a_character_may_be_split_over_fragments(self, peer: Peer) -> None:
        """UTF-8 is judged on the whole message, not on its pieces."""
        text = "aé€😀".encode()
        for at in range(len(text) + 1):
            peer.send(client_frame(TEXT, text[:at], fin=False), client_frame(CONT, text[at:]))
        assert peer.owner.messages == [(text, True)] * (len(text) + 1)

    def test_control_frames_between_fragments(self, peer: Peer) -> None:
        """A ping amid a message is answered at once, and the message stays whole."""
        peer.send(client_frame(TEXT, b"a", fin=False), client_frame(PING, b"p"))
        assert peer.pongs == [b"p"]
        peer.send(client_frame(PONG), client_frame(CONT, b"b", fin=False))
        peer.send(client_frame(CONT, b"c"))
        assert peer.owner.messages == [(b"abc", True)]

    def test_every_frame_is_a_sign_of_life(self, peer: Peer) -> None:
        """A peer in the middle of a long message is there, as is one that pings or answers."""
        peer.send(client_frame(TEXT, b"a", fin=False), client_frame(CONT, b"b", fin=False))
        assert peer.owner.signs == 2
        peer.send(client_frame(PING), client_frame(PONG))
        assert peer.owner.signs == 4

    @pytest.mark.parametrize("size", [0, 125, 126, 500])
    def test_a_parser_goes_back_between_frames_only(self, size: int) -> None:
        """A frame cut at any of its bytes keeps its parser: another connection can't get it."""
        frame = client_frame(TEXT, b"x" * size)
        for at in range(1, len(frame)):
            parsers = Parsers(1000)
            one, other = Peer(parsers), Peer(parsers)
            one.send(frame[:at])
            other.send(client_frame(TEXT, b"whole"))
            one.send(frame[at:])
            assert one.owner.messages == [(b"x" * size, True)], at
            assert other.owner.messages == [(b"whole", True)], at

    def test_a_parser_stays_between_the_fragments_of_a_message(self) -> None:
        """What counts the size of a message so far is not lent to another connection."""
        parsers = Parsers(1000)
        one, other = Peer(parsers), Peer(parsers)
        one.send(client_frame(TEXT, b"x" * 900, fin=False))
        other.send(client_frame(TEXT, b"y" * 900))
        assert other.owner.messages == [(b"y" * 900, True)]
        one.send(client_frame(CONT, b"x" * 200))
        assert one.closes == [(1009, "MESSAGE_TOO_BIG")]

    def test_an_idle_connection_has_no_parser(self) -> None:
        """One parser serves any number of connections that send whole frames in turn."""
        parsers = Parsers(1000)
        first = parsers.take()
        assert parsers.give_back(first)
        peers = [Peer(parsers) for _ in range(3)]
        for peer in peers:
            peer.send(client_frame(TEXT, b"a"))
        assert parsers.take() is first

    def test_nothing_is_handed_on_before_there_is_an_owner(self) -> None:
        """``hold`` stops the reading, ``start`` goes on with it."""
        peer = Peer()
        peer.socket.hold()
        assert not peer.transport.reading
        peer.socket.start(peer.owner)
        assert peer.transport.reading


MANY = [(b"%d" % number, True) for number in range(5_000)]
MANY_FRAMES = b"".join(client_frame(TEXT, data) for data, _ in MANY)
"""Many messages, and the bytes that they come in."""


class TestTurns:
    """A read that is large is taken in slices, so that other connections get their turn."""

    def test_others_get_their_turn(self, peer: Peer) -> None:
        """Not all of it is handled at once, and nothing more is read until it is."""
        peer.socket.data_received(MANY_FRAMES)
        assert len(peer.owner.messages) < 2_000
        assert not peer.transport.reading
        peer.loop.run()
        assert peer.owner.messages == MANY
        assert peer.transport.reading

    def test_the_order_is_kept(self, peer: Peer) -> None:
        """What comes in while a slice waits is handled behind it."""
        half = len(MANY_FRAMES) // 2
        peer.socket.data_received(MANY_FRAMES[:half])
        peer.socket.data_received(MANY_FRAMES[half:])
        peer.loop.run()
        assert peer.owner.messages == MANY

    def test_what_waits_is_held_too(self, peer: Peer) -> None:
        """An owner that holds amid a large read gets the rest after its start, in order."""

        class Holding(Owner):
            def on_message(self, data: bytes, is_text: bool) -> None:
                super().on_message(data, is_text)
                if data == b"10":
                    peer.socket.hold()

        owner = Holding()
        peer.socket.start(owner)
        peer.socket.data_received(MANY_FRAMES)
        peer.loop.run()
        seen = len(owner.messages)
        assert seen < 2_500
        assert not peer.transport.reading
        peer.socket.start(owner)
        assert len(owner.messages) == seen
        peer.loop.run()
        assert owner.messages == MANY
        assert peer.transport.reading

    def test_a_close_drops_what_waits(self, peer: Peer) -> None:
        """After our close frame the rest is read for the peer's close only."""
        peer.socket.data_received(MANY_FRAMES + client_frame(CLOSE, close_payload(1001)))
        seen = len(peer.owner.messages)
        peer.socket.close(GOING_AWAY)
        peer.loop.run()
        assert len(peer.owner.messages) == seen
        assert peer.transport.closed
        assert peer.closes == [(1001, "GOING_AWAY")]

    def test_a_lost_connection_drops_what_waits(self, peer: Peer) -> None:
        """Nothing is handed to an owner that was told that it is over."""
        peer.socket.data_received(MANY_FRAMES)
        seen = len(peer.owner.messages)
        peer.lose()
        peer.loop.run()
        assert len(peer.owner.messages) == seen
        assert peer.owner.told == ["lost"]


class TestSizes:
    """The hard cap."""

    def test_the_cap_itself_fits(self, peer: Peer) -> None:
        """A message of exactly the cap is read, in one piece or in several."""
        peer.send(client_frame(TEXT, b"x" * 1000))
        peer.send(client_frame(TEXT, b"x" * 500, fin=False), client_frame(CONT, b"x" * 500))
        assert [len(data) for data, _ in peer.owner.messages] == [1000, 1000]

    @pytest.mark.parametrize(
        "frames",
        [
            [client_frame(TEXT, b"x" * 1001)],
            [client_frame(TEXT, b"x" * 1001)[:4]],
            [client_frame(TEXT, b"x" * 70_000)[:10]],
            [client_frame(TEXT, b"x" * 600, fin=False), client_frame(CONT, b"x" * 401)],
            [b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff"],
        ],
        ids=["whole", "announced", "announced long", "fragments", "2^63 announced"],
    )
    def test_over_the_cap_is_1009(self, peer: Peer, frames: list[bytes]) -> None:
        """It is told from the length alone, before the payload is there."""
        peer.send(*frames)
        assert peer.closes == [(1009, "MESSAGE_TOO_BIG")]
        assert peer.owner.messages == []


class TestBroken:
    """Frames that can't be: a close with the protocol's code, and nothing after it is read."""

    @pytest.mark.parametrize(
        "data",
        [
            client_frame(TEXT, b"a", mask=None),
            client_frame(TEXT, b"a", bits=0x40),
            client_frame(TEXT, b"a", bits=0x10),
            client_frame(0x3, b"a"),
            client_frame(0xB, b"a"),
            client_frame(CONT, b"a"),
            client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"),
            client_frame(PING, b"x" * 126),
            client_frame(PING, b"a", fin=False),
            client_frame(CLOSE, b"\x03"),
            client_frame(CLOSE, close_payload(999)),
            client_frame(CLOSE, close_payload(1005)),
            client_frame(CLOSE, close_payload(1016)),
        ],
        ids=[
            "unmasked", "compressed", "reserved bit", "reserved data opcode",
            "reserved control opcode", "continuation of nothing", "message in a message",
            "long ping", "fragmented ping", "half a code", "code 999", "code 1005", "code 1016",
        ],
    )  # fmt: skip
    def test_a_protocol_error_is_1002(self, peer: Peer, data: bytes) -> None:
        """One close frame, the sending side ended, what follows ignored."""
        peer.send(data, client_frame(TEXT, b"after"), b"\xff" * 50)
        assert [code for code, _ in peer.closes] == [1002]
        assert peer.owner.messages == []
        assert peer.transport.ended
        assert not peer.transport.closed  # which could take the close frame with it
        assert peer.socket.is_closing

    @pytest.mark.parametrize(
        "frames",
        [
            [client_frame(TEXT, b"\xff")],
            [client_frame(TEXT, b"\xc3")],
            [client_frame(TEXT, b"\xed\xa0\x80")],
            [client_frame(TEXT, b"ok\xc3", fin=False), client_frame(CONT, b"x")],
            [client_frame(CLOSE, close_payload(1000) + b"\xff")],
        ],
        ids=["byte", "cut", "surrogate", "fragments", "reason"],
    )
    def test_invalid_utf8_is_1007(self, peer: Peer, frames: list[bytes]) -> None:
        """In a message and in the reason of a close."""
        peer.send(*frames, client_frame(TEXT, b"after"))
        assert peer.closes == [(1007, "INVALID_UTF8")]
        assert peer.owner.messages == []

    def test_its_owner_is_told_at_once(self, peer: Peer) -> None:
        """The sending side has ended: an owner that went on writing would fail."""
        peer.send(client_frame(0x3, b""))
        assert peer.owner.told == ["lost"]

    def test_messages_before_what_is_broken_count(self, peer: Peer) -> None:
        """What came whole in the same read was handed on before."""
        peer.send(client_frame(TEXT, b"a") + client_frame(0x3, b"b"))
        assert peer.owner.messages == [(b"a", True)]

    def test_a_transport_that_has_no_half_close(self) -> None:
        """Over TLS, where one side can't be ended alone, the transport closes when nothing more
        comes: before that a peer that is still sending would never read the close frame.
        """
        peer = Peer(eof=False)
        peer.send(client_frame(0x3, b""))
        assert [code for code, _ in peer.closes] == [1002]
        peer.loop.advance(QUIET - 0.1)
        peer.send(b"more")
        peer.loop.advance(QUIET)
        assert not peer.transport.closed
        peer.loop.advance(QUIET)
        assert peer.transport.closed
        assert not peer.transport.aborted

    @pytest.mark.parametrize("eof", [True, False])
    def test_a_peer_that_never_leaves_is_cut(self, eof: bool) -> None:
        """A second before the time allowed is over it is closed, then without another byte."""
        peer = Peer(eof=eof)
        peer.send(client_frame(0x3, b""))
        while peer.loop.now < CLOSE_TIMEOUT - LAST_SECOND - 0.5:
            peer.loop.advance(QUIET / 2)
            peer.send(b"on and on")
            assert not peer.transport.closed
        peer.loop.advance(1)
        assert peer.transport.closed
        assert not peer.transport.aborted
        peer.loop.advance(LAST_SECOND)
        assert peer.transport.aborted


class TestStillSending:
    """A peer that goes on sending after our close frame: it must not meet a reset."""

    @pytest.mark.parametrize("step", [1, 7, 500, 8192])
    def test_the_rest_of_what_was_too_big(self, peer: Peer, step: int) -> None:
        """It is read to its end and to the peer's close behind it, and nothing of it is kept."""
        data = client_frame(TEXT, b"\x88\x80" * 3000) + client_frame(PING, b"p")
        answer = client_frame(CLOSE, close_payload(1009))
        for at in range(0, len(data), step):
            peer.send(data[at : at + step])
        peer.send(answer[:-1])
        assert peer.closes == [(1009, "MESSAGE_TOO_BIG")]
        assert not peer.transport.closed
        assert not peer.transport.ended
        peer.send(answer[-1:])
        assert peer.transport.closed
        assert peer.pongs == []

    def test_a_close_that_was_sent_along(self, peer: Peer) -> None:
        """In the same read as the message that is too big."""
        peer.send(client_frame(TEXT, b"x" * 1001) + client_frame(CLOSE, close_payload(1000)))
        assert peer.closes == [(1009, "MESSAGE_TOO_BIG")]
        assert peer.transport.closed

    def test_a_message_in_the_middle_of_which_we_close(self, peer: Peer) -> None:
        """Its rest is read as the frame that it is, then what follows for a close alone."""
        data = client_frame(TEXT, b"x" * 900)
        peer.send(data[:100])
        peer.socket.close(GOING_AWAY)
        peer.send(data[100:], client_frame(TEXT, b"x" * 5000), client_frame(CLOSE))
        assert peer.closes == [(1001, "GOING_AWAY")]
        assert peer.owner.messages == []
        assert peer.transport.closed

    def test_one_too_big_after_our_close(self, peer: Peer) -> None:
        """There is one close frame, and it arrives: the transport waits for the peer's."""
        peer.send(client_frame(TEXT, b"half", fin=False))
        peer.socket.close(GOING_AWAY)
        data = client_frame(CONT, b"x" * 5000)
        peer.send(data[:2000])
        assert not peer.transport.closed
        peer.send(data[2000:], client_frame(CLOSE))
        assert peer.closes == [(1001, "GOING_AWAY")]
        assert peer.transport.closed

    def test_invalid_utf8_with_more_behind_it(self, peer: Peer) -> None:
        """Its end is known, so the peer's close is found."""
        peer.send(client_frame(TEXT, b"\xff") + client_frame(TEXT, b"more"))
        assert not peer.transport.closed
        peer.send(client_frame(CLOSE))
        assert peer.closes == [(1007, "INVALID_UTF8")]
        assert peer.transport.closed

    @pytest.mark.parametrize("data", [client_frame(TEXT, b"x" * 2000), b"\x83\x80" + bytes(4)])
    def test_it_has_a_bound(self, peer: Peer, data: bytes) -> None:
        """After so many bytes the connection is closed, whatever may follow."""
        peer.send(data)
        piece = client_frame(TEXT, b"x" * 65_000)
        sent = 0
        while sent + len(piece) < MAX_DISCARDED:
            peer.send(piece)
            sent += len(piece)
        assert not peer.transport.closed
        peer.send(piece)
        assert peer.transport.closed


class TestClosing:
    """The close handshake, begun by either side."""

    @pytest.mark.parametrize(
        ("payload", "answered"),
        [
            (close_payload(1000, "bye"), (1000, "bye")),
            (close_payload(4999), (4999, "")),
            (b"", (1005, "")),
        ],
    )
    def test_the_peers_close_is_echoed(
        self, peer: Peer, payload: bytes, answered: tuple[int, str]
    ) -> None:
        """Its code comes back, and the transport is closed."""
        peer.send(client_frame(CLOSE, payload))
        assert peer.closes == [answered]
        assert peer.transport.closed
        assert peer.socket.is_closing

    def test_what_follows_the_peers_close_is_ignored(self, peer: Peer) -> None:
        """In the same read: neither messages nor garbage after a close mean anything."""
        after = client_frame(TEXT, b"late") + b"\xff" * 10
        peer.send(client_frame(TEXT, b"a") + client_frame(CLOSE, close_payload(1000)) + after)
        assert peer.owner.messages == [(b"a", True)]
        assert peer.closes == [(1000, "")]

    def test_a_close_amid_a_message(self, peer: Peer) -> None:
        """The half message is dropped, the close is answered."""
        peer.send(client_frame(TEXT, b"half", fin=False), client_frame(CLOSE, close_payload(1001)))
        assert peer.closes == [(1001, "")]
        assert peer.owner.messages == []
        assert peer.transport.closed

    def test_our_close_waits_for_the_peers(self, peer: Peer) -> None:
        """One close frame with code and name; the transport closes when the answer is there."""
        peer.socket.close(GOING_AWAY)
        peer.socket.close(RECONNECT)
        assert peer.closes == [(1001, "GOING_AWAY")]
        assert not peer.transport.closed
        peer.send(client_frame(CLOSE, close_payload(1001)))
        assert peer.transport.closed
        assert peer.closes == [(1001, "GOING_AWAY")]

    def test_after_our_close_nothing_is_handed_on(self, peer: Peer) -> None:
        """Messages and pings that were on their way are read and dropped."""
        peer.socket.close(GOING_AWAY)
        peer.send(client_frame(TEXT, b"late"), client_frame(PING, b"p"))
        assert peer.owner.messages == []
        assert peer.pongs == []

    def test_nothing_is_written_behind_a_close_frame(self, peer: Peer) -> None:
        """A pong that waited until the transport had room, or a ping, may not follow the close."""
        peer.socket.pause_writing()
        peer.send(client_frame(PING, b"p"), b"\xff" * 10)
        assert [code for code, _ in peer.closes] == [1002]
        written = peer.transport.written
        peer.socket.resume_writing()
        peer.socket.ping()
        peer.socket.put()
        assert peer.transport.written == written

    def test_garbage_after_our_close(self, peer: Peer) -> None:
        """No second close frame; the transport closes when nothing more comes."""
        peer.socket.close(GOING_AWAY)
        peer.send(client_frame(0x3, b""), b"\xff" * 10)
        assert peer.closes == [(1001, "GOING_AWAY")]
        peer.loop.advance(CLOSE_TIMEOUT - LAST_SECOND)
        assert peer.transport.closed

    def test_a_peer_that_does_not_answer_our_close_is_cut(self, peer: Peer) -> None:
        """The wait has an end."""
        peer.socket.close(GOING_AWAY)
        peer.loop.advance(CLOSE_TIMEOUT)
        assert peer.transport.aborted

    def test_the_timer_ends_with_the_connection(self, peer: Peer) -> None:
        """A connection that went in time is not cut afterwards."""
        peer.socket.close(GOING_AWAY)
        peer.lose()
        peer.loop.advance(CLOSE_TIMEOUT)
        assert not peer.transport.aborted

    def test_a_held_connection_hears_the_peers_close(self, peer: Peer) -> None:
        """Closing goes on reading, else the answer would never be seen."""
        peer.socket.hold()
        peer.socket.close(GOING_AWAY)
        assert peer.transport.reading

    def test_a_close_from_inside_a_message(self) -> None:
        """An owner that closes on a message gets no other one of the same read."""
        peer = Peer()

        class Closing(Owner):
            def on_message(self, data: bytes, is_text: bool) -> None:
                super().on_message(data, is_text)
                peer.socket.close(RECONNECT)

        owner = Closing()
        peer.socket.start(owner)
        peer.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2"))
        assert owner.messages == [(b"1", True)]
        assert peer.closes == [(4003, "RECONNECT")]

    def test_the_owner_is_told_once_that_it_is_over(self, peer: Peer) -> None:
        """As soon as nothing more may be sent, and not again, however often the loop says so."""
        over: list[str] = []
        peer.socket.when_lost(lambda: over.append("then"))
        peer.send(client_frame(CLOSE))
        assert (peer.owner.told, over) == (["lost"], [])
        peer.lose()
        peer.lose()
        assert (peer.owner.told, over) == (["lost"], ["then"])
        peer.socket.when_lost(lambda: over.append("at once"))
        assert over == ["then", "at once"]

    def test_a_connection_that_breaks_is_over_for_its_owner(self, peer: Peer) -> None:
        """Without any close frame the owner hears of it from the transport."""
        peer.lose()
        assert peer.owner.told == ["lost"]
        assert peer.closes == []

    def test_an_owner_that_comes_too_late_is_told(self) -> None:
        """A connection that is gone before it has an owner says so to the one it gets."""
        peer = Peer()
        peer.transport.close()
        late = Owner()
        peer.socket.start(late)
        assert late.told == []
        peer.loop.run()
        assert late.told == ["lost"]

    def test_the_end_of_the_peers_stream_closes(self, peer: Peer) -> None:
        """Without a close frame there is nothing to wait for: the transport may close itself."""
        assert not peer.socket.eof_received()

    def test_cutting(self, peer: Peer) -> None:
        """``abort`` writes nothing."""
        peer.socket.abort()
        assert peer.transport.aborted
        assert peer.transport.written == b""


class TestFullBuffer:
    """A peer that does not read."""

    def test_only_the_newest_ping_is_answered_afterwards(self, peer: Peer) -> None:
        """Pongs don't pile up: one goes out when the transport takes bytes again."""
        peer.socket.pause_writing()
        assert peer.socket.paused
        peer.send(*(client_frame(PING, b"%d" % number) for number in range(50)))
        assert peer.transport.written == b""
        peer.socket.resume_writing()
        assert peer.pongs == [b"49"]
        peer.socket.pause_writing()
        peer.socket.resume_writing()
        assert peer.pongs == [b"49"]

    def test_the_owner_is_told_of_both(self, peer: Peer) -> None:
        """So that what it has waits in its own bounded outbox."""
        peer.socket.pause_writing()
        peer.socket.resume_writing()
        assert peer.owner.told == ["pause", "resume"]
        assert not peer.socket.paused

    def test_pings_count_as_life_all_the_same(self, peer: Peer) -> None:
        """A peer that only pings is there."""
        peer.socket.pause_writing()
        peer.send(client_frame(PING), client_frame(PONG))
        assert peer.owner.signs == 2

    def test_nothing_is_written_behind_a_close_frame_that_fills_it(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The owner would write what it has when it is told to pause: it hears only of the end."""
        write = peer.transport.write

        def fill(data: bytes) -> None:
            write(data)
            peer.socket.pause_writing()

        monkeypatch.setattr(peer.transport, "write", fill)
        peer.send(client_frame(CLOSE, close_payload(1000)))
        assert peer.transport.frames == [(CLOSE, close_payload(1000))]
        assert peer.owner.told == ["lost"]
