"""The publisher against a cluster of three brokers that loses the leader of its stream."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext

from natsbridge.publishers import EventPublisher, PublisherSettings, UploadEvents
from tests.support.cluster import Cluster, patiently

DEADLINE = 60.0


async def replicated(jetstream: JetStreamContext) -> None:
    """Make the stream, as soon as the cluster has chosen who may."""
    await patiently(
        lambda: jetstream.add_stream(
            name="EVENTS", subjects=["events.>"], num_replicas=3, allow_direct=True
        )
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kept", [False, True], ids=["direct", "spool"])
async def test_the_election_of_a_leader_costs_no_event(
    cluster: Cluster, tmp_path: Path, kept: bool
) -> None:
    """The leader of the stream is killed while events are published: none is lost, none is there
    twice, and those from the spool are in order. Without a spool no publish fails either."""
    async with await nats.connect(cluster.urls) as admin:
        jetstream = admin.jetstream()
        await replicated(jetstream)
        values = {"url": cluster.urls, "timeout": 2.0, "publish_deadline": 60.0}
        if kept:
            values["spool"] = tmp_path / "s.db"
        async with EventPublisher(PublisherSettings.model_validate(values)) as publisher:
            uploads = UploadEvents(publisher)
            names = [f"e{number:04}" for number in range(400)]
            for number, name in enumerate(names):
                if number == 100:
                    leader = cluster.servers[await cluster.leader(jetstream, "EVENTS")]
                    await asyncio.to_thread(leader.stop, kill=True)
                await uploads.completed("u1", {}, to="42", event_id=name)
            if publisher.spool is not None:
                async with asyncio.timeout(DEADLINE):
                    await publisher.spool.emptied()
        info = await patiently(lambda: jetstream.stream_info("EVENTS"))
        stored = [
            await patiently(partial(jetstream.get_msg, "EVENTS", number))
            for number in range(1, info.state.last_seq + 1)
        ]
    assert [(message.headers or {})["Nats-Msg-Id"] for message in stored] == names
