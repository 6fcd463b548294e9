"""The SDK's settings: those of the bus, and what concerns publishing alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.bus import BusSettings


class PublisherSettings(BusSettings):
    """How to reach NATS, and how to publish there."""

    without_stream: Literal["error", "live"] = Field(
        "error",
        alias="BRIDGE_PUBLISH_WITHOUT_STREAM",
        description="durable events on a broker that has no stream: "
        "`error` refuses them, `live` sends them unstored",
    )
    max_message_size: int = Field(
        64 * 1024,
        alias="BRIDGE_MAX_MESSAGE_SIZE",
        ge=1024,
        description="largest event (bytes); the bridge has the same limit",
    )
