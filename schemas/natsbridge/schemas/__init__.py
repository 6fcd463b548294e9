"""What crosses the wire between services, NATS, the bridge and its clients.

This package knows pydantic only. It holds no I/O: a service, the bridge, a test and a tool read the
same subjects, envelopes, messages and code tables from here.
"""
