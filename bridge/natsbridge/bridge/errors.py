"""The exceptions of the bridge.

::

    BridgeError
    ├── TokenError              the peer's token is refused; ``reason`` says why, never the token
    ├── TicketError             the ticket is unknown, used or expired
    ├── BrokerError             NATS did not do what was asked
    │   ├── BucketFull          as many values as a bucket may hold are in it
    │   ├── BrokerUnavailable   no connection, no answer in time, or what was read is gone again
    │   └── IngestError         NATS sent bytes that are no protocol (also nats-py's ProtocolError)
    └── StartError              the bridge can't start; told in one plain line
"""

from __future__ import annotations


class BridgeError(Exception):
    """Root of what the bridge raises itself."""


class TokenError(BridgeError):
    """A token that is refused. ``expired`` tells a token that was good once from the others."""

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expired = expired


class TicketError(BridgeError):
    """A ticket that is unknown, was used, or is too old."""


class BrokerError(BridgeError):
    """NATS did not do what was asked of it."""


class BucketFull(BrokerError):
    """A bucket holds as many values as it may; none of them was dropped for a new one."""


class BrokerUnavailable(BrokerError):
    """There is no connection to NATS, no answer within the time allowed, or what was being read is
    not there any more: what was asked for may be asked for again.
    """


class StartError(BridgeError):
    """The bridge can't start, for a reason that its owner can mend."""
