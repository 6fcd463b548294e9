"""NATS: the connection, the bytes it brings, what is subscribed to, the stream, the other replicas.

Knows nothing of sockets or sessions: what arrives is handed to callables.
"""
