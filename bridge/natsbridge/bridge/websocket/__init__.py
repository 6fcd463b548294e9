"""WebSocket connections: the upgrade, the hand-over, and the lean protocol object afterwards.

Knows nothing of NATS: what a client sends goes to a
:class:`~natsbridge.bridge.websocket.socket.Receiver`.
"""
