"""How much a client may do. Counted per process, in memory."""
