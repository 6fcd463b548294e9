"""What the bridge makes of a publisher's headers: the schema is compared and counted, the trace of
a sampled one goes into an envelope that has none.
"""

from __future__ import annotations

import json

import pytest

from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.subjects import Root
from tests.support.bus import to_user
from tests.support.republished import republished
from tests.unit.bridge.delivery.test_hub import Client, Scene, event

PROGRESS = to_user("42", "upload.progress", "u1")
COMPLETED = to_user("42", "upload.completed", "u1")
TRACE = f"00-{'a' * 32}-{'b' * 15}c-01"
ID = "Nats-Msg-Id: 01970e5e-7d9a-7c1f-b1a4-000000000000"


def block(*lines: str) -> bytes:
    """Return a header block of these lines."""
    return "".join(f"{line}\r\n" for line in ("NATS/1.0", *lines, "")).encode()


class OneUser(Scene):
    """A hub with one client of user 42."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Client()
        self.hub.hold_user("42").add(self.client.outbox)


@pytest.fixture
def scene() -> OneUser:
    """A new one for each test."""
    return OneUser()


def heard(scene: OneUser) -> dict[str, object]:
    """Return the one event that the client was sent, from behind its frame's head."""
    (written,) = scene.client.writes
    told: dict[str, object] = json.loads(written[written.index(b"{") :])
    return told


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TraceParent", "TRACEPARENT"])
@pytest.mark.parametrize("first", [True, False])
def test_a_sampled_trace_goes_into_the_envelope(scene: OneUser, name: str, first: bool) -> None:
    """However a carrier writes its name and wherever; ``tracestate`` does not."""
    lines = [f"{name}: {TRACE}", "tracestate: a=b", ID, "Bridge-Schema: upload.progress@1"]
    scene.publish(PROGRESS, headers=block(*(lines if first else reversed(lines))))
    assert heard(scene) == {**json.loads(event(PROGRESS)), "traceparent": TRACE}


def test_a_stored_event_has_its_trace_and_its_cursor(scene: OneUser) -> None:
    """Both are spliced in, and nothing else changes."""
    own = f"Traceparent:{TRACE}\r\n{ID}\r\n".encode()
    headers = republished(b"x.events.user.42.upload.completed.u1", 7, 0, own=own)
    scene.publish(COMPLETED, headers=headers, root=Root.STREAM)
    told = heard(scene)
    assert told.pop("cursor")
    assert told == {**json.loads(event(COMPLETED)), "traceparent": TRACE}


@pytest.mark.parametrize(
    "value",
    [
        TRACE[:-1] + "0",
        TRACE[:-1] + "2",
        TRACE.upper(),
        "ff" + TRACE[2:],
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        TRACE[:-1],
        TRACE + "1",
        TRACE.replace("a", '"', 1),
        "",
        "01",
    ],
)
@pytest.mark.parametrize("before", [[], [ID], [ID, "Bridge-Schema: upload.progress@1"]])
def test_what_is_no_sampled_trace_is_ignored(scene: OneUser, value: str, before: list[str]) -> None:
    """The event goes on as it is."""
    scene.publish(PROGRESS, headers=block(*before, f"traceparent: {value}"))
    assert heard(scene) == json.loads(event(PROGRESS))


@pytest.mark.parametrize("own", ['"traceparent":"00-mine"', '"traceparent" : null'])
def test_an_envelope_keeps_its_own_trace(scene: OneUser, own: str) -> None:
    """A null too: the field would be there twice."""
    text = event(PROGRESS)[:-1] + f", {own}}}".encode()
    scene.publish(PROGRESS, text, block(f"traceparent: {TRACE}"))
    (written,) = scene.client.writes
    assert written.endswith(text)


def test_a_trace_in_the_data_is_the_datas(scene: OneUser) -> None:
    """The word elsewhere in the event does not count, and blanks behind it do not matter."""
    text = event(PROGRESS, traceparent="mine") + b" \r\n"
    scene.publish(PROGRESS, text, block(f"traceparent: {TRACE}"))
    assert heard(scene) == {**json.loads(text), "traceparent": TRACE}


def test_what_is_no_event_is_refused_as_it_came(scene: OneUser) -> None:
    """A trace makes no JSON of what is none, and what goes back are the publisher's bytes."""
    for text in (b"", b"no", b'"}', b"{", b"[}", b"{}", b'{"traceparent"'):
        scene.publish(PROGRESS, text, block(f"traceparent: {TRACE}"))
    assert scene.client.writes == []
    assert [refused[2] for refused in scene.refused][-1] == b'{"traceparent"'
    assert len(scene.refused) == 7


@pytest.mark.parametrize(
    "value", ["upload.error@1", "upload.progres", "upload.Progress@1", "@1", "", "é@1"]
)
@pytest.mark.parametrize("name", ["Bridge-Schema", "bridge-schema"])
def test_a_schema_of_another_type_is_refused(scene: OneUser, name: str, value: str) -> None:
    """The header, the subject and the envelope name one type."""
    scene.publish(PROGRESS, headers=block(ID, f"{name}: {value}"))
    assert scene.client.writes == []
    assert scene.reasons == [RejectReason.TYPE_MISMATCH]
    assert scene.refused[0][3].field == "Bridge-Schema"


def test_versions_are_counted_and_bounded(scene: OneUser) -> None:
    """One sees who publishes what; invented versions do not grow the table."""
    lines = ["1", "1", "2", " 2", "x", "", "9" * 7, *map(str, range(10, 30))]
    for version in lines:
        scene.publish(PROGRESS, headers=block(ID, f"Bridge-Schema: upload.progress@{version}"))
    scene.publish(PROGRESS, headers=block("bridge-schema:upload.progress@1", ID))
    scene.publish(PROGRESS, headers=block(ID))
    scene.publish(PROGRESS)
    counts = {
        name.partition("@")[2]: count
        for name, count in scene.hub.schemas.counts.items()
        if name.startswith("upload.progress@")
    }
    assert counts["1"] == 3
    assert counts["2"] == 1
    assert counts["other"] > 3
    assert sum(counts.values()) == len(lines) + 1
    assert len(counts) <= 10
    assert scene.hub.counts.events == len(lines) + 3
