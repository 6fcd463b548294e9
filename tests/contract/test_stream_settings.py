"""The stream that the bridge makes is as the settings say; one that is there is left as it is."""

from __future__ import annotations

import re

import nats
from nats.js.api import StreamConfig

from tests.support.bridge import BridgeProcess, StartBridge, settings_of
from tests.support.clients import http
from tests.support.nats_server import NatsServer, create_stream

SETTINGS = {
    "BRIDGE_STREAM_MAX_AGE": "3600",
    "BRIDGE_STREAM_MAX_BYTES": str(8 << 20),
    "BRIDGE_STREAM_MAX_PER_SUBJECT": "50",
}


async def config(bridge: BridgeProcess) -> StreamConfig:
    """Return how the bridge's stream is configured."""
    connection = await nats.connect(bridge.nats_url)
    try:
        info = await connection.jetstream().stream_info(bridge.settings["BRIDGE_STREAM"])
        return info.config
    finally:
        await connection.close()


async def test_a_stream_is_made_as_the_settings_say(start_bridge: StartBridge) -> None:
    """Age, size, number by subject, replicas."""
    made = await config(start_bridge(**SETTINGS))
    assert (made.max_age, made.max_bytes, made.max_msgs_per_subject) == (3600, 8 << 20, 50)
    assert made.num_replicas == 1
    assert made.allow_direct


async def test_a_stream_that_is_there_is_told_and_left(start_bridge: StartBridge) -> None:
    """A bridge with other settings changes nothing, and says in what the stream differs."""
    first = start_bridge(**SETTINGS)
    same = {name: first.settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")}
    second = start_bridge(**same, BRIDGE_STREAM_MAX_AGE="60")
    told = second.wait_for_line(re.compile(r"is not as the settings say.*: (.*)"), 10)[1]
    assert "max_age is 3600, not 60" in told
    assert "max_msgs_per_subject is 50, not -1" in told
    assert (await config(second)).max_age == 3600


async def test_a_stream_in_memory_is_told_and_used(
    nats_server: NatsServer, start_bridge: StartBridge
) -> None:
    """What its owner may choose is in the log, with what it costs, and events can be resumed."""
    settings = settings_of(nats_server.url)
    same = {name: settings[name] for name in ("BRIDGE_SUBJECT_PREFIX", "BRIDGE_STREAM")}
    await create_stream(
        nats_server.url, name=same["BRIDGE_STREAM"], prefix=same["BRIDGE_SUBJECT_PREFIX"]
    )
    bridge = start_bridge(**same)
    told = bridge.wait_for_line(re.compile(r"is not as the settings say.*: (.*)"), 10)[1]
    assert "storage is memory, not file (a restart of NATS loses what is stored)" in told
    async with http(bridge.url) as caller:
        assert (await caller.get("/readyz")).json()["checks"]["stream"] == "ok"


async def test_a_stream_that_cannot_be_made_is_told_in_the_words_of_jetstream(
    start_bridge: StartBridge,
) -> None:
    """With more replicas than there are servers, for one; the bridge runs, live only."""
    bridge = start_bridge(BRIDGE_STREAM_REPLICAS="3")
    async with http(bridge.url) as caller:
        told = (await caller.get("/readyz")).json()["checks"]["stream"]
    assert re.fullmatch(
        r"live only: it does not exist, and can't be made: replicas > 1 not supported.*", told
    )
