"""The process: its event loop, transports, memory and garbage collection, and its life."""
