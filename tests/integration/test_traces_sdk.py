"""The SDK's spans, as a service's own exporter sends them to a receiver of OTLP."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import nats
import pytest

from tests.support.nats_server import EmbeddedNats, NatsServer, create_stream
from tests.support.traces import Span, publish, tap


def place(server: NatsServer) -> dict[str, str]:
    name = f"t{uuid4().hex[:12]}"
    return {
        "BRIDGE_NATS_URL": server.url,
        "BRIDGE_SUBJECT_PREFIX": name,
        "BRIDGE_STREAM": f"S{name}",
    }


async def stored(server: NatsServer, stream: str, sequence: int) -> tuple[dict[str, str], str]:
    """Return headers and the envelope's ``traceparent`` of a stored event."""
    connection = await nats.connect(server.url)
    try:
        message = await connection.jetstream().get_msg(stream, sequence)
    finally:
        await connection.close()
    assert message.data is not None
    return dict(message.headers or {}), json.loads(message.data).get("traceparent", "")


def context_of(span: Span) -> str:
    return f"00-{span.trace}-{span.id}-03"  # sampled, and of a random id


async def test_an_event_is_one_producer_span_whose_context_it_carries(
    nats_server: NatsServer,
) -> None:
    """Attributes by the messaging conventions; headers and envelope name the span itself."""
    where = place(nats_server)
    stream = where["BRIDGE_STREAM"]
    await create_stream(nats_server.url, name=stream, prefix=where["BRIDGE_SUBJECT_PREFIX"])
    async with tap() as heard:
        told = await publish("1", "upload.completed", "42", "43", **where, **heard.environment)
        spans = await heard.count("send upload.completed", 2)
    assert len(heard.spans) == 2
    by_id = {span.attributes["messaging.message.id"]: span for span in spans}
    for receipt in told:
        span = by_id[receipt["id"]]
        sequence = receipt["sequence"]
        assert isinstance(sequence, int)
        headers, in_envelope = await stored(nats_server, stream, sequence)
        assert headers["traceparent"] == in_envelope == context_of(span)
        assert (span.kind, span.parent, span.error) == ("PRODUCER", "", False)
        size = span.attributes.pop("messaging.message.body.size")
        assert size > 100
        assert span.attributes == {
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.destination.template": (
                f"{where['BRIDGE_SUBJECT_PREFIX']}.events.user.{{user}}.upload.completed.{{resource}}"
            ),
            "messaging.message.id": receipt["id"],
            "natsbridge.attempts": 1,
            "natsbridge.stream.name": stream,
            "natsbridge.stream.sequence": sequence,
            "natsbridge.duplicate": False,
        }


async def test_a_trace_that_is_not_sampled_stays_out_of_the_envelope(
    nats_server: NatsServer,
) -> None:
    """Its header still says so, that others do not sample it either; no span is sent."""
    where = place(nats_server)
    stream = where["BRIDGE_STREAM"]
    await create_stream(nats_server.url, name=stream, prefix=where["BRIDGE_SUBJECT_PREFIX"])
    async with tap() as heard:
        sampler = {"OTEL_TRACES_SAMPLER": "always_off"}
        await publish("1", "upload.completed", "42", **where, **heard.environment | sampler)
        assert heard.spans == []
    headers, in_envelope = await stored(nats_server, stream, 1)
    assert headers["traceparent"].endswith("-02")  # of a random id, not sampled
    assert in_envelope == ""


async def test_each_retry_is_an_event_of_the_span_and_a_failure_its_error(
    nats_server: NatsServer,
) -> None:
    """A stream that is missing is tried again until the deadline."""
    where = place(nats_server) | {"BRIDGE_PUBLISH_DEADLINE": "0.5"}
    async with tap() as heard:
        with pytest.raises(AssertionError, match="StreamMissing"):
            await publish("1", "upload.completed", "42", **where, **heard.environment)
        [span] = await heard.count("send upload.completed", 1)
    assert span.error
    assert span.attributes["error.type"] == "StreamMissing"
    assert set(span.events) == {"retry"}


async def test_a_spooled_event_is_two_traces_that_are_linked(
    own_nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """``send`` ends with the event on the disk; its forwarding is a trace of its own."""
    where = place(own_nats_server) | {"BRIDGE_SPOOL": str(tmp_path / "spool.db")}
    stream = where["BRIDGE_STREAM"]
    await create_stream(own_nats_server.url, name=stream, prefix=where["BRIDGE_SUBJECT_PREFIX"])
    async with tap() as heard:
        await publish("20", "upload.completed", "42", **where, **heard.environment)
        forwards = await heard.count("forward upload.completed", 20)
        sends = await heard.count("send upload.completed", 20)
    by_context = {(span.trace, span.id): span for span in sends}
    for forward in forwards:
        [link] = forward.links
        send = by_context.pop(link)
        assert forward.kind == "PRODUCER"
        assert forward.parent == ""
        assert forward.trace != send.trace
        for name in ("messaging.message.id", "messaging.destination.template"):
            assert forward.attributes[name] == send.attributes[name]
        assert send.attributes["natsbridge.spooled"] is True
        assert forward.attributes["natsbridge.stream.sequence"] >= 1
    assert not by_context
