"""The peers: each file says how one is started and how its clients introduce themselves."""

from __future__ import annotations

from benchmarks.peers import bridge, floor, nats_websocket, programs
from benchmarks.peers.base import Peer

ALL: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        bridge.BRIDGE,
        floor.Floor(),
        nats_websocket.NatsWebSocket(),
        programs.UWS,
        programs.WS,
        programs.BROADCAST,
        programs.SEED,
        programs.SOCKETIO,
        bridge.LIVE,
        bridge.STOCK,
        bridge.OTHER,
    )
}
