"""What the bridge says of itself: logs now."""
