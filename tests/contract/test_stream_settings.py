"""The stream that the bridge makes is as the settings say; one that is there is left as it is."""

from __future__ import annotations

import re

import nats
from nats.js.api import StreamConfig

from tests.support.bridge import BridgeProcess, StartBridge

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
