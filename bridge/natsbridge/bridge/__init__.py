"""The edge: WebSocket clients on one side, NATS on the other.

``app.py`` composes the parts and is the only file that knows them all. The way down is
``broker`` → ``delivery`` → ``sockets``, the way up ``sockets`` → ``sessions`` → ``broker``.
"""
