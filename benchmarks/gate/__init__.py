"""Compares a run with a baseline and fails if a curve got worse."""
