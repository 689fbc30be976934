"""Keeps a run alive: atomic files, checkpoints, run folder, compilation, signals, console."""
