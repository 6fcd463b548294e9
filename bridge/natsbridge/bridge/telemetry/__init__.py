"""What the bridge says of itself: counts, and log lines that stay few whatever peers do."""
