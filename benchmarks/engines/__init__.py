"""Computes the blocks of an experiment: this process, or the tasks of a cluster."""
