"""The SDK's settings: those of the bus, and what concerns publishing alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from natsbridge.schemas.bus import BusSettings


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
        description="largest event (bytes), 76 less where it is stored; "
        "the bridge has the same limit",
    )
    publish_deadline: float = Field(
        30.0,
        alias="BRIDGE_PUBLISH_DEADLINE",
        gt=0,
        # Each attempt has the same id, and the stream knows ids for 120 s.
        le=100,
        description="longest time that a durable event is tried before it is an error (seconds)",
    )
    spool: Path | None = Field(
        None,
        alias="BRIDGE_SPOOL",
        description="file that keeps durable events until the stream has them; one process each",
    )
    spool_max_events: int = Field(
        100_000,
        alias="BRIDGE_SPOOL_MAX_EVENTS",
        ge=1,
        le=10_000_000,
        description="most events in the spool; over it publishing is an error",
    )
    spool_max_bytes: int = Field(
        256 * 1024 * 1024,
        alias="BRIDGE_SPOOL_MAX_BYTES",
        ge=64 * 1024,
        description="most bytes of events in the spool; over it publishing is an error",
    )

    @model_validator(mode="after")
    def _spool(self) -> Self:
        if self.spool is None:
            return self
        if self.without_stream == "live":
            # What the spool has kept would then be sent at most once.
            raise ValueError(
                "BRIDGE_SPOOL and BRIDGE_PUBLISH_WITHOUT_STREAM=live exclude each other"
            )
        if self.spool_max_bytes < 2 * self.max_message_size:
            raise ValueError("BRIDGE_SPOOL_MAX_BYTES has room for two of BRIDGE_MAX_MESSAGE_SIZE")
        return self
