"""Prunes step by step and counts how often and by how much each bound rises."""
