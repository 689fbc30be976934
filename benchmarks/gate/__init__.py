"""Compares a run with a baseline, and fails where a curve got worse."""
