"""The way down: an event is checked and framed once, offered to each receiver, written in batches.

Nothing here awaits, logs per event, or knows where events come from and what a socket is.
"""
