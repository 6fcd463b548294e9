"""What goes back to NATS of a rejected event, how much of it, and what the log says."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from natsbridge.bridge.nats.rejects import BURST, MAX_HEADERS, MAX_RATE, MAX_UNSENT, Rejects
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.errors import EventError
from natsbridge.schemas.subjects import Subjects

ERROR = EventError(RejectReason.INVALID_DATA, "Field required", "data.progress")
SUBJECT = b"p.live.service.user.42.upload.progress.u1"
PAYLOAD = b'{"type":"upload.progress","source":"uploads","data":{"secret":"s"'


class Wire:
    """Stands for the connection to NATS."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.unsent = 0

    def send(self, subject: str, head: bytes, payload: bytes) -> None:
        self.sent.append((subject, head, payload))


class Scene:
    """Rejects on a wire, at a time of its own."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.now = 100.0
        wire: Any = self.wire
        self.rejects = Rejects(wire, Subjects("p"), lambda: self.now)

    def reject(
        self, headers: bytes = b"", payload: bytes = PAYLOAD, subject: bytes = SUBJECT
    ) -> None:
        self.rejects.publish(subject, headers, payload, ERROR)

    def lines(self, headers: bytes) -> list[bytes]:
        """Return the header lines of an event with these, but for the reason and the detail."""
        self.reject(headers)
        head = self.wire.sent[-1][1]
        assert head.startswith(b"NATS/1.0\r\nBridge-Reject-Reason: INVALID_DATA\r\n")
        assert head.endswith(b"\r\n\r\n")
        return head[:-4].split(b"\r\n")[3:]


def test_it_goes_back_with_its_reason_and_its_headers() -> None:
    """Under its subject below the root, its bytes as they were; what NATS acts on is renamed."""
    scene = Scene()
    headers = (
        b"NATS/1.0\r\nNats-Msg-Id: 1\r\ntraceparent: 00-a\r\nX-Mine: a: b\r\nX-Mine: c\r\n"
        b"NATS-TRACE-DEST: control.all\r\nnats-rollup:all\r\n\r\n"
    )
    assert scene.lines(headers) == [
        b"Rejected-Nats-Msg-Id: 1",
        b"traceparent: 00-a",
        b"X-Mine: a: b",
        b"X-Mine: c",
        b"Rejected-NATS-TRACE-DEST: control.all",
        b"Rejected-nats-rollup: all",
    ]
    subject, head, payload = scene.wire.sent[0]
    assert subject == "p.rejected.service.user.42.upload.progress.u1"
    assert b"\r\nBridge-Reject-Detail: data.progress: Field required\r\n" in head
    assert payload == PAYLOAD


@pytest.mark.parametrize(
    "line",
    [
        b" Nats-Trace-Dest: x",
        b"\tNats-Trace-Dest: x",
        b"X: a\nNats-Trace-Dest: x",
        b"X: a\rNats-Trace-Dest: x",
        b"X\n: a",
        b"X : a",
        b"no colon",
        b": no name",
        b"\xff: a",
        b"X: \x00",
        b"Bridge-Reject-Reason: FORGED",
        b"bridge-reject-detail: forged",
        b"x" * 200 + b": a",
    ],
)
def test_what_could_be_read_as_another_header_is_left_out(line: bytes) -> None:
    """Folded lines, bare line ends, names that are none, and the bridge's own words."""
    assert Scene().lines(b"NATS/1.0\r\nA: 1\r\n" + line + b"\r\nB: 2\r\n\r\n") == [
        b"A: 1",
        b"B: 2",
    ]


def test_headers_are_bounded() -> None:
    """The first whole lines of a block that is too long."""
    lines = Scene().lines(b"NATS/1.0\r\n" + b"X-Long: " + b"x" * 100 + b"\r\n" * 1)
    assert lines == [b"X-Long: " + b"x" * 100]
    many = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 100) for n in range(500))
    lines = Scene().lines(b"NATS/1.0\r\n" + many + b"\r\n")
    assert 0 < sum(map(len, lines)) <= MAX_HEADERS


def test_a_flood_is_published_in_part_and_counted() -> None:
    """So many at once, then so many a second; what is not published is told."""
    scene = Scene()
    for _ in range(5_000):
        scene.reject()
    burst = int(BURST * MAX_RATE)
    assert len(scene.wire.sent) == burst
    assert scene.rejects.unsent == 5_000 - burst
    scene.now += 1
    for _ in range(5_000):
        scene.reject()
    assert len(scene.wire.sent) == burst + MAX_RATE
    scene.now += 100
    for _ in range(100):
        scene.reject(payload=b"x" * 1_000_000)
    assert sum(len(payload) for _, _, payload in scene.wire.sent) < 12_000_000


def test_nothing_is_added_for_a_nats_that_does_not_read() -> None:
    """What waits for it in memory is bounded."""
    scene = Scene()
    scene.wire.unsent = MAX_UNSENT + 1
    scene.reject()
    assert scene.wire.sent == []
    assert scene.rejects.unsent == 1


def test_the_log_names_reason_type_and_source(caplog: pytest.LogCaptureFixture) -> None:
    """One line for many of a kind, no repr of an enum, and nothing of the data."""
    scene = Scene()
    for _ in range(50):
        scene.reject()
    scene.now += 11
    scene.rejects.tick()
    lines = [vars(each) for each in caplog.records]
    assert [each["levelno"] for each in lines] == [logging.WARNING] * 2
    for line in lines:
        assert (line["reason"], line["event_type"], line["source"], line["detail"]) == (
            "INVALID_DATA",
            "upload.progress",
            "uploads",
            "data.progress: Field required",
        )
        assert "secret" not in str(line)
        assert "RejectReason" not in str(line)
    assert lines[1]["count"] == 49


@pytest.mark.parametrize(
    ("subject", "target"),
    [
        (b"p.live.stream.topic.review.updated.7", "p.rejected.stream.topic.review.updated.7"),
        (b"p.live.service.all.x", "p.rejected.service.all.x"),
        (b"p.live.service.user.42.\xff.b.-", "p.rejected.service.user.42.=FF.b.-"),
        ("p.live.service.all.a.b.é *\t>".encode(), "p.rejected.service.all.a.b.=C3=A9=20=2A=09=3E"),
        (b"p.live.service.user." + b"x" * 2_000, "p.rejected.service.user." + "x" * 256),
        (b"p.live.service.user" + b".x" * 1_000, "p.rejected.service.user" + ".x" * 8),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"[]", b'{"source":5}', b"\xff" * 100_000])
def test_any_subject_and_payload_goes_back(subject: bytes, target: str, payload: bytes) -> None:
    """What can't be a subject goes to one of the same form; nothing raises."""
    scene = Scene()
    scene.reject(payload=payload, subject=subject)
    assert scene.wire.sent[0][0] == target
    assert scene.wire.sent[0][2] == payload
