"""The bridge: WebSocket clients on one side, NATS on the other.

``app.py`` composes the parts and is the only file that knows them all. ``docs/architecture.md``
has the map: what each file does, and how an event, a message, a connection travels through them.
"""
