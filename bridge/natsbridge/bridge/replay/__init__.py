"""What a client missed: read from the stream within its limits, and delivered in order."""
