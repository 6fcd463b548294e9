"""What stands behind the command line: one file a command, and what they share in ``terminal``."""
