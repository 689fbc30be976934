"""Writes the report of a run, in words and pictures, from its tables alone."""
