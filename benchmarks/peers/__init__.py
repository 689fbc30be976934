"""Programs of others that `python -m benchmarks.throughput --peers` times beside ours.

A peer is one entry in `registry.PEERS` and one small program in `programs`. The program runs in an
environment of its own, which `python -m benchmarks.peers` makes, and speaks JSON lines: it reads
its settings, says that it is ready, and then answers every line with one timed repeat. So the
repeats of both sides can take turns, and a ratio is that of two neighbours.
"""
