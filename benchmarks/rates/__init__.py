"""What `benchmarks.throughput` times: calls that are compiled, and how many units each does."""
