"""Compiles the calls that `benchmarks.throughput` times, and tells how many units each does."""
