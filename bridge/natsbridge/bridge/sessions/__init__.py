"""Who is connected, and what they may and want to have: admission, session, messages, registry.

The way up: a message comes from the socket, ``handlers`` decides without I/O what is to be done,
and ``session`` does it.
"""
