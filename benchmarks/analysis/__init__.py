"""Numbers from tables: curves, worst cases, bounds, metrics. No drawing, no files."""
