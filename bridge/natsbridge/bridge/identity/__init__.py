"""Who a client is and what it may do: tokens, keys, grants, tickets, revocations, origins.

Everything here is a plain decision on values that it is given. The one exception is
``keys.JwksKeys``, which fetches keys over HTTP in a thread of its own.
"""
