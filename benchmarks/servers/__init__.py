"""Programs that the benchmark runs as servers."""
